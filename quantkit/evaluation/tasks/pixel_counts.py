"""Pixels of a segmentation counted: of each image what IoU takes, and scores of any weighted set of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.tasks.class_maps import NO_CLASS

RIGHT, TRUE, _PREDICTED = 0, 1, 2
_IMAGES_AT_ONCE = 1024
_VALUES_AT_ONCE = 1 << 22

Counts = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint32]]
"""Of one image: the classes in it, [k], and how many of their pixels are right, true and predicted, [3, k]: diagonal,
row sums and column sums of its confusion matrix (rows are the truth), which is all that IoU takes. Kept for every
image, so the types are small."""


def count_pixels(truth: npt.NDArray[np.uint8], true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int16]) -> Counts:
    """Of one image: classes of its pixels [P], how many there are of each, and what was predicted [P]."""
    right = np.bincount(truth[truth == predicted], minlength=len(true))
    found = np.bincount(predicted[predicted != NO_CLASS], minlength=len(true))
    present = np.flatnonzero(true + found)
    return present.astype(np.int16), np.stack([right, true, found])[:, present].astype(np.uint32)


def are_equal(counts: Counts, others: Counts) -> bool:
    """Whether two variants answer an image alike, as far as IoU tells."""
    return np.array_equal(counts[0], others[0]) and np.array_equal(counts[1], others[1])


def only_background(images: Sequence[Counts]) -> bool:
    """Whether masks hold no class but the first."""
    return not any(counts[TRUE, classes != 0].any() for classes, counts in images)


def mean_over_truth(counts: Counts) -> float:
    """IoU, mean over the classes that the image's mask has: one stray pixel of another class must not halve it."""
    _, numbers = counts
    there = numbers[:, numbers[TRUE] > 0]
    return float(iou_of(there).mean()) if there.size else 0.0


def weighted_totals(
    images: Sequence[Counts], weights: npt.NDArray[np.uint16], num_classes: int
) -> npt.NDArray[np.float64]:
    """Counts over the set for each row of weights, [rows, 3, num_classes], in blocks of images; sums are exact."""
    totals = np.zeros((len(weights), 3 * num_classes))
    step = max(1, min(_IMAGES_AT_ONCE, _VALUES_AT_ONCE // (3 * num_classes)))
    for start in range(0, len(images), step):
        block = images[start : start + step]
        dense = np.zeros((len(block), 3, num_classes))
        for image, (classes, counts) in zip(dense, block, strict=True):
            image[:, classes] = counts
        totals += weights[:, start : start + step].astype(np.float64) @ dense.reshape(len(block), -1)
    return totals.reshape(len(weights), 3, num_classes)


def iou_of(totals: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """[..., 3, C] → [..., C], NaN for a class that is nowhere."""
    right = totals[..., RIGHT, :]
    union = totals[..., TRUE, :] + totals[..., _PREDICTED, :] - right
    with np.errstate(invalid="ignore"):
        ious: npt.NDArray[np.float64] = np.true_divide(right, union)
    return ious


def mean_iou(totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[..., 3, C] → [...], over the classes that are somewhere; NaN where none is."""
    ious = iou_of(totals)
    somewhere = ~np.isnan(ious)
    with np.errstate(invalid="ignore"):
        mean: npt.NDArray[np.float64] = np.where(somewhere, ious, 0).sum(axis=-1) / somewhere.sum(axis=-1)
    return mean
