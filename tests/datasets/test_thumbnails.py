from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import open_dataset, select
from quantkit.datasets.thumbnails import thumbnail
from quantkit.types import TensorSpec

SPEC = [TensorSpec("x", np.dtype(np.float32), ("n", 3, 16, 16))]


def decode(uri: str) -> Image.Image:
    head, _, text = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def test_small_images_are_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (np.asarray(decode(thumbnail(open_dataset(tmp_path, SPEC), 0))) == pixels).all()


def test_large_images_shrink_and_keep_their_proportions(tmp_path):
    Image.new("RGB", (800, 200), (200, 30, 30)).save(tmp_path / "a.jpg")
    picture = decode(thumbnail(open_dataset(tmp_path, SPEC), 0))
    assert picture.size == (112, 28)
    assert np.abs(np.asarray(picture, float).mean((0, 1)) - (200, 30, 30)).max() < 4


def test_rotated_image_is_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (40, 20)).save(tmp_path / "a.png", exif=exif)
    assert decode(thumbnail(open_dataset(tmp_path, SPEC), 0)).size == (20, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_color_mode_has_a_thumbnail(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    source = Image.fromarray(np.full((9, 9), 300, np.uint16)) if mode == "I;16" else Image.new(mode, (9, 9))
    source.save(tmp_path / f"a.{suffix}")
    assert decode(thumbnail(open_dataset(tmp_path, SPEC), 0)).mode in ("L", "RGB")


def test_selection_shows_its_own_samples(tmp_path):
    for i in range(4):
        Image.new("L", (3, 3), 60 * i).save(tmp_path / f"{i}.png")
    chosen = select(open_dataset(tmp_path, SPEC), num_samples=3, seed=5)
    for index, name in enumerate(chosen.ids):
        assert np.asarray(decode(thumbnail(chosen, index)))[0, 0] == 60 * int(name[0])


def test_unreadable_sample_has_no_thumbnail(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    assert thumbnail(open_dataset(tmp_path, SPEC), 0) == ""
    np.save(tmp_path / "rows.npy", np.zeros((2, 3, 16, 16), np.float32))
    assert thumbnail(open_dataset(tmp_path / "rows.npy", SPEC), 1) == ""
