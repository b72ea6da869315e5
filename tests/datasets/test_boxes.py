from __future__ import annotations

import contextlib
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.datasets import open_dataset, select
from quantkit.datasets.boxes import open_boxes
from quantkit.errors import DatasetError
from quantkit.types import TensorSpec

SPEC = TensorSpec("x", np.dtype(np.float32), (None, 3, 8, 8))


def draw(folder, *names, size=(40, 20)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return folder


def dataset_of(data):
    return open_dataset(data, [SPEC])


def coco(path, images, objects=(), categories=((1, "cat"), (5, "dog"), (9, "owl"))):
    """`images`: file names or entries; `objects`: (image id, category id, bbox, more)."""
    entries = [
        {"id": number, "file_name": image} if isinstance(image, str) else image for number, image in enumerate(images)
    ]
    annotations = [
        {"id": 100 + number, "image_id": image, "category_id": category, "bbox": bbox, **(more[0] if more else {})}
        for number, (image, category, bbox, *more) in enumerate(objects)
    ]
    kinds = [{"id": index, "name": name, "supercategory": "thing"} for index, name in categories]
    path.write_text(json.dumps({"info": {}, "images": entries, "annotations": annotations, "categories": kinds}))
    return path


OBJECT = (0, 5, [1, 2, 10, 5])


# COCO


def test_coco_is_read(tmp_path):
    data = draw(tmp_path / "images", "a.png", "b.png")
    entries = [{"id": 7, "file_name": "b.png", "width": 40, "height": 20}, "a.png", "elsewhere.png"]
    objects = [(7, 9, [1, 2, 10, 5]), (7, 1, [0, 0, 4.5, 4], {"iscrowd": 1, "segmentation": {"counts": "x"}})]
    path = coco(tmp_path / "x.json", entries, objects)
    found = open_boxes(path, dataset_of(data), data=data)
    assert found.classes == ("cat", "dog", "owl")
    assert (found.is_relative, found.source) == (False, str(path))
    assert found.boxes.keys() == {"a.png", "b.png"}
    b = found.boxes["b.png"]
    assert b.corners.tolist() == [[1, 2, 11, 7], [0, 0, 4.5, 4]]
    assert (b.classes.tolist(), b.crowds.tolist(), b.scores) == ([2, 0], [False, True], None)
    assert (len(found.boxes["a.png"]), found.boxes["a.png"].crowds) == (0, None)
    assert found.image_sizes == {"b.png": (20, 40)}


@pytest.mark.parametrize(
    ("numbering", "index", "names"),
    [
        ("sorted", 1, ("cat", "dog", "owl")),
        (
            "ids",
            5,
            ("class 0", "cat", *(f"class {i}" for i in (2, 3, 4)), "dog", *(f"class {i}" for i in (6, 7, 8)), "owl"),
        ),
        ("ids-1", 4, ("cat", *(f"class {i}" for i in (1, 2, 3)), "dog", *(f"class {i}" for i in (5, 6, 7)), "owl")),
    ],
)
def test_category_ids_become_class_indices(tmp_path, numbering, index, names):
    data = draw(tmp_path / "images", "a.png")
    path = coco(tmp_path / "x.json", ["a.png"], [OBJECT])
    found = open_boxes(path, dataset_of(data), data=data, numbering=numbering)
    assert (found.boxes["a.png"].classes.tolist(), found.classes) == ([index], names)


def test_given_classes_match_by_name(tmp_path):
    """Also where the JSON has a category more, as Roboflow's exports have, and the model another order."""
    data = draw(tmp_path / "images", "a.png")
    path = coco(tmp_path / "x.json", ["a.png"], [OBJECT], [(0, "animals"), (1, "cat"), (5, "dog")])
    found = open_boxes(path, dataset_of(data), data=data, classes=["N/A", "dog", "N/A", "cat"])
    assert (found.boxes["a.png"].classes.tolist(), found.classes) == ([1], ("N/A", "dog", "N/A", "cat"))
    with pytest.raises(DatasetError, match=r"category 'dog' is not among the 2 given classes; did you mean 'dogs'\?"):
        open_boxes(path, dataset_of(data), data=data, classes=["cats", "dogs"])
    with pytest.raises(DatasetError, match="class 'dog' is in the list of classes 2 times"):
        open_boxes(path, dataset_of(data), data=data, classes=["dog", "dog"])


@pytest.mark.parametrize("name", ["a.png", "./a.png", "val/a.png", "images/val/a.png", "..\\images\\val\\a.png"])
def test_images_match_by_the_end_of_their_path(tmp_path, name):
    data = draw(tmp_path / "images", "val/a.png")
    path = coco(tmp_path / "x.json", [name], [OBJECT])
    for root in (data, data / "val"):
        found = open_boxes(path, dataset_of(root), data=root)
        assert [len(b) for b in found.boxes.values()] == [1]


def test_unique_file_name_matches_in_any_folder(tmp_path):
    data = draw(tmp_path / "images", "val/a.png")
    path = coco(tmp_path / "x.json", ["/upload/7/a.png"], [OBJECT])
    assert len(open_boxes(path, dataset_of(data), data=data).boxes["val/a.png"]) == 1


def test_folders_distinguish_images_with_the_same_name(tmp_path):
    data = draw(tmp_path / "images", "one/a.png", "two/a.png")
    path = coco(tmp_path / "x.json", ["two/a.png", "one/a.png"], [OBJECT])
    found = open_boxes(path, dataset_of(data), data=data)
    assert {name: len(b) for name, b in found.boxes.items()} == {"one/a.png": 0, "two/a.png": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png"], "'a.png' may be 'one/a.png' or 'two/a.png': add the folder"),
        (["one/a.png"], "has no entry for 'two/a.png'"),
        (["one/a.png", "two/a.png", "two/a.png"], "has 2 entries for 'two/a.png'"),
        (["b.png"], "has no entry for 'one/a.png': every image needs one, also without objects"),
    ],
)
def test_images_that_cannot_be_matched_are_named(tmp_path, names, message):
    data = draw(tmp_path / "images", "one/a.png", "two/a.png")
    path = coco(tmp_path / "x.json", names, [OBJECT])
    with pytest.raises(DatasetError, match=message):
        open_boxes(path, dataset_of(data), data=data)


