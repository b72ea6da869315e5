"""How well a single image was answered: its own average precision, and what a person would be shown of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.detection.matching import IOU_THRESHOLDS, ImageMatches

SHOWN_SCORE = 0.25
"""Detections from this score on are what a person would be shown."""

_BITS: npt.NDArray[np.uint16] = np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)[:, None]


class ImageAnswer:
    """One image as a variant answers it.

    Attributes:
        precision: its own average precision, see `image_precision`.
        found: places of the objects found at IoU 0.5 by detections of `SHOWN_SCORE` or more.
        num_objects: annotated, crowds left out.
        num_false: how many of these detections are on no object.
    """

    def __init__(self, image: ImageMatches) -> None:
        # Matching goes from the highest score down, so what is below the shown score has taken nothing away.
        shown = image.scores >= SHOWN_SCORE
        is_found = np.array([place >= 0 and shown[place] for place in image.found_by.tolist()], np.bool_)
        self.precision = image_precision(image)
        self.found = frozenset(image.objects[is_found].tolist())
        self.num_objects = len(image.objects)
        self.num_false = int((shown & ~(image.matched & 1).astype(np.bool_)).sum())

    def describe(self) -> str:
        """``AP 81.2%, 5 of 6 found, 1 false``."""
        found = f"{len(self.found)} of {self.num_objects} found" if self.num_objects else "nothing to find"
        return f"AP {100 * self.precision:.1f}%, {found}, {self.num_false} false"


def image_precision(image: ImageMatches) -> float:
    """Average precision of all detections of one image in one ranking, mean over IoU 0.50 to 0.95.

    An object counts with the highest precision at or below its place in the ranking, and with 0 where it is not found:
    ``mean over thresholds of sum(precision at the objects) / objects``. In an image without objects it is 1 less the
    highest score. Source: the area under the interpolated curve of Everingham et al. (2010), The PASCAL VOC Challenge.

    Args:
        image: its detections and objects, matched.
    """
    order = np.argsort(-image.scores, kind="stable")
    ignored = ((image.ignored[order] >> _BITS) & 1).astype(np.bool_)  # [thresholds, detections]
    if not image.objects.size:
        falsely = image.scores[order][~ignored[0]]
        return 1.0 - (min(1.0, float(falsely[0])) if falsely.size else 0.0)
    hits = ((image.matched[order] >> _BITS) & 1).astype(np.bool_) & ~ignored
    precision = np.cumsum(hits, axis=1) / np.maximum(np.cumsum(~ignored, axis=1), 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return float((envelope * hits).sum() / image.objects.size / len(IOU_THRESHOLDS))
