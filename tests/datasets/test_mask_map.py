from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets.mask_map import parse_mask_map
from quantkit.datasets.masks import open_masks
from quantkit.errors import DatasetError


def read(tmp_path, pixels, mapping, ignored=255):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.array(pixels))
    image.save(tmp_path / "a.png")
    masks = open_masks(tmp_path, SimpleNamespace(ids=("a.jpg",)), mapping=mapping, ignored=ignored)
    return masks["a.jpg"].tolist()


def palette(*colors):
    """One pixel of each color, by a palette."""
    image = Image.new("P", (len(colors), 1))
    image.putpalette([value for color in colors for value in color])
    image.putdata(range(len(colors)))
    return image


@pytest.mark.parametrize(
    ("mapping", "pixels", "classes"),
    [
        ("0=0,255=1", np.uint8([[0, 255]]), [[0, 1]]),
        ("7=0, 8=1, *=ignore", np.uint8([[7, 8, 9, 0]]), [[0, 1, 255, 255]]),
        ("26000=3,*=0", np.uint16([[26000, 5]]), [[3, 0]]),
        ("#000000=0,#ff0000=2,*=ignore", np.uint8([[[0, 0, 0], [255, 0, 0], [1, 0, 0]]]), [[0, 2, 255]]),
        ("#ff0000=2,#000000=0", palette((0, 0, 0), (255, 0, 0)), [[0, 2]]),
        # COCO: person 1, stop sign 13 (12 is not used), toothbrush 90; the unlabeled rest is ignored.
        ("coco", np.uint8([[1, 13, 90, 0, 12]]), [[0, 11, 79, 255, 255]]),
        # Cityscapes: road 7, bicycle 33, ego vehicle 1.
        ("cityscapes", np.uint8([[7, 33, 1]]), [[0, 18, 255]]),
        ("ade20k", np.uint8([[0, 1, 150]]), [[255, 0, 149]]),
        # VOC: background, aeroplane (128, 0, 0), tvmonitor (0, 64, 128), border.
        ("voc", palette((0, 0, 0), (128, 0, 0), (0, 64, 128), (224, 224, 192)), [[0, 1, 20, 255]]),
    ],
)
def test_what_values_and_colors_mean(tmp_path, mapping, pixels, classes) -> None:
    assert read(tmp_path, pixels, mapping) == classes


@pytest.mark.parametrize(
    ("mapping", "pixels", "ignored", "message"),
    [
        ("0=0", np.uint8([[0, 5]]), 255, r"a\.png: --mask-map 0=0 does not say what 5 is: add 5=CLASS or \*=ignore"),
        ("#000000=0", np.uint8([[[0, 0, 0], [0, 171, 5]]]), 255, "does not say what #00ab05 is"),
        ("0=ignore", np.uint8([[0, 0]]), None, "ignores pixels, and --ignored -1 does not"),
        ("0=0,1", np.uint8([[0]]), 255, "'1' is no VALUE=CLASS.*known maps: coco, cityscapes, ade20k, voc"),
        ("0=256", np.uint8([[0]]), 255, "'0=256' is no VALUE=CLASS"),
        ("0=0,#000001=1", np.uint8([[0]]), 255, "name either values or colors"),
        ("*=0", np.uint8([[0]]), 255, "name either values or colors"),
    ],
)
def test_what_is_not_said_is_refused(tmp_path, mapping, pixels, ignored, message) -> None:
    with pytest.raises(DatasetError, match=message):
        read(tmp_path, pixels, mapping, ignored)


def test_the_map_is_part_of_the_identity(tmp_path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    data = SimpleNamespace(ids=("a.jpg",))
    prints = [open_masks(tmp_path, data, mapping=m).fingerprint for m in (None, "0=0", "0=1", "0=1")]
    assert len(set(prints)) == 3
    assert prints[2] == prints[3] == open_masks(tmp_path, data, mapping="0=1").fingerprint
    assert parse_mask_map("voc").is_color