def test_accents_are_compared_normalized(tmp_path):
    name = unicodedata.normalize("NFD", "é.png")
    data = draw(tmp_path / "images", name)
    path = coco(tmp_path / "x.json", [unicodedata.normalize("NFC", name)], [OBJECT])
    assert len(open_boxes(path, dataset_of(data), data=data).boxes["é.png"]) == 1


def test_a_selection_and_a_list_that_repeats_an_image(tmp_path):
    data = draw(tmp_path / "images", "a.png", "b.png", "c.png")
    chosen = select(dataset_of(data), num_samples=2, order="given")
    path = coco(tmp_path / "x.json", ["a.png", "b.png"], [OBJECT])
    assert open_boxes(path, chosen, data=data).boxes.keys() == {"a.png", "b.png"}
    listed = tmp_path / "list.txt"
    listed.write_text("images/a.png\nimages/a.png\nimages/b.png\n")
    found = open_boxes(path, dataset_of(listed), data=listed)
    assert {name: len(b) for name, b in found.boxes.items()} == {
        "images/a.png": 1,
        "images/a.png#2": 1,
        "images/b.png": 0,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "is not a COCO JSON .*missing required field `categories`"),
        (lambda c: c["images"][0].pop("file_name"), "missing required field `file_name` - at `.*images"),
        (lambda c: c["annotations"][0].pop("bbox"), "missing required field `bbox`"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "is not a COCO JSON"),
        (lambda c: c["annotations"][0].update(category_id=2), "annotations are of category 2, which is not among"),
        (lambda c: c["images"].append(c["images"][0]), "image id 0 is there twice"),
        (lambda c: c["categories"].append(c["categories"][0]), "category id 1 is there twice"),
        (lambda c: c["images"][0].update(file_name=""), "image 0 has no file_name"),
        (lambda c: c["annotations"].clear(), "none of the 1 images of .* holds an object"),
    ],
)
def test_invalid_coco_json_is_one_line(tmp_path, change, message):
    data = draw(tmp_path / "images", "a.png")
    path = coco(tmp_path / "x.json", ["a.png"], [OBJECT])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message) as error:
        open_boxes(path, dataset_of(data), data=data)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_what_cannot_count_is_skipped_counted_and_named(tmp_path):
    data = draw(tmp_path / "images", "a.png", "b.png")
    objects = [
        OBJECT,
        (9, 5, [1, 2, 3, 4]),
        (0, 5, []),
        (0, 5, [1, 2, -3, 4]),
        (1, 5, [1, 2, 0, 4]),
        (8, 1, [0, 0, 1, 1]),
    ]
    path = coco(tmp_path / "x.json", ["a.png", "b.png", "gone.png"], objects)
    found = open_boxes(path, dataset_of(data), data=data)
    assert {name: len(boxes) for name, boxes in found.boxes.items()} == {"a.png": 1, "b.png": 0}
    assert found.notes == (
        "x.json: 2 annotations of an image that the file does not have were skipped: 101, 105.",
        "x.json: 3 annotations whose bbox is empty or negative were skipped: 102, 103, 104.",
        f"x.json: 1 image that is not in {data} was skipped: gone.png.",
    )
    only = select(dataset_of(data), num_samples=1, order="given")
    assert open_boxes(path, only, data=data).notes == found.notes


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"images": [{"id": 1, "file_name": "\xff"}]}'])
def test_file_that_is_not_json_is_one_line(tmp_path, content):
    data = draw(tmp_path / "images", "a.png")
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="is not a COCO JSON of objects"):
        open_boxes(path, dataset_of(data), data=data)


