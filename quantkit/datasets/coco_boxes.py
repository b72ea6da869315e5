"""Boxes from COCO's JSON of objects ("instances")."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec
import numpy as np

from quantkit.datasets.annotated_images import AnnotatedImage, compose
from quantkit.errors import DatasetError
from quantkit.machine import read_input
from quantkit.notices import join_names
from quantkit.types import Boxes, PathLike

Numbering = Literal["sorted", "ids", "ids-1"]
"""How category ids become class indices."""

_LARGEST = 1 << 31
"""Pixels of an image's width that nothing has."""


def read_coco(
    source: Path,
    samples: Sequence[AnnotatedImage],
    *,
    classes: tuple[str, ...],
    numbering: Numbering,
) -> CocoBoxes:
    """Boxes of each sample in pixels; annotations of no image, and boxes that are empty or negative, are skipped.

    Raises:
        DatasetError: as `quantkit.datasets.boxes.open_boxes`.
    """
    coco = _decode_coco(source)
    images = {image.id: image for image in coco.images}
    if len(images) < len(coco.images):
        raise DatasetError(f"{source}: image id {_twice(i.id for i in coco.images)!r} is there twice")
    objects: dict[int | str, list[_CocoObject]] = defaultdict(list)
    orphans, empty = [], []
    for item in coco.annotations:
        if item.image_id not in images:
            orphans.append(item)
        elif not _has_area(source, item):
            empty.append(item)
        else:
            objects[item.image_id].append(item)
    entry_of = _match_images(source, coco.images, samples)
    used = {item.category_id for image in entry_of.values() for item in objects[image.id]}
    index_of, names = _number_categories(source, coco.categories, used, classes, numbering)
    boxes, sizes = {}, {}
    for sample in samples:
        image = entry_of[sample.id]
        boxes[sample.id] = _coco_boxes(objects[image.id], index_of)
        if image.width and image.height:
            if not (1 <= image.width < _LARGEST and 1 <= image.height < _LARGEST):
                raise DatasetError(f"{source}: image {image.id!r} has no possible width and height: pixels from 1")
            sizes[sample.id] = (round(image.height), round(image.width))
    notes = (
        *_skipped(source, "annotation", "of an image that the file does not have", [str(o.id) for o in orphans]),
        *_skipped(source, "annotation", "whose bbox is empty or negative", [str(o.id) for o in empty]),
    )
    return CocoBoxes(boxes, names, sizes, notes, tuple(image.file_name for image in coco.images))


@dataclass(frozen=True)
class CocoBoxes:
    """What a file says of the samples.

    Attributes:
        boxes: by sample id, in pixels.
        classes: names by index.
        sizes: (height, width) of images, by sample id, where the file says them.
        notes: what was skipped, one sentence each.
        files: that the file names, of its images.
    """

    boxes: dict[str, Boxes]
    classes: tuple[str, ...]
    sizes: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    files: tuple[str, ...]

    def absent(self, source: Path, present: Container[str], data: PathLike) -> tuple[str, ...]:
        """The note of its images whose names are not among those of the data's files."""
        gone = [name for name in self.files if compose(PurePosixPath(name.replace("\\", "/")).name) not in present]
        verb = "that is" if len(gone) == 1 else "that are"
        return _skipped(source, "image", f"{verb} not in {data}", gone)


