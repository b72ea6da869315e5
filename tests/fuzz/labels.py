"""What the annotations of images go through: boxes of COCO's JSON and YOLO's text files, segmentation masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from quantkit.datasets.boxes import open_boxes
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.masks import open_masks
from quantkit.errors import DatasetError
from quantkit.types import BoxAnnotations, MaskAnnotations, Preprocessing

from . import seeds
from .mutations import mutate_json, mutate_text, seal_png
from .oracle import Target

__all__ = ["LABELS"]

CLASSES = ("dög", "cat", "bird")


def pictures(folder: Path, *names: str) -> ImageFiles:
    return ImageFiles(
        kind="image folder",
        paths=[folder / name for name in names],
        ids=list(names),
        targets=None,
        classes=(),
        input_name="x",
        preprocessing=Preprocessing(size=(8, 9)),
    )


def setup_pictures(folder: Path) -> None:
    """Two images, and a label file of YOLO for the one that has no damaged one."""
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("input.png", "sub/b.png"):
        Image.new("RGB", (9, 8)).save(folder / name)
    (folder / "sub" / "b.txt").write_text("2 0.5 0.5 1 1\n")


def setup_class_names(folder: Path) -> None:
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.txt").write_text("2 0.5 0.5 1 1\n")


def parse_coco(path: Path) -> BoxAnnotations:
    return open_boxes(path, pictures(path.parent, "a.png", "sub/b.png"), data=path.parent)


def use_coco(boxes: BoxAnnotations, path: Path) -> None:
    """With the other ways to number classes, too, each of which may refuse the file."""
    use_boxes(boxes, path)
    data = pictures(path.parent, "a.png", "sub/b.png")
    for options in ({"numbering": "ids"}, {"numbering": "ids-1"}, {"classes": CLASSES}):
        try:
            found = open_boxes(path, data, data=path.parent, **options)  # type: ignore[arg-type]
        except DatasetError as error:
            check_message(error, path.name)
        else:
            use_boxes(found, path)


def parse_yolo(path: Path) -> BoxAnnotations:
    return open_boxes(path.parent, pictures(path.parent, "input.png", "sub/b.png"), data=path.parent)


def parse_yolo_with_names(path: Path) -> BoxAnnotations:
    return open_boxes(path.parent, pictures(path.parent, "input.png", "sub/b.png"), data=path.parent, classes=CLASSES)


def use_yolo(boxes: BoxAnnotations, path: Path) -> None:
    use_boxes(boxes, path)
    try:
        parse_yolo_with_names(path)
    except DatasetError as error:
        check_message(error, path.name)


def parse_class_names(path: Path) -> BoxAnnotations:
    """The file is copied beside labels, where it is found; a refusal names it or the label that does not fit it."""
    (path.parent / "labels" / "classes.txt").write_bytes(path.read_bytes())
    try:
        return open_boxes(path.parent / "labels", pictures(path.parent, "a.png"), data=path.parent)
    except DatasetError as error:
        check_message(error, "classes.txt" if "classes.txt" in str(error) else "a.txt line 1")
        raise DatasetError(f"{path.name}: {error}") from None


def use_boxes(boxes: BoxAnnotations, path: Path) -> None:
    """Finite, in order, of known classes."""
    assert boxes.fingerprint
    for found in boxes.boxes.values():
        corners = found.corners
        assert corners.shape == (len(found), 4)
        assert np.isfinite(corners).all(), f"{path.name}: a box without end"
        assert (corners[:, 2:] >= corners[:, :2]).all(), f"{path.name}: a box that ends before it begins"
        assert (found.classes >= 0).all()
        assert not boxes.classes or (found.classes < len(boxes.classes)).all()
    assert all(height > 0 and width > 0 for height, width in boxes.image_sizes.values()), "an image without pixels"


def parse_mask(path: Path) -> tuple[MaskAnnotations, npt.NDArray[np.uint8]]:
    """`input.png` is the mask of a picture of that name."""
    opened = open_masks(path.parent, pictures(path.parent, path.name))
    return opened, opened[path.name]


def use_mask(read: tuple[MaskAnnotations, npt.NDArray[np.uint8]], path: Path) -> None:
    """Read again as one that counts classes from 1, unless the header makes millions of pixels of it."""
    masks, mask = read
    assert (mask.dtype, mask.ndim) == (np.dtype(np.uint8), 2)
    assert masks.fingerprint
    if mask.size > 1 << 20:
        return
    from_one = open_masks(path.parent, pictures(path.parent, path.name), reduce_zero_label=True)[path.name]
    wanted = np.where((mask == 0) | (mask == 255), 255, mask.astype(np.int64) - 1)
    assert (from_one == wanted).all()


def check_message(error: Exception, name: str = "") -> None:
    message = str(error)
    assert len(message.splitlines()) == 1, f"a message of several lines: {message!r}"
    assert name in message, f"a message without the name: {message!r}"


_boxes: Any = partial(Target, setup=setup_pictures)

LABELS: dict[str, Target] = {
    "COCO boxes": _boxes(".json", seeds.coco_files, parse_coco, use_coco, mutate_json),
    "YOLO boxes": _boxes(".txt", seeds.yolo_labels, parse_yolo, use_yolo, mutate_text),
    "names of YOLO's classes": Target(
        ".txt",
        seeds.class_lists,
        parse_class_names,
        use_boxes,
        mutate_text,
        setup=setup_class_names,
        share=0.5,
    ),
    "PNG mask": Target(".png", seeds.masks, parse_mask, use_mask, seal=seal_png),
}
