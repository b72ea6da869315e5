from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantkit.datasets.file_list import open_file_list
from quantkit.datasets.image_files import ImageFiles
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing, TensorSpec

Open = Callable[..., ImageFiles]


@pytest.fixture
def open_text(tmp_path: Path, spec: TensorSpec, plain: Preprocessing, save_image: Callable[..., Path]) -> Open:
    """Writes a list beside a.png, b.png, d/c.png and "my, dog 3.png", and opens it."""
    for level, name in enumerate(("a.png", "b.png", "d/c.png", "my, dog 3.png")):
        save_image(name, level)

    def open_it(name: str, text: str | bytes, **options: Any) -> ImageFiles:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_file_list(path, spec, preprocessing=plain, **options)

    return open_it


# -------------------------------------------------------------------------------------------------------------- text


def test_text_without_labels_is_read(open_text: Open) -> None:
    dataset = open_text("x.txt", "# images\n\nb.png\n  a.png  \n./d/c.png\nmy, dog 3.png\n")
    assert dataset.ids == ["b.png", "a.png", "d/c.png", "my, dog 3.png"]
    assert dataset.targets is None
    assert dataset.classes == ()
    assert [int(dataset[i].inputs["image"][0, 0, 0]) for i in range(4)] == [1, 0, 2, 3]


@pytest.mark.parametrize("separator", ["\t", " ", "   ", ",", ", ", ";", " , "])
def test_text_with_class_numbers_is_read(open_text: Open, separator: str) -> None:
    dataset = open_text("x.txt", f"a.png{separator}3\nmy, dog 3.png{separator}0\n")
    assert dataset.ids == ["a.png", "my, dog 3.png"]
    assert dataset.targets == [3, 0]
    assert dataset.classes == ()


@pytest.mark.parametrize("separator", ["\t", " ", ",", ", "])
def test_text_with_class_names_is_read(open_text: Open, separator: str) -> None:
    dataset = open_text("x.txt", f"a.png{separator}polar bear\nb.png{separator}ant\nd/c.png{separator}polar bear")
    assert dataset.classes == ("ant", "polar bear")
    assert dataset.targets == [1, 0, 1]


def test_text_with_files_without_image_suffix_is_read(open_text: Open, tmp_path: Path) -> None:
    for name in ("frame", "frame 1"):
        shutil.copy(tmp_path / "a.png", tmp_path / name)
    assert open_text("x.txt", "frame 5\n").targets == [5]
    assert open_text("x.txt", "frame cat\n", classes=["dog", "cat"]).targets == [1]
    dataset = open_text("x.txt", "frame 1\n")
    assert (dataset.ids, dataset.targets) == (["frame 1"], None)


def test_text_with_windows_line_ends_is_read(open_text: Open) -> None:
    dataset = open_text("x.TXT", b"\xef\xbb\xbfa.png\t1\r\nd\\c.png\t2\r\n")
    assert dataset.ids == ["a.png", "d/c.png"]
    assert dataset.targets == [1, 2]
    assert dataset[1].target == 2


# --------------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("path", ["path", "file", "image", "Image"])
@pytest.mark.parametrize("label", ["label", "class", "Label"])
def test_csv_with_header_is_read(open_text: Open, path: str, label: str) -> None:
    dataset = open_text("x.csv", f'id,{label},{path}\n1,cat,a.png\n2,ant,"my, dog 3.png"\n')
    assert dataset.ids == ["a.png", "my, dog 3.png"]
    assert dataset.classes == ("ant", "cat")
    assert dataset.targets == [1, 0]


def test_csv_without_labels_is_read(open_text: Open) -> None:
    assert open_text("x.csv", "path,width\na.png,8\n").targets is None
    assert open_text("x.csv", "path\na.png\n").ids == ["a.png"]
    assert open_text("x.csv", "a.png\nb.png\n").ids == ["a.png", "b.png"]


def test_csv_without_header_is_read(open_text: Open) -> None:
    dataset = open_text("x.csv", "a.png,3\nb.png,0\n")
    assert dataset.targets == [3, 0]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_with_another_delimiter_is_read(open_text: Open, delimiter: str) -> None:
    dataset = open_text("x.csv", f"path{delimiter}label\na.png{delimiter}3\nmy, dog 3.png{delimiter}4\n")
    assert dataset.ids == ["a.png", "my, dog 3.png"]
    assert dataset.targets == [3, 4]


# -------------------------------------------------------------------------------------------------------- JSON lines


