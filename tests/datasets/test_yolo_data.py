from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantkit.datasets import open_dataset
from quantkit.datasets.boxes import open_boxes
from quantkit.datasets.open import on_split, open_samples
from quantkit.datasets.yolo_data import class_names
from quantkit.errors import DatasetError
from quantkit.types import Dataset, Preprocessing, TensorSpec
from quantkit.types.options import ImageOptions

SPEC = TensorSpec("x", np.dtype(np.float32), ("n", 3, 8, 8))


@pytest.fixture
def root(tmp_path, save_image) -> Path:
    for name in ("train/a", "train/b", "val/c"):
        save_image(f"data/images/{name}.png")
        (tmp_path / f"data/labels/{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/labels/{name}.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    return tmp_path / "data"


def write(root: Path, text: str) -> Path:
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def open_split(path: Path, split: str) -> Dataset:
    given = on_split(ImageOptions(preset="yolo"), split, path)  # type: ignore[arg-type]
    return open_samples([SPEC], path, given, None, num_samples=None, seed=0, order="given")


@pytest.mark.parametrize("prefix", ["", "path: .\n", "path: ../data  # as Ultralytics' coco8.yaml\n", "path: data\n"])
def test_each_split_and_its_boxes(root, prefix) -> None:
    path = write(root, f"{prefix}train: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n")
    train, val = open_split(path, "train"), open_dataset(path, [SPEC])
    assert (list(train.ids), list(val.ids)) == (["a.png", "b.png"], ["c.png"])
    assert (train.targets, list(train.classes)) == (None, [])
    assert train.dataset.remarks == ("split: train of data.yaml",)  # type: ignore[attr-defined]
    boxes = open_boxes(path, train, data=path)
    assert boxes.classes == ("cat", "dog")
    assert boxes.boxes["b.png"].corners.tolist() == [[0.25, 0.375, 0.75, 0.625]]
    assert boxes.boxes["b.png"].classes.tolist() == [1]


def test_a_list_and_several_folders(root) -> None:
    (root / "train.txt").write_text("images/train/b.png\n")
    assert list(open_split(write(root, "train: train.txt\n"), "train").ids) == ["images/train/b.png"]
    found = open_split(write(root, "train: [images/train, images/val]\n"), "train")
    assert list(found.ids) == ["train/a.png", "train/b.png", "val/c.png"]


@pytest.mark.parametrize("data", ["photos", "photos/val"])
def test_labels_of_the_file_beside_a_folder_with_the_same_images(root, tmp_path, save_image, data) -> None:
    save_image("photos/val/c.png")
    path = write(root, "val: images/val\nnames: [cat, dog]\n")
    images = tmp_path / data
    found = open_boxes(path, open_dataset(images, [SPEC]), data=images)
    assert [len(boxes) for boxes in found.boxes.values()] == [1]
    assert (found.classes, found.source) == (("cat", "dog"), str(root / "labels" / ("" if data == "photos" else "val")))


@pytest.mark.parametrize(("split", "told"), [("val", "/labels/val"), ("gone", "; no folder of images that it names")])
def test_where_labels_of_a_file_were_looked_for_is_said(root, tmp_path, save_image, split, told) -> None:
    save_image("other/z.png")
    path, images = write(root, f"val: images/{split}\n"), tmp_path / "other"
    text = rf"data\.yaml: no text file for any of the 1 images: looked in .*/other.*{told}"
    with pytest.raises(DatasetError, match=text):
        open_boxes(path, open_dataset(images, [SPEC]), data=images)


def test_labels_beside_the_images_go_before_those_of_the_file(root, tmp_path, save_image) -> None:
    save_image("other/c.png")
    (tmp_path / "other/c.txt").write_text("0 0.5 0.5 1 1\n")
    images = tmp_path / "other"
    found = open_boxes(write(root, "val: images/val\n"), open_dataset(images, [SPEC]), data=images)
    assert found.boxes["c.png"].classes.tolist() == [0]


def test_a_named_split_goes_before(root) -> None:
    path = write(root, "train: images/train\nval: images/val\n")
    given = on_split(ImageOptions(split="val"), "train", path)
    found = open_samples([SPEC], path, given, None, num_samples=None, seed=0, order="given")
    assert list(found.ids) == ["c.png"]
    made_with = Preprocessing(size=(8, 8))
    assert on_split(made_with, "train", path) == ImageOptions(base=made_with, split="train")


def test_a_split_is_refused_where_there_is_none(root) -> None:
    folder = root / "images"
    assert on_split(None, "train", folder) == ImageOptions()
    with pytest.raises(DatasetError, match="images: --split is for a YOLO data"):
        open_samples([SPEC], folder, ImageOptions(split="train"), None, num_samples=None, seed=0, order="given")


def test_names_by_index_may_have_gaps(root) -> None:
    assert class_names(write(root, "names: {0: cat, 2: dog}\n")) == ("cat", "class 1", "dog")
    assert class_names(write(root, "val: x\n")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val: [\n", "is not YAML"),
        ("- a\n", "is not a data set: train, val and names are expected"),
        ("train: images/train\n", "names no images: val is None"),
        ("val: images/none\n", "val is 'images/none', which is not there"),
        ("val: 3\n", "val is 3, and must be a folder"),
    ],
)
def test_what_is_wrong_is_told(root, text, message) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(write(root, text), [SPEC])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nc: 3\nnames: [a]\n", "nc is 3, but 1 classes have names"),
        ("names: {x: a}\n", "names must be a list, or names"),
    ],
)
def test_wrong_names_are_told(root, text, message) -> None:
    with pytest.raises(DatasetError, match=message):
        class_names(write(root, text))
