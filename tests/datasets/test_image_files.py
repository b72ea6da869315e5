from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import iterate_batches, open_dataset
from quantkit.datasets.image_decoding import decode_pixels
from quantkit.datasets.image_files import ImageFiles, name_samples
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing, Sample, TensorSpec

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def read(path: Path, plain: Preprocessing) -> Sample:
    dataset = ImageFiles(
        kind="image list",
        paths=[path],
        ids=[path.name],
        targets=None,
        classes=(),
        input_name="image",
        preprocessing=plain,
    )
    return dataset[0]


def encode(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
def test_every_format_is_read(tmp_path: Path, plain: Preprocessing, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    NOISE.save(path, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as again:
        expected = np.asarray(again.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(read(path, plain).inputs["image"], expected)
    if suffix != "jpg":
        assert np.array_equal(expected, np.asarray(NOISE).transpose(2, 0, 1))


def test_first_frame_is_used(tmp_path: Path, plain: Preprocessing) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    for suffix in ("gif", "webp", "tiff"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        red = read(path, plain).inputs["image"]
        assert red[0].min() >= 250
        assert red[1].max() <= 5


def test_format_is_detected_by_content(tmp_path: Path, plain: Preprocessing) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(NOISE, "PNG"))
    assert read(path, plain).inputs["image"].shape == (3, 8, 8)


@pytest.mark.parametrize("image_format", ["TIFF", "PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_orientation_is_applied_once(
    tmp_path: Path, plain: Preprocessing, image_format: str, orientation: int
) -> None:
    # Four gray quarters; by hand: where the stored quarters (upper left, upper right, lower left, lower right) go.
    quarters = {
        1: (0, 1, 2, 3),
        2: (1, 0, 3, 2),
        3: (3, 2, 1, 0),
        4: (2, 3, 0, 1),
        5: (0, 2, 1, 3),
        6: (2, 0, 3, 1),
        7: (3, 1, 2, 0),
        8: (1, 3, 0, 2),
    }
    levels = np.array([0, 80, 160, 240])
    stored = np.kron(levels.reshape(2, 2), np.ones((16, 16))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    Image.fromarray(stored).convert("RGB").save(path, image_format, exif=exif)
    seen = read(path, plain).inputs["image"][1][1::4, 1::4]
    assert np.abs(seen - levels[list(quarters[orientation])].reshape(2, 2)).max() <= 4


def test_sixteen_bit_files_are_scaled(tmp_path: Path, plain: Preprocessing) -> None:
    for suffix in ("png", "tiff"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(np.full((8, 8), 257 * 200, np.uint16)).save(path)
        assert (read(path, plain).inputs["image"] == 200).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"^a\.jpg: the file is empty$"),
        (b"GIF? no", r"^a\.jpg: not an image \(BMP, GIF, JPEG, PNG, TIFF, WEBP.* are read\)$"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"^a\.jpg: a Git LFS pointer.*git lfs pull$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"^a\.jpg: not an image"),
        (encode(NOISE, "JPEG")[:-30], r"^a\.jpg: cannot be read \(.*truncated"),
        (encode(NOISE, "JPEG")[:100], r"^a\.jpg: cannot be read \(Truncated"),
        (encode(NOISE, "PNG")[:60], r"^a\.jpg: "),
        (encode(NOISE, "TIFF")[:40], r"^a\.jpg: "),
        (encode(NOISE, "WEBP")[:60], r"^a\.jpg: "),
        (encode(NOISE, "GIF")[:40], r"^a\.jpg: "),
        (encode(NOISE, "BMP")[:60], r"^a\.jpg: cannot be read \(.*truncated"),
        (png_of(60_000, 60_000), r"^a\.jpg: cannot be read \(.*decompression bomb"),
        (png_of(10_000, 10_000), r"^a\.jpg: cannot be read"),  # large enough for Pillow to warn
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path: Path, plain: Preprocessing, content: bytes, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DatasetError, match=words) as raised:
            read(path, plain)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_any_damage_is_read_or_a_dataset_error(tmp_path: Path, plain: Preprocessing) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "a"
    for image_format in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"):
        whole = encode(NOISE, image_format)
        for _ in range(60):
            broken = bytearray(whole)
            for place in rng.integers(0, len(broken), 4):
                broken[place] = rng.integers(256)
            path.write_bytes(broken)
            with suppress(DatasetError):
                read(path, plain)


def test_large_image_emits_no_warning(
    tmp_path: Path, plain: Preprocessing, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # 64 pixels: above the limit, below twice the limit
    path = tmp_path / "a.png"
    NOISE.save(path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert read(path, plain).inputs["image"].shape == (3, 8, 8)
    assert not seen
    assert capfd.readouterr().err == ""


def test_palette_transparency_emits_no_warning(tmp_path: Path, plain: Preprocessing) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "a.png", plain).inputs["image"][:, 0, 0].tolist() == [200, 100, 50]


def test_other_warnings_are_not_silenced(tmp_path: Path, plain: Preprocessing) -> None:
    NOISE.save(tmp_path / "a.png")
    read(tmp_path / "a.png", plain)
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.png", "b/c.png"], ["a.png", "b/c.png"]),
        (["a.png", "a.png", "a.png"], ["a.png", "a.png#2", "a.png#3"]),
        (["e\N{COMBINING ACUTE ACCENT}.png"], ["\N{LATIN SMALL LETTER E WITH ACUTE}.png"]),
    ],
)
def test_samples_are_named_by_their_paths(paths: list[str], names: list[str]) -> None:
    assert name_samples(paths) == names


def test_image_file_is_closed(
    tmp_path: Path, plain: Preprocessing, save_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_image("a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        read(path, plain)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError):
        read(path, plain)
    path.unlink()


def test_sample_size_is_that_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("L", (40, 20)).save(tmp_path / "turned.png", exif=exif)
    Image.new("L", (50, 30)).save(tmp_path / "upright.png")
    dataset = open_dataset(tmp_path, [TensorSpec("x", np.dtype(np.float32), ("n", 1, 8, 8))])
    assert [dataset[i].image_size for i in range(2)] == [(40, 20), (30, 50)]
    (batch,) = iterate_batches(dataset, 2)
    assert batch.image_sizes == ((40, 20), (30, 50))


def test_what_cannot_be_decoded_is_tried_once_more(tmp_path: Path, plain: Preprocessing, monkeypatch) -> None:
    """As Pillow says "bad configuration" of a PNG where zlib had no memory."""
    NOISE.save(tmp_path / "a.png")
    wanted = read(tmp_path / "a.png", plain).inputs["image"]
    tries = []

    def decode(*arguments: object) -> object:
        tries.append(arguments)
        if len(tries) == 1:
            raise OSError("bad configuration when reading image file")
        return decode_pixels(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("quantkit.datasets.image_files.decode_pixels", decode)
    assert np.array_equal(read(tmp_path / "a.png", plain).inputs["image"], wanted)
    assert len(tries) == 2
