"""Detections matched with objects by pycocotools, image by image. Averaging is left to `average_precision`."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.types import Boxes

IOU_THRESHOLDS: npt.NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""COCO's: .50, .55, ... .95."""

MAX_PER_CLASS = 100
"""Detections of one class in one image that count, COCO's maxDets."""

_ANY_AREA = [0.0, 1e10]


@dataclass(frozen=True)
class ImageMatches:
    """What was found in one image. D detections, by class and falling score; P objects that are no crowds.

    Attributes:
        classes: int32 [D].
        scores: float32 [D].
        matched: uint16 [D], bit t: on an object or a crowd at IOU_THRESHOLDS[t].
        ignored: uint16 [D], bit t: counts neither as found nor as false there, because it is on a crowd.
        objects: int64 [P], places of the objects among the image's annotations.
        object_classes: int32 [P].
        found_by: int32 [P], which detection found the object at the lowest threshold; -1 where none did.
    """

    classes: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    matched: npt.NDArray[np.uint16]
    ignored: npt.NDArray[np.uint16]
    objects: npt.NDArray[np.int64]
    object_classes: npt.NDArray[np.int32]
    found_by: npt.NDArray[np.int32]


def match_images(truths: Sequence[Boxes], found: Sequence[Boxes]) -> list[ImageMatches]:
    """Matches the detections of each image with its objects, as COCO's evaluation of all areas does.

    Source: Lin et al. (2014), Microsoft COCO, and its pycocotools.

    Args:
        truths: annotated boxes of each image, in pixels.
        found: detected boxes of each image, in pixels, with scores.
    """
    from pycocotools.coco import COCO  # local: only detection pays for loading it
    from pycocotools.cocoeval import COCOeval  # local: likewise

    per_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(COCO, truths), _coco(COCO, found), "bbox")
        params = evaluation.params
        params.imgIds = list(range(len(truths)))
        params.catIds = sorted({int(c) for boxes in (*truths, *found) for c in boxes.classes})
        params.iouThrs = IOU_THRESHOLDS
        params.areaRng, params.areaRngLbl, params.maxDets = [_ANY_AREA], ["all"], [MAX_PER_CLASS]
        if params.catIds:
            evaluation.evaluate()
            for entry in evaluation.evalImgs:
                if entry is not None:
                    per_image[int(entry["image_id"])].append(entry)
    return [_gather(per_image[index], truth) for index, truth in enumerate(truths)]


def _gather(entries: list[dict[str, Any]], truth: Boxes) -> ImageMatches:
    """The entries that pycocotools has of one image, one a class, as arrays."""
    sizes = [len(entry["dtIds"]) for entry in entries]
    starts = np.cumsum([0, *sizes])
    objects: list[int] = []
    found_by: list[int] = []
    for entry, start in zip(entries, starts.tolist(), strict=False):
        place_of = {detection: start + place for place, detection in enumerate(entry["dtIds"])}
        for identity, detection, ignored in zip(entry["gtIds"], entry["gtMatches"][0], entry["gtIgnore"], strict=True):
            if not ignored:
                objects.append(int(identity) & _ROW_MASK)
                found_by.append(place_of.get(int(detection), -1))
    places = np.array(objects, np.int64)
    return ImageMatches(
        classes=np.repeat(np.array([entry["category_id"] for entry in entries], np.int32), sizes),
        scores=np.array([score for entry in entries for score in entry["dtScores"]], np.float32),
        matched=_bits([entry["dtMatches"] for entry in entries]),
        ignored=_bits([entry["dtIgnore"] for entry in entries]),
        objects=places,
        object_classes=truth.classes[places].astype(np.int32),
        found_by=np.array(found_by, np.int32),
    )


# An identity holds image and row: pycocotools wants one number from 1 that is unique over all images.
_ROW_BITS = 24
_ROW_MASK = (1 << _ROW_BITS) - 1


def _coco(coco_type: Any, images: Sequence[Boxes]) -> Any:
    """Boxes as an index of pycocotools."""
    coco = coco_type()
    coco.dataset = {
        "images": [{"id": index} for index in range(len(images))],
        "categories": [{"id": int(c)} for c in sorted({int(c) for boxes in images for c in boxes.classes})],
        "annotations": [entry for index, boxes in enumerate(images) for entry in _entries(index, boxes)],
    }
    coco.createIndex()
    return coco


def _entries(image: int, boxes: Boxes) -> list[dict[str, Any]]:
    left, top, right, bottom = boxes.corners.T
    sides = np.stack((left, top, right - left, bottom - top), axis=1).tolist()
    classes = boxes.classes.tolist()
    scores = [0.0] * len(boxes) if boxes.scores is None else boxes.scores.tolist()
    crowds = [False] * len(boxes) if boxes.crowds is None else boxes.crowds.tolist()
    return [
        {
            "id": ((image + 1) << _ROW_BITS) + row,
            "image_id": image,
            "category_id": classes[row],
            "bbox": sides[row],
            "area": sides[row][2] * sides[row][3],
            "score": scores[row],
            "iscrowd": int(crowds[row]),
        }
        for row in range(len(boxes))
    ]


def _bits(flags: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.uint16]:
    """Arrays [T, D] → one number for each of all D, bit t from row t."""
    if not flags:
        return np.zeros(0, np.uint16)
    every = np.concatenate(flags, axis=1) > 0
    weights = (1 << np.arange(len(every), dtype=np.uint16))[:, None]
    result: npt.NDArray[np.uint16] = (every * weights).sum(axis=0).astype(np.uint16)
    return result
