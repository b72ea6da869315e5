from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import image_decoding
from quantkit.datasets.description import describe_preprocessing
from quantkit.datasets.open import open_samples
from quantkit.errors import DatasetError
from quantkit.types import Dataset, TensorSpec
from quantkit.types.options import ImageOptions

SPEC = TensorSpec("x", np.dtype(np.float32), ("n", 1, 2, 2))


def open_folder(folder: Path, **options: object) -> Dataset:
    given = ImageOptions(preset="none", **options)  # type: ignore[arg-type]
    return open_samples([SPEC], folder, given, None, num_samples=None, seed=0, order="given")


def remarks(dataset: Dataset) -> list[str]:
    return list(dataset.dataset.remarks)  # type: ignore[attr-defined]


def save_deep(path: Path, white: int, dtype: type = np.uint16) -> None:
    Image.fromarray(np.array([[0, white // 2], [white, 0]], dtype)).save(path)


@pytest.mark.parametrize(
    ("white", "dtype", "message"),
    [
        (
            4095,
            np.uint16,
            r"^pixels of a\.tif have more than 8 bits: they reach 4095 and would be nearly black: .* "
            "--pixel-max 4095 if they have 12 bits, or --.* 65535",
        ),
        (16383, np.uint16, "--pixel-max 16383 if they have 14 bits"),
        (3000, np.uint16, "--pixel-max 4095 if they have 12 bits"),
        (1_000_000, np.int32, r"reach 1e\+06 and go beyond 16 bits: .* --pixel-max 1048575 if they have 20 bits$"),
    ],
)
def test_the_range_of_deep_images_is_asked_for(tmp_path, white, dtype, message) -> None:
    save_deep(tmp_path / "a.tif", white, dtype)
    with pytest.raises(DatasetError, match=message):
        open_folder(tmp_path)
    found = open_folder(tmp_path, pixel_max=float(white))
    assert found[0].inputs["x"][0].tolist() == [[0, np.rint(255 * (white // 2) / white)], [255, 0]]
    assert describe_preprocessing(found.preprocessing).startswith(f"L, white at {white:g}, stretch")  # type: ignore[arg-type]


def test_images_that_use_16_bits_need_no_answer(tmp_path) -> None:
    save_deep(tmp_path / "a.tif", 65535)
    save_deep(tmp_path / "b.tif", 900)  # a dark one among them
    assert open_folder(tmp_path)[0].inputs["x"].max() == 255


def test_floats_from_0_to_1_and_what_exceeds_white(tmp_path) -> None:
    Image.fromarray(np.array([[0, 0.5], [1.0, 2.0]], np.float32)).save(tmp_path / "a.tif")
    assert open_folder(tmp_path, pixel_max=1.0)[0].inputs["x"][0].tolist() == [[0, 128], [255, 255]]


def test_white_must_be_above_0(tmp_path) -> None:
    save_deep(tmp_path / "a.tif", 65535)
    with pytest.raises(DatasetError, match=r"pixel_max 0\.0 must be positive"):
        open_folder(tmp_path, pixel_max=0.0)


def test_of_several_pages_the_first_is_used_and_it_is_said(tmp_path) -> None:
    pages = [Image.new("L", (2, 2), level) for level in (10, 20)]
    for name in ("a.gif", "b.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    Image.new("L", (2, 2), 30).save(tmp_path / "c.png")
    found = open_folder(tmp_path)
    assert remarks(found) == ["of several pages or frames the first is used: a.gif (and 1 more)"]
    assert [float(found[i].inputs["x"].max()) for i in range(3)] == [10, 10, 30]


def test_what_is_left_out_is_counted_by_suffix(tmp_path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.JFIF", "JPEG")
    for name in ("b.heic2", "c.txt", "d.txt", "LICENSE"):
        (tmp_path / name).write_text("x")
    found = open_folder(tmp_path)
    assert (list(found.ids), remarks(found)) == (
        ["a.JFIF"],
        ["left out, not readable as images: 2 .txt, 1 without an extension, 1 .heic2"],
    )


@pytest.mark.skipif(".heic" in image_decoding.IMAGE_SUFFIXES, reason="pillow-heif is installed")
def test_heic_names_what_reads_it(tmp_path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"x")
    assert remarks(open_folder(tmp_path)) == ["left out, not readable as images: 1 .heic (pip install pillow-heif)"]
    (tmp_path / "list.txt").write_text("b.HEIC\n")
    with pytest.raises(DatasetError, match=r"are read; \.heic: pip install pillow-heif\)"):
        open_folder(tmp_path / "list.txt")[0]


def test_heic_is_read_where_the_plugin_is_installed(monkeypatch) -> None:
    registered = []
    plugin = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setattr(image_decoding.importlib.util, "find_spec", lambda name: name == "pillow_heif")
    monkeypatch.setattr(image_decoding.importlib, "import_module", lambda name: plugin)
    suffixes, formats = image_decoding._optional_formats()
    assert registered == [True]
    assert {".heic", ".heif"} <= set(suffixes)
    assert "HEIF" in formats


@pytest.mark.skipif(".avif" not in image_decoding.IMAGE_SUFFIXES, reason="Pillow has no AVIF")
def test_avif_is_read(tmp_path) -> None:
    Image.new("L", (8, 8), 100).save(tmp_path / "a.avif")
    assert np.abs(open_folder(tmp_path)[0].inputs["x"] - 100).max() <= 3


def test_bytes_for_a_float_input_are_said(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 1, 2, 2), 200, np.uint8))
    found = open_samples([SPEC], tmp_path / "a.npy", None, None, num_samples=None, seed=0, order="given")
    (remark,) = remarks(found)
    assert remark.startswith("input 'x': uint8 values are fed as 0 to 255, unscaled;")
    assert found[0].inputs["x"].max() == 200