def _skipped(source: Path, noun: str, why: str, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    count = f"1 {noun} {why} was" if len(names) == 1 else f"{len(names)} {noun}s {why} were"
    return (f"{source.name}: {count} skipped: {join_names(names)}.",)


def _has_area(source: Path, item: _CocoObject) -> bool:
    if len(item.bbox) not in (0, 4):
        raise DatasetError(f"{source} is not a COCO JSON of objects: annotation {item.id} has bbox {item.bbox}")
    return len(item.bbox) == 4 and item.bbox[2] > 0 and item.bbox[3] > 0


class _CocoImage(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class _CocoObject(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: list[float]
    id: int | str = "?"
    iscrowd: int | bool = 0


class _CocoCategory(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoObject]
    categories: list[_CocoCategory]


def _decode_coco(source: Path) -> _Coco:
    content = read_input(source, DatasetError).removeprefix(b"\xef\xbb\xbf")
    try:
        return msgspec.json.decode(content, type=_Coco)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(
            f"{source} is not a COCO JSON of objects (images, annotations with bbox, categories): {error}"
        ) from error


def _match_images(
    source: Path, entries: Sequence[_CocoImage], samples: Sequence[AnnotatedImage]
) -> dict[str, _CocoImage]:
    """The entry of each sample: the one whose path ends most like its path; other folders only for a unique name."""
    by_name: dict[str, list[tuple[tuple[str, ...], _CocoImage]]] = defaultdict(list)
    for entry in entries:
        parts = PurePosixPath(compose(entry.file_name).replace("\\", "/")).parts
        if not parts:
            raise DatasetError(f"{source}: image {entry.id!r} has no file_name")
        by_name[parts[-1]].append((parts, entry))
    paths_of_name: dict[str, set[Path]] = defaultdict(set)
    for sample in samples:
        paths_of_name[sample.parts[-1]].add(sample.path)
    found: dict[str, _CocoImage] = {}
    taken: dict[int | str, AnnotatedImage] = {}
    for sample in samples:
        name = sample.parts[-1]
        full = tuple(compose(part) for part in sample.path.absolute().parts)
        candidates = by_name.get(name, [])
        if len(candidates) > 1 or len(paths_of_name[name]) > 1:
            candidates = [c for c in candidates if _same_end(c[0], full) or _same_end(sample.parts, c[0])]
            longest = max((_common_end(parts, full) for parts, _ in candidates), default=0)
            candidates = [c for c in candidates if _common_end(c[0], full) == longest]
        if not candidates:
            raise DatasetError(f"{source} has no entry for {sample.id!r}: every image needs one, also without objects")
        entry = candidates[0][1]
        if len(candidates) > 1:
            raise DatasetError(
                f"{source} has {len(candidates)} entries for {sample.id!r}, {entry.file_name!r}: keep one"
            )
        other = taken.setdefault(entry.id, sample)
        if other.path != sample.path:
            raise DatasetError(
                f"{source}: {entry.file_name!r} may be {other.id!r} or {sample.id!r}: "
                "add the folder to file_name, or pass the folder as --data"
            )
        found[sample.id] = entry
    return found


def _same_end(end: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    return _common_end(end, whole) == len(end)


def _common_end(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    pairs = zip(reversed(left), reversed(right), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _number_categories(
    source: Path,
    categories: Sequence[_CocoCategory],
    used: set[int],
    classes: tuple[str, ...],
    numbering: Numbering,
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Class index of each category id, and the names by index."""
    names = {category.id: category.name for category in categories}
    if len(names) < len(categories):
        raise DatasetError(f"{source}: category id {_twice(c.id for c in categories)} is there twice")
    if missing := sorted(used - names.keys()):
        raise DatasetError(f"{source}: annotations are of category {missing[0]}, which is not among its categories")
    if classes:
        wanted = {category: name for category, name in names.items() if category in used or name in classes}
        return {category: _find_class(source, name, classes) for category, name in wanted.items()}, classes
    if numbering == "sorted":
        ordered = sorted(names)
        return {category: index for index, category in enumerate(ordered)}, tuple(names[c] for c in ordered)
    first = 0 if numbering == "ids" else 1
    if names and min(names) < first:
        raise DatasetError(f"{source}: category id {min(names)} cannot be class {min(names) - first}")
    by_index = {category - first: name for category, name in names.items()}
    if max(by_index, default=0) > 65535:
        raise DatasetError(f"{source}: category id {max(names)} is too large for a class index: number them by order")
    known = tuple(by_index.get(index, f"class {index}") for index in range(max(by_index, default=-1) + 1))
    return {category: category - first for category in names}, known


def _find_class(source: Path, name: str, classes: tuple[str, ...]) -> int:
    count = classes.count(name)
    if count == 1:
        return classes.index(name)
    if count:
        raise DatasetError(f"class {name!r} is in the list of classes {count} times")
    close = difflib.get_close_matches(name, classes, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DatasetError(f"{source}: category {name!r} is not among the {len(classes)} given classes{hint}")


def _coco_boxes(objects: Sequence[_CocoObject], index_of: Mapping[int, int]) -> Boxes:
    corners = np.empty((len(objects), 4), np.float64)
    for row, item in enumerate(objects):
        left, top, width, height = item.bbox
        corners[row] = left, top, left + width, top + height
    crowds = np.array([bool(item.iscrowd) for item in objects], np.bool_)
    return Boxes(
        corners=corners,
        classes=np.array([index_of[item.category_id] for item in objects], np.int64),
        crowds=crowds if crowds.any() else None,
    )


def _twice(values: Iterable[int | str]) -> int | str:
    return Counter(values).most_common(1)[0][0]
