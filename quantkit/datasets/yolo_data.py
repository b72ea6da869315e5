"""A YOLO data set's `data.yaml`: where its images lie, and the names of its classes.

Keys as Ultralytics reads them (data/utils.py, check_det_dataset): path, train, val, test, names, nc.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from quantkit.datasets.file_list import open_file_list
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.image_folder import open_image_folder
from quantkit.errors import DatasetError, joined_lines
from quantkit.machine import decode_text, read_input
from quantkit.types import Preprocessing, TensorSpec

YAML_SUFFIXES = (".yaml", ".yml")
Split = Literal["train", "val"]


def is_yolo_data(path: Path) -> bool:
    """Whether a path names such a file."""
    return path.suffix.lower() in YAML_SUFFIXES and path.is_file()


def open_yolo_data(
    path: Path,
    spec: TensorSpec,
    *,
    preprocessing: Preprocessing,
    split: Split = "val",
) -> ImageFiles:
    """The images of a split. Their folders are no classes; the classes of the file are of boxes.

    Raises:
        DatasetError: the file cannot be read, or the split is missing or not there.
    """
    parts = []
    places = split_paths(path, split)
    for place in places:
        open_images = open_image_folder if place.is_dir() else open_file_list
        parts.append(open_images(place, spec, preprocessing=preprocessing))
    first = parts[0]
    prefixes = [f"{place.name}/" if len(parts) > 1 else "" for place in places]
    return replace(
        first,
        kind="YOLO data",
        paths=[file for part in parts for file in part.paths],
        ids=[prefix + name for prefix, part in zip(prefixes, parts, strict=True) for name in part.ids],
        targets=None,
        classes=(),
        remarks=(f"split: {split} of {path.name}", *(remark for part in parts for remark in part.remarks)),
    )


def split_paths(path: Path, split: Split) -> list[Path]:
    """Folders and lists of a split's images.

    Raises:
        DatasetError: as `open_yolo_data`.
    """
    content = _read(path)
    said = content.get(split)
    named = [said] if isinstance(said, str) else said
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise DatasetError(f"{path} names no images: {split} is {said!r}, and must be a folder, a list or several")
    root = Path(str(content.get("path") or "."))
    # Relative to the file, to the folder above it (where Ultralytics keeps "datasets"), and to where we are.
    roots = [base / root for base in (path.parent, path.parent.parent, Path())]
    for base in roots:
        if all((base / name).exists() for name in named):
            return [base / name for name in named]
    raise DatasetError(f"{path}: {split} is {said!r}, which is not there (looked in {', '.join(map(str, roots))})")


def split_folders(path: Path) -> list[Path]:
    """Folders of images that the file names, those to evaluate on first; splits that are not there do not count."""
    folders: list[Path] = []
    splits: tuple[Split, ...] = ("val", "train")
    for split in splits:
        with contextlib.suppress(DatasetError):
            folders += [place for place in split_paths(path, split) if place.is_dir()]
    return folders


def class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes by index; those that the file leaves out are "class 7".

    Raises:
        DatasetError: as `open_yolo_data`, or names of another number than `nc`.
    """
    content = _read(path)
    names = content.get("names") or {}
    by_index = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(by_index, dict) or not all(isinstance(i, int) and 0 <= i < 65536 for i in by_index):
        raise DatasetError(f"{path}: names must be a list, or names by class index")
    if by_index and isinstance(count := content.get("nc"), int) and count != len(by_index):
        raise DatasetError(f"{path}: nc is {count}, but {len(by_index)} classes have names")
    return tuple(str(by_index.get(i, f"class {i}")) for i in range(max(by_index, default=-1) + 1))


def _read(path: Path) -> dict[str, Any]:
    import yaml  # slow to load, and few data sets need it

    stored = read_input(path, DatasetError)
    try:
        content = yaml.safe_load(decode_text(stored))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DatasetError(f"{path} is not YAML: {joined_lines(error)}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is not a data set: train, val and names are expected")
    return content