@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    data = draw(folder / "images", "a.png")
    (folder / "x.json").write_bytes(content)
    with pytest.raises(DatasetError):
        open_boxes(folder / "x.json", dataset_of(data), data=data)
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_bytes(content)
    with contextlib.suppress(DatasetError):  # now and then they are a label
        open_boxes(folder / "labels", dataset_of(data), data=data)


def test_category_numbers_that_are_not_indices_are_refused(tmp_path):
    data = draw(tmp_path / "images", "a.png")
    path = coco(tmp_path / "x.json", ["a.png"], [(0, 0, [1, 2, 3, 4])], [(0, "cat")])
    with pytest.raises(DatasetError, match="category id 0 cannot be class -1"):
        open_boxes(path, dataset_of(data), data=data, numbering="ids-1")
    path = coco(tmp_path / "x.json", ["a.png"], [(0, 10**9, [1, 2, 3, 4])], [(10**9, "cat")])
    with pytest.raises(DatasetError, match="too large for a class index"):
        open_boxes(path, dataset_of(data), data=data, numbering="ids")


# YOLO


def label(path, text="1 0.5 0.5 0.25 0.5\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_yolo_is_read(tmp_path):
    data = draw(tmp_path / "images", "a.png", "b.png", "c.png")
    label(tmp_path / "labels" / "a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.3 0.2 0.2 0.6\n")
    label(tmp_path / "labels" / "b.txt", "")
    found = open_boxes(tmp_path / "labels", dataset_of(data), data=data)
    assert (found.is_relative, found.classes, found.image_sizes) == (True, (), {})
    assert found.boxes["a.png"].corners == pytest.approx(np.array([[0.375, 0.25, 0.625, 0.75], [0.1, 0.2, 0.3, 0.6]]))
    assert found.boxes["a.png"].classes.tolist() == [1, 0]
    assert [len(found.boxes[n]) for n in ("b.png", "c.png")] == [0, 0]


@pytest.mark.parametrize("labels", ["labels", "labels/val", ".", "images", "images/val"])
@pytest.mark.parametrize("data", ["images", "images/val", "."])
def test_labels_beside_images_are_found(tmp_path, labels, data):
    draw(tmp_path / "images", "val/a.png")
    label(tmp_path / "labels" / "val" / "a.txt")
    found = open_boxes(tmp_path / labels, dataset_of(tmp_path / data), data=tmp_path / data)
    assert [len(b) for b in found.boxes.values()] == [1]


def test_last_folder_named_images_is_replaced(tmp_path):
    root = tmp_path / "images" / "mine"
    data = draw(root / "images", "a.png")
    label(root / "labels" / "a.txt")
    assert len(open_boxes(root, dataset_of(data), data=data).boxes["a.png"]) == 1


def test_labels_in_the_image_folder_or_elsewhere_are_found(tmp_path):
    data = draw(tmp_path / "pictures", "a.png")
    label(data / "a.txt")
    label(tmp_path / "elsewhere" / "a.txt", "1 0.5 0.5 0.25 0.5\n" * 2)
    assert len(open_boxes(data, dataset_of(data), data=data).boxes["a.png"]) == 1
    assert len(open_boxes(tmp_path / "elsewhere", dataset_of(data), data=data).boxes["a.png"]) == 2


def test_labels_of_an_image_list_are_found(tmp_path):
    draw(tmp_path / "images", "val/a.png")
    label(tmp_path / "labels" / "val" / "a.txt")
    (tmp_path / "val.txt").write_text(f"{tmp_path}/images/val/a.png\n")
    found = open_boxes(tmp_path, dataset_of(tmp_path / "val.txt"), data=tmp_path / "val.txt")
    assert [len(b) for b in found.boxes.values()] == [1]


def test_missing_label_files_are_an_error(tmp_path):
    data = draw(tmp_path / "images", "a.png")
    (tmp_path / "labels").mkdir()
    for folder in (tmp_path / "labels", tmp_path):
        with pytest.raises(DatasetError, match=r"holds no text file for any of the 1 images: looked for 'a.txt'"):
            open_boxes(folder, dataset_of(data), data=data)
    label(tmp_path / "labels" / "a.txt", "\n")
    with pytest.raises(DatasetError, match=r"none of the 1 images of .* holds an object"):
        open_boxes(tmp_path / "labels", dataset_of(data), data=data)


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "labels/obj.names"])
def test_class_names_beside_the_labels_are_read(tmp_path, place):
    data = draw(tmp_path / "images", "val/a.png")
    label(tmp_path / "labels" / "val" / "a.txt")
    label(tmp_path / place, "cat\ndog\n\n")
    found = open_boxes(tmp_path / "labels", dataset_of(data), data=data)
    assert found.classes == ("cat", "dog")
    assert open_boxes(tmp_path / "labels", dataset_of(data), data=data, classes=["x", "y"]).classes == ("x", "y")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", r"line 2: 3 numbers after the class: cx cy w h"),
        ("0 0.5 0.5 0.5 0.5 0.5", "line 2: 5 numbers"),
        ("0 0.5 0.5 0.5 0.5 0.5 0.5 0.5", "line 2: 7 numbers"),
        ("0", "line 2: 0 numbers"),
        ("0 320 240 100 50", "line 2: 320 is not a fraction of the image's width or height"),
        ("0 0.5 -0.1 0.5 0.5", "line 2: -0.1 is not a fraction"),
        ("0 0.5 nan 0.5 0.5", "line 2: 'nan' is not a number"),
        ("cat 0.5 0.5 0.5 0.5", "line 2: 'cat' is not a number"),
        ("0.5 0.5 0.5 0.5 0.5", "line 2: class '0.5' must be an integer from 0"),
        ("-1 0.5 0.5 0.5 0.5", "line 2: class '-1' must be"),
        ("2 0.5 0.5 0.5 0.5", "line 2: class 2, but there are only 2 class names"),
    ],
)
def test_invalid_yolo_lines_are_named(tmp_path, line, message):
    data = draw(tmp_path / "images", "a.png")
    path = label(tmp_path / "labels" / "a.txt", f"1 0.5 0.5 0.25 0.5\n{line}\n")
    with pytest.raises(DatasetError, match=message) as error:
        open_boxes(tmp_path / "labels", dataset_of(data), data=data, classes=["cat", "dog"])
    assert str(path) in str(error.value)


