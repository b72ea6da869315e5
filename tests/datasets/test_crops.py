from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import iterate_batches
from quantkit.datasets.open import open_samples
from quantkit.errors import DatasetError
from quantkit.types import Dataset, TensorSpec
from quantkit.types.options import ImageOptions

SPEC = [TensorSpec("x", np.dtype(np.float32), ("n", 1, 2, 2))]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Columns of levels 0 to 9 in a.png, the same turned by EXIF in b.jpg's place; one image without a box."""
    ramp = Image.fromarray(np.tile(np.arange(10, dtype=np.uint8) * 20, (8, 1)))
    folder = tmp_path / "images"
    for name in ("cat/a.png", "dog/c.png"):
        (folder / name).parent.mkdir(parents=True)
        ramp.save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    ramp.save(folder / "cat/b.png", exif=exif)
    return folder


def crop(images: Path, text: str, **options: object) -> Dataset:
    boxes = images.parent / "boxes.csv"
    boxes.write_text(text)
    given = ImageOptions(preset="none", interpolation="nearest", crops=boxes)
    return open_samples(SPEC, images, given, None, num_samples=None, seed=0, order="given", **options)  # type: ignore[arg-type]


def test_each_box_is_a_sample(images: Path) -> None:
    found = crop(images, "path,left,top,right,bottom\ncat/a.png,2,0,4,2\ncat/a.png,6,1,8,3\ncat/b.png,0,0,2,2\n")
    assert list(found.ids) == ["cat/a.png[2,0,4,2]", "cat/a.png[6,1,8,3]", "cat/b.png[0,0,2,2]"]
    assert [found[i].inputs["x"][0, 0].tolist() for i in range(3)] == [[40, 60], [120, 140], [180, 160]]
    assert found[0].image_size == (2, 2)
    assert (list(found.targets or ()), list(found.classes)) == ([0, 0, 0], ["cat", "dog"])
    assert found.dataset.remarks == (  # type: ignore[attr-defined]
        "crops: 3 boxes of 2 images by boxes.csv; 1 of the images have none and are left out",
    )


def test_a_corner_and_a_size_names_alone_and_labels(images: Path) -> None:
    found = crop(images, "file,x,y,width,height,label\nc.png,1,1,2,3,plate\na.png,1,1,2,2,face\n")
    assert list(found.ids) == ["dog/c.png[1,1,3,4]", "cat/a.png[1,1,3,3]"]
    assert (list(found.targets or ()), list(found.classes)) == ([1, 0], ["face", "plate"])


def test_a_box_is_part_of_the_identity(images: Path) -> None:
    header = "path,left,top,right,bottom\n"
    first, same, other = (
        crop(images, f"{header}a.png,{box}\n").fingerprint for box in ("0,0,2,2", "0,0,2,2", "0,0,2,3")
    )
    assert first == same
    assert first != other


def test_a_box_without_a_pixel_is_left_out_and_named(images: Path) -> None:
    found = crop(images, "path,left,top,right,bottom\na.png,-5,-5,2,2\na.png,20,0,30,4\na.png,4,4,4,6\n")
    skipped: dict[str, str] = {}
    (batch,) = iterate_batches(found, 4, on_skip=skipped.__setitem__)
    assert batch.ids == ("cat/a.png[-5,-5,2,2]",)
    assert skipped == {
        "cat/a.png[20,0,30,4]": "box (20.0, 0.0, 30.0, 4.0) holds no pixel of the image, 10 x 8",
        "cat/a.png[4,4,4,6]": "box (4.0, 4.0, 4.0, 6.0) holds no pixel of the image, 10 x 8",
    }


def test_boxes_of_a_pixel_are_told(images: Path) -> None:
    found = crop(images, "path,left,top,right,bottom\na.png,0,0,4,4\na.png,2,0,3,4\na.png,2.6,1,4.4,5\n")
    assert found.dataset.remarks == (  # type: ignore[attr-defined]
        "crops: 3 boxes of 1 images by boxes.csv; 2 of the images have none and are left out; "
        "smaller than 2 pixels in a side: 2, first cat/a.png[2,0,3,4]",
    )


@pytest.mark.parametrize(
    "text",
    ["path,left,top,right,bottom\na.png,0.1,0.1,0.9,0.9\n", "path,x,y,width,height\na.png,0.7,0.1,0.3,0.9\n"],
)
def test_fractions_are_refused(images: Path, text: str) -> None:
    with pytest.raises(
        DatasetError, match=r"^--crops: all boxes of .*boxes\.csv lie within 0 and 1.*pixels are expected"
    ):
        crop(images, text)


def test_one_box_in_pixels_is_enough(images: Path) -> None:
    found = crop(images, "path,left,top,right,bottom\na.png,0,0,1,1\na.png,0,0,2,2\n")
    assert len(found) == 2


@pytest.mark.parametrize("text", ['{"images": [{"id": 1}]}', '{\n  "images": []\n}\n'])
def test_json_is_told_the_columns(images: Path, text: str) -> None:
    wanted = r"^--crops: .*boxes\.csv needs a header with path, left, top, right, bottom \(in pixels\), .* as CSV$"
    with pytest.raises(DatasetError, match=wanted):
        crop(images, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "boxes.csv needs a header with path, left, top, right, bottom"),
        ("path,left,top\n", "boxes.csv needs a header"),
        ("path,left,top,right,bottom\n", "boxes.csv holds no box"),
        ("path,left,top,right,bottom\nz.png,0,0,1,1\n", "line 2: 'z.png': no such image in --data"),
        ("path,left,top,right,bottom\na.png,0,0,1,x\n", "line 2: bottom is 'x', which is no number of pixels"),
        ("path,left,top,right,bottom\na.png,0,0,1\n", "line 2: bottom is None"),
        ("path,left,top,right,bottom,label\na.png,0,0,1,1,x\na.png,0,0,1,1,\n", "line 3: no label, but other lines"),
    ],
)
def test_what_cannot_be_understood_is_told_by_line(images: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        crop(images, text)


def test_crops_need_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 1, 2, 2), np.float32))
    with pytest.raises(DatasetError, match="image options have no meaning for arrays"):
        crop(tmp_path / "a.npy", "path,left,top,right,bottom\na.png,0,0,1,1\n")
