"""Parts of images as samples: the boxes of a CSV file (faces, plates, text lines)."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.file_list import LABEL_COLUMNS, PATH_COLUMNS, read_list
from quantkit.datasets.image_decoding import Box
from quantkit.datasets.image_files import ImageFiles, name_samples
from quantkit.errors import DatasetError

_EDGES = ("left", "top", "right", "bottom")
_FORMS = (_EDGES, ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x", "y", "width", "height"))
"""Names that the four numbers may have; the last are a corner and a size."""


@dataclass(frozen=True)
class _Row:
    where: str
    path: str
    box: Box
    label: str | None


def crop_images(images: ImageFiles, path: Path, *, classes: Sequence[str] | None = None) -> ImageFiles:
    """The boxes of `images` as samples, in the order of the file; images without a box are left out.

    Args:
        images: all of the data.
        path: CSV with a header: path, file or image (as the ids of `images` have it, or a file's name that is there
            once), left, top, right, bottom in pixels of the upright image (or xmin, ymin, xmax, ymax; x1, y1, x2, y2;
            x, y, width, height), and optionally label or class in place of the image's own.
        classes: class names by index.

    Raises:
        DatasetError: naming the line of what cannot be understood or of an image that is not there, or the file if it
            is no such CSV or all of its boxes are fractions of the image.
    """
    rows = _read(path)
    index_of = _Finder(images)
    indices = [index_of.find(row) for row in rows]
    names = [f"{images.ids[i]}[{','.join(f'{v:g}' for v in row.box)}]" for i, row in zip(indices, rows, strict=True)]
    targets = None if images.targets is None else [images.targets[i] for i in indices]
    known = images.classes
    if any(row.label is not None for row in rows):
        targets, known = _targets(rows, classes)
    used = len(set(indices))
    _check_pixels(rows, path)
    rest = "" if used == len(images) else f"; {len(images) - used} of the images have none and are left out"
    if thin := [name for name, row in zip(names, rows, strict=True) if min(_sides(row.box)) < 2]:
        rest += f"; smaller than 2 pixels in a side: {len(thin)}, first {thin[0]}"
    return replace(
        images,
        kind="crops",
        paths=[images.paths[i] for i in indices],
        ids=name_samples(names),
        targets=targets,
        classes=known,
        boxes=[row.box for row in rows],
        remarks=(*images.remarks, f"crops: {len(rows)} boxes of {used} images by {path.name}{rest}"),
    )


class _Finder:
    """Which image a row means: by its id, else by the name of its file where that is there once."""

    def __init__(self, images: ImageFiles) -> None:
        self._by_id = {name: i for i, name in enumerate(images.ids)}
        self._by_name: defaultdict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(images.ids):
            self._by_name[PurePosixPath(name).name].append(i)

    def find(self, row: _Row) -> int:
        (name,) = name_samples([row.path.replace("\\", "/").removeprefix("./")])
        if name in self._by_id:
            return self._by_id[name]
        found = self._by_name.get(PurePosixPath(name).name, [])
        if len(found) == 1:
            return found[0]
        reason = f"{len(found)} images have that name: write the folder too" if found else "no such image in --data"
        raise DatasetError(f"{row.where}: {row.path!r}: {reason}")


def _read(path: Path) -> list[_Row]:
    reader = csv.DictReader(io.StringIO(read_list(path), newline=""), strict=True, skipinitialspace=True)
    try:
        fields = _fields(reader)
        place = next((fields[c] for c in PATH_COLUMNS if c in fields), None)
        form = next((form for form in _FORMS if all(edge in fields for edge in form)), None)
        if place is None or form is None:
            raise DatasetError(
                f"--crops: {path} needs a header with path, {', '.join(_EDGES)} (in pixels), and optionally "
                "label, as CSV"
            )
        label = next((fields[c] for c in LABEL_COLUMNS if c in fields), None)
        rows = []
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            values = [_number(cells, fields[edge], where) for edge in form]
            if form[2] == "width":
                values = [*values[:2], values[0] + values[2], values[1] + values[3]]
            box = (values[0], values[1], values[2], values[3])
            said = None if label is None else (cells.get(label) or "").strip() or None
            rows.append(_Row(where, (cells.get(place) or "").strip(), box, said))
    except csv.Error as error:
        raise DatasetError(f"{path} line {reader.line_num}: {error}") from error
    if not rows:
        raise DatasetError(f"{path} holds no box")
    return rows


def _fields(reader: csv.DictReader[str]) -> dict[str, str]:
    """The columns of the header in lower case; none where the file is no CSV, such as COCO JSON."""
    try:
        return {name.strip().lower(): name for name in reader.fieldnames or () if name}
    except csv.Error:
        return {}


def _check_pixels(rows: Sequence[_Row], path: Path) -> None:
    # A corner and a size, added, may exceed 1 by rounding.
    if all(-1e-6 <= edge <= 1 + 1e-6 for row in rows for edge in row.box):
        raise DatasetError(
            f"--crops: all boxes of {path} lie within 0 and 1, as fractions of the image do: pixels are expected "
            "(multiply by the image's width and height)"
        )


def _sides(box: Box) -> tuple[int, int]:
    """Width and height in whole pixels, as the image is cut."""
    left, top, right, bottom = map(round, box)
    return right - left, bottom - top


def _number(cells: Mapping[str, str | None], field: str, where: str) -> float:
    try:
        value = float(cells.get(field) or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where}: {field} is {cells.get(field)!r}, which is no number of pixels")
    return value


def _targets(rows: Sequence[_Row], classes: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
    if missing := next((row for row in rows if row.label is None), None):
        raise DatasetError(f"{missing.where}: no label, but other lines have one")
    places: dict[str, str] = {}
    for row in rows:
        places.setdefault(str(row.label), row.where)
    indices, names = index_labels(places, classes)
    return [indices[str(row.label)] for row in rows], names
