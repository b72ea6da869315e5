"""Boxes from YOLO's text files: one for each image, a line for each object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from quantkit.datasets.annotated_images import AnnotatedImage, compose
from quantkit.datasets.file_list import read_list
from quantkit.datasets.image_folder import walk
from quantkit.errors import DatasetError
from quantkit.types import Boxes

_CLASS_FILES = ("classes.txt", "obj.names")
_OUTSIDE = 1.01
"""Rounding may carry a box of a text file a little over the image's edge; more than this is no fraction."""


def read_yolo(
    source: Path, samples: Sequence[AnnotatedImage], *, classes: tuple[str, ...]
) -> tuple[dict[str, Boxes], tuple[str, ...]]:
    """Boxes of each sample in fractions of its image, and class names by index, none where they are not known.

    Raises:
        DatasetError: as `quantkit.datasets.boxes.open_boxes`.
    """
    files = _find_texts(source, samples)
    if not files:
        example = str(PurePosixPath(*samples[0].parts).with_suffix(".txt"))
        raise DatasetError(
            f"{source} holds no text file for any of the {len(samples)} images: looked for {example!r} in it, and for "
            "folders named images and labels side by side"
        )
    names = classes or _read_names(source, files.values())
    boxes = {}
    for sample in samples:
        path = files.get(sample.id)
        boxes[sample.id] = _yolo_boxes(path, len(names)) if path else _boxes([], [])
    return boxes, names


def find_folder(folders: Sequence[Path], samples: Sequence[AnnotatedImage]) -> Path | None:
    """The first folder that has a text file for any of the samples."""
    return next((folder for folder in folders if _find_texts(folder, samples)), None)


def label_folders(images: Path) -> list[Path]:
    """Where the text files of a folder's images lie: the same folder below "labels", and "labels" itself."""
    path = _labels_for_images(images / "image")
    if path is None:
        return []
    root = next(parent for parent in path.parents if parent.name == "labels")
    return [folder for folder in dict.fromkeys((path.parent, root)) if folder.is_dir()]


def _find_texts(source: Path, samples: Sequence[AnnotatedImage]) -> dict[str, Path]:
    """The text file of each sample that has one: by its own path below `source`, or with "labels" for "images"."""
    mirrored = {compose(name): source / name for name in walk(source) if name.lower().endswith(".txt")}
    here = {s.id: str(PurePosixPath(*s.parts).with_suffix(".txt")) for s in samples}
    if files := {key: mirrored[name] for key, name in here.items() if name in mirrored}:
        return files
    root = source.absolute()
    by_convention = {}
    for sample in samples:
        if path := _labels_for_images(sample.path.absolute()):
            # What the user names decides: the labels below it, or those of the images below it.
            inside = root in path.parents or root in sample.path.absolute().parents
            if inside and path.is_file():
                by_convention[sample.id] = path
    return by_convention


def _labels_for_images(path: Path) -> Path | None:
    """``.../images/val/a.jpg`` → ``.../labels/val/a.txt``; None where no folder is named images."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if not places:
        return None
    parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_names(source: Path, files: Iterable[Path]) -> tuple[str, ...]:
    """Names of a ``classes.txt`` in the named folder, in those of the files or above; nothing where there is none."""
    folders = [source, *dict.fromkeys(file.parent for file in files)]
    folders += list(dict.fromkeys(parent for folder in folders for parent in folder.absolute().parents[:2]))
    for folder in folders:
        for name in _CLASS_FILES:
            path = folder / name
            if path.is_file():
                lines = [line.strip() for line in read_list(path).splitlines()]
                return tuple(line for line in lines if line)
    return ()


def _yolo_boxes(path: Path, num_classes: int) -> Boxes:
    corners: list[tuple[float, float, float, float]] = []
    classes: list[int] = []
    for number, line in enumerate(read_list(path).split("\n"), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path} line {number}"
        classes.append(_class_index(words[0], where, num_classes))
        corners.append(_yolo_corners(words[1:], where))
    return _boxes(corners, classes)


def _class_index(word: str, where: str, num_classes: int) -> int:
    value = _number(word, where)
    if value != int(value) or not 0 <= value < 2**31:
        raise DatasetError(f"{where}: class {word!r} must be an integer from 0")
    if num_classes and value >= num_classes:
        raise DatasetError(f"{where}: class {word}, but there are only {num_classes} class names")
    return int(value)


def _yolo_corners(words: Sequence[str], where: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of ``cx cy w h``, or of a polygon's points."""
    values = [_number(word, where) for word in words]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DatasetError(
            f"{where}: {len(values)} numbers after the class: cx cy w h, or three or more points, expected"
        )
    if wrong := next((w for w, v in zip(words, values, strict=True) if not 0 <= v <= _OUTSIDE), None):
        raise DatasetError(f"{where}: {wrong} is not a fraction of the image's width or height, from 0 to 1")
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _number(word: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where}: {word[:40]!r} is not a number")
    return value


def _boxes(corners: Sequence[tuple[float, float, float, float]], classes: Sequence[int]) -> Boxes:
    return Boxes(np.array(corners, np.float64).reshape(-1, 4), np.array(classes, np.int64))
