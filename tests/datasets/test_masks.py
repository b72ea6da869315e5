from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets.masks import open_masks
from quantkit.errors import DatasetError
from quantkit.types import MaskAnnotations

CLASSES = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)


class Names:
    """All that `open_masks` asks of a data set."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids


def save(path: Path, pixels=CLASSES, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def png(pixels: np.ndarray, depth: int) -> bytes:
    """A gray PNG of 1, 2 or 4 bits, as labeling tools write them and Pillow does not."""
    rows = b""
    for row in pixels:
        bits = "".join(f"{value:0{depth}b}" for value in row).ljust(-(-len(row) * depth // 8) * 8, "0")
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def read(tmp_path, **options):
    return open_masks(tmp_path, Names("a.jpg"), **options)["a.jpg"]


def test_masks_match_relative_paths(tmp_path):
    save(tmp_path / "a.png", CLASSES)
    save(tmp_path / "town" / "a.png", CLASSES + 1)
    save(tmp_path / "town" / "not asked for.png")
    masks = open_masks(tmp_path, Names("a.jpg", "town/a.jpeg"), classes=["x", "y"])
    assert isinstance(masks, MaskAnnotations)
    assert (masks["a.jpg"] == CLASSES).all()
    assert (masks["town/a.jpeg"] == CLASSES + 1).all()
    assert (masks.classes, masks.ignored, masks.source) == (("x", "y"), 255, str(tmp_path))
    assert open_masks(tmp_path, Names("a.jpg"), ignored=-1).ignored is None


def test_masks_match_repeated_images_and_accents(tmp_path):
    save(tmp_path / "cafe\u0301.png")
    masks = open_masks(tmp_path, Names("caf\u00e9.jpg", "caf\u00e9.jpg#2"))
    assert (masks["caf\u00e9.jpg#2"] == CLASSES).all()


@pytest.mark.parametrize("kind", ["gray", "palette", "16 bits", "RGB", "RGBA", "LA"])
def test_palette_index_is_the_class(tmp_path, kind):
    image = Image.fromarray(CLASSES)
    if kind == "palette":
        image = Image.frombytes("P", (3, 2), CLASSES.tobytes())
        image.putpalette([7, 7, 7] * 256)  # colors mean nothing
    elif kind == "16 bits":
        image = Image.fromarray(CLASSES.astype(np.uint16))
    elif kind != "gray":
        image = image.convert(kind)
    save(tmp_path / "a.png", image)
    mask = read(tmp_path)
    assert mask.dtype == np.uint8
    assert mask.tolist() == CLASSES.tolist()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_low_bit_depths_keep_their_values(tmp_path, depth):
    pixels = np.arange(2 * 9).reshape(2, 9) % (1 << depth)
    (tmp_path / "a.png").write_bytes(png(pixels, depth))
    assert read(tmp_path).tolist() == pixels.tolist()


def test_small_palettes_are_read(tmp_path):
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 9) % 4
    image = Image.frombytes("P", (9, 2), pixels.tobytes())
    image.putpalette([0, 0, 0, 9, 9, 9, 90, 90, 90, 255, 255, 255])
    save(tmp_path / "a.png", image, bits=2)
    assert (tmp_path / "a.png").read_bytes()[24] == 2
    assert read(tmp_path).tolist() == pixels.tolist()


def test_reduce_zero_label_shifts_classes(tmp_path):
    save(tmp_path / "a.png")
    assert read(tmp_path, reduce_zero_label=True).tolist() == [[255, 0, 1], [2, 255, 0]]
    assert read(tmp_path, reduce_zero_label=True, ignored=3).tolist() == [[3, 0, 1], [3, 254, 0]]


def test_rename_maps_mask_names(tmp_path):
    save(tmp_path / "bonn" / "b_1_gtFine_labelTrainIds.png", CLASSES)
    save(tmp_path / "bonn" / "b_1_gtFine_color.png", CLASSES + 1)
    image = "bonn/b_1_leftImg8bit.png"
    masks = open_masks(tmp_path, Names(image), rename=("_leftImg8bit", "_gtFine_labelTrainIds"))
    assert (masks[image] == CLASSES).all()
    save(tmp_path / "c_mask.png", CLASSES)
    assert (open_masks(tmp_path, Names("c.jpg"), rename=("", "_mask"))["c.jpg"] == CLASSES).all()
    with pytest.raises(DatasetError, match="declare what the names of masks have at their end"):
        open_masks(tmp_path, Names("c.jpg"))
    with pytest.raises(DatasetError, match=r"'c\.jpg' does not end in '_left'"):
        open_masks(tmp_path, Names("c.jpg"), rename=("_left", ""))


def test_missing_masks_are_counted(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"no mask for 'b\.jpg': b\.png is not there, nor are those of 1 more of 3"):
        open_masks(tmp_path, Names("a.jpg", "b.jpg", "c.jpg"))
    with pytest.raises(DatasetError, match=r"no mask for 'val/a\.jpg'.*but a\.png is: paths below --labels"):
        open_masks(tmp_path, Names("val/a.jpg"))
    Image.new("L", (2, 2)).save(tmp_path / "d.jpg")
    with pytest.raises(DatasetError, match=r"d\.jpg is not a PNG, and lossy compression"):
        open_masks(tmp_path, Names("d.jpg"))


def test_invalid_mask_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="does not exist: --labels takes the folder"):
        open_masks(tmp_path / "nowhere", Names("a"))
    with pytest.raises(DatasetError, match="is a file"):
        open_masks(save(tmp_path / "a.png"), Names("a"))
    with pytest.raises(DatasetError, match="--ignored 256 must be"):
        open_masks(tmp_path, Names("a"), ignored=256)
    with pytest.raises(DatasetError, match="need an ignored value"):
        open_masks(tmp_path, Names("a"), ignored=None, reduce_zero_label=True)
    with pytest.raises(DatasetError, match=r"no mask was found for 'b'"):
        open_masks(tmp_path, Names("a"))["b"]


def test_color_masks_are_refused(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[1, 2] = 128, 0, 128
    save(tmp_path / "a.png", pixels)
    with pytest.raises(DatasetError, match=r"a\.png: is in color \(128, 0, 128 at row 1, column 2\).*palette"):
        read(tmp_path)


def test_values_above_255_are_refused(tmp_path):
    save(tmp_path / "a.png", np.array([[26001]], np.uint16))
    with pytest.raises(DatasetError, match=r"a\.png: holds the value 26001.*instance map"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"GIF89a", "not a PNG"),
        (png(np.zeros((4, 4), int), 1)[:44], "cannot be read"),
    ],
)
def test_damaged_mask_is_named(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.png: .*{reason}"):
        read(tmp_path)


def test_deleted_mask_is_named(tmp_path):
    path = save(tmp_path / "a.png")
    masks = open_masks(tmp_path, Names("a.jpg"))
    path.unlink()
    assert len(masks.fingerprint) == 64
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read \(No such file"):
        masks["a.jpg"]


def test_fingerprint_depends_on_names_contents_and_options(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "one" / f"{name}.png")
        save(tmp_path / "two" / f"{name}.png")
    names = Names("a.jpg", "b.jpg")
    first = open_masks(tmp_path / "one", names).fingerprint
    assert open_masks(tmp_path / "two", Names("b.jpg", "a.jpg")).fingerprint == first
    assert open_masks(tmp_path / "one", names, ignored=None).fingerprint != first
    assert open_masks(tmp_path / "one", names, reduce_zero_label=True).fingerprint != first
    assert open_masks(tmp_path / "one", Names("a.jpg")).fingerprint != first
    save(tmp_path / "one" / "b.png", CLASSES + 1)
    assert open_masks(tmp_path / "one", names).fingerprint != first


def test_masks_are_read_by_several_threads(tmp_path):
    ids = [f"{i}.jpg" for i in range(20)]
    for i in range(20):
        save(tmp_path / f"{i}.png", np.full((40, 40), i, np.uint8))
    masks = open_masks(tmp_path, Names(*ids))
    with ThreadPoolExecutor(8) as pool:
        read_ones = list(pool.map(masks.__getitem__, ids * 5))
    assert all((mask == int(name[:-4])).all() for mask, name in zip(read_ones, ids * 5, strict=True))