def test_undecodable_text_is_refused(tmp_path):
    data = draw(tmp_path / "images", "a.png")
    label(tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xff")
    with pytest.raises(DatasetError, match=r"a\.txt is not UTF-8 text"):
        open_boxes(tmp_path / "labels", dataset_of(data), data=data)


# Both


def test_fingerprint_depends_on_the_annotations(tmp_path):
    data = draw(tmp_path / "images", "a.png", "b.png")
    prints = []
    for box in ([1, 2, 10, 5], [1, 2, 10, 5], [1, 2, 10, 6]):
        path = coco(tmp_path / f"{len(prints)}.json", ["a.png", "b.png"], [(0, 5, box)])
        prints.append(open_boxes(path, dataset_of(data), data=data).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_unusable_labels_are_refused(tmp_path):
    data = draw(tmp_path / "images", "a.png")
    with pytest.raises(DatasetError, match="does not exist: --labels takes a COCO JSON file or a folder"):
        open_boxes(tmp_path / "none.json", dataset_of(data), data=data)
    label(tmp_path / "labels" / "a.txt")
    with pytest.raises(DatasetError, match="text files contain class indices"):
        open_boxes(tmp_path / "labels", dataset_of(data), data=data, numbering="ids")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(DatasetError, match="contains no image files"):
        open_boxes(tmp_path / "labels", dataset_of(tmp_path / "x.npy"), data=tmp_path / "x.npy")


@pytest.mark.usefixtures("ordinary_rights")
def test_unreadable_file_is_named(tmp_path):
    data = draw(tmp_path / "images", "a.png")
    path = coco(tmp_path / "x.json", ["a.png"], [OBJECT])
    path.chmod(0)
    with pytest.raises(DatasetError, match="cannot read"):
        open_boxes(path, dataset_of(data), data=data)