@pytest.mark.parametrize(("path", "label"), [("path", "label"), ("file", "class"), ("image", "label")])
def test_jsonl_is_read(open_text: Open, path: str, label: str) -> None:
    lines = [{path: "a.png", label: 3}, {path: "my, dog 3.png", label: 1, "other": [1, None]}]
    dataset = open_text("x.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert dataset.ids == ["a.png", "my, dog 3.png"]
    assert dataset.targets == [3, 1]


def test_jsonl_with_class_names_or_without_labels_is_read(open_text: Open) -> None:
    named = open_text("x.jsonl", '{"path": "a.png", "label": "cat"}\n{"path": "b.png", "label": "ant"}')
    assert (named.targets, named.classes) == ([1, 0], ("ant", "cat"))
    assert open_text("x.jsonl", '{"path": "a.png", "label": null}').targets is None


# ---------------------------------------------------------------------------------------------------- labels and ids


def test_given_classes_define_the_order(open_text: Open) -> None:
    dataset = open_text("x.txt", "a.png\tcat\nb.png\tdog\n", classes=["dog", "bird", "cat"])
    assert dataset.targets == [2, 0]
    assert dataset.classes == ("dog", "bird", "cat")
    assert open_text("x.txt", "a.png\t2\n", classes=["dog", "bird", "cat"]).targets == [2]


def test_file_listed_twice_has_two_ids(open_text: Open) -> None:
    assert open_text("x.txt", "a.png\nb.png\na.png\n").ids == ["a.png", "b.png", "a.png#2"]


def test_absolute_paths_are_not_part_of_the_ids(open_text: Open, tmp_path: Path) -> None:
    dataset = open_text("x.txt", f"{tmp_path}/a.png\n{tmp_path}/d/c.png\nb.png\n")
    assert dataset.ids == ["a.png", "d/c.png", "b.png"]
    assert dataset[1].inputs["image"][0, 0, 0] == 2
    assert open_text("x.txt", f"{tmp_path}/d/c.png").ids == ["c.png"]


def test_fingerprint_is_independent_of_folder_and_order(
    open_text: Open, tmp_path: Path, spec: TensorSpec, plain: Preprocessing
) -> None:
    first = open_text("x.txt", "a.png\nd/c.png\n").fingerprint
    assert open_text("y.csv", "d/c.png,1\na.png,0\n").fingerprint == first
    assert open_text("x.txt", "a.png\nb.png\n").fingerprint != first
    open_text("x.txt", "a.png\nd/c.png\n")
    shutil.copytree(tmp_path, tmp_path / "moved")
    moved = open_file_list(tmp_path / "moved" / "x.txt", spec, preprocessing=plain)
    assert moved.fingerprint == first


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.txt", "", r"x\.txt names no image"),
        ("x.txt", "# only\n\n", "names no image"),
        ("x.csv", "path,label\n", "names no image"),
        ("x.txt", "a.png\n\n# c\nnone.png\n", r"x\.txt line 4: 'none\.png' is no such file"),
        ("x.txt", "d\n", r"line 1: 'd' is a folder"),
        ("x.txt", "a.png b.png\n", r"line 1: 'a\.png b\.png' is no such file"),
        ("x.txt", "a.png\t1\nb.png\n", r"line 2: no label, but other lines have one"),
        ("x.txt", "a.png -1\n", r"line 1: label '-1' must be a class name or an integer"),
        ("x.txt", "a.png 1.0\nb.png cat\n", r"line 1: label '1\.0' must be"),
        ("x.txt", "a.png 99999999999\n", "line 1: .*too large"),
        ("x.txt", "a.png " + "9" * 5000, "line 1: .*too large"),
        ("x.txt", b"a\xff.png\n", "not UTF-8 text .byte 1"),
        ("x.txt", "\t1\n", r"line 1: '1' is no such file"),
        ("x.csv", "path,label\na.png,1\nnone.png,2\n", "line 3: 'none.png' is no such file"),
        ("x.csv", "path,label\na.png,1\n,2\n", "line 3: no file is named"),
        ("x.csv", "path,label\na.png,1\nb.png\n", "line 3: no label"),
        ("x.csv", "path,label\na.png,1\nb.png,\n", "line 3: no label"),
        ("x.csv", "label,path\n1,a.png\n2\n", "line 3: 1 columns, too few"),
        ("x.csv", "a.png,1,2\n", "line 1: 3 columns need a header"),
        ("x.csv", 'path\n"a.png\n', "line 2: unexpected end of data"),
        ("x.csv", "name,kind\na.png,1\n", "line 1: 'name' is no such file"),
        ("x.jsonl", '{"path": "a.png"}\n{"path": \n', "line 2: not a JSON object"),
        ("x.jsonl", '["a.png"]\n', "line 1: not a JSON object"),
        ("x.jsonl", '{"name": "a.png"}\n', 'line 1: no "path", "file" or "image"'),
        ("x.jsonl", '{"path": 3}\n', 'line 1: no "path"'),
        ("x.jsonl", '{"path": "a.png", "label": true}\n', "line 1: label True must be"),
        ("x.jsonl", '{"path": "a.png", "label": 1.0}\n', "line 1: label 1.0 must be"),
        ("x.jsonl", '{"path": "a.png", "label": -1}\n', "line 1: label '-1' must be"),
        ("x.jsonl", '{"path": "a\\u0000.png"}\n', "line 1: no file is named"),
        ("x.jsonl", "[" * 100_000, "line 1: not a JSON object"),
    ],
)
def test_errors_name_the_line(open_text: Open, name: str, text: str | bytes, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as raised:
        open_text(name, text)
    assert "\n" not in str(raised.value)


def test_label_outside_the_given_classes_is_refused(open_text: Open) -> None:
    with pytest.raises(DatasetError, match="line 2: 'bat' is not among the 2 given classes; did you mean 'cat'"):
        open_text("x.txt", "a.png\tcat\nb.png\tbat\n", classes=["dog", "cat"])
    with pytest.raises(DatasetError, match="line 1: label 2, but there are only 2 classes"):
        open_text("x.txt", "a.png\t2\n", classes=["dog", "cat"])
