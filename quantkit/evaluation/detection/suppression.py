"""Non-maximum suppression: of boxes of one class that overlap, the one with the highest score stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# More candidates than this are cut by score before, as Ultralytics' max_nms does.
_MOST_CANDIDATES = 30_000
# Candidates that are compared at a time: large enough to hide the interpreter, small enough to stop early.
_BLOCK = 256


def suppress(
    corners: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    *,
    iou_threshold: float,
    max_detections: int,
) -> npt.NDArray[np.intp]:
    """Greedy suppression within each class, from the highest score down; of equal scores the earlier row goes first.

    A box goes where its intersection over union with one that stays is above `iou_threshold`.

    Args:
        corners: [M, 4] left, top, right, bottom.
        scores: [M], finite.
        classes: [M].
        iou_threshold: 0 to 1.
        max_detections: how many stay at most, over all classes.

    Returns:
        Rows that stay, by falling score.
    """
    order = np.argsort(-scores, kind="stable")[:_MOST_CANDIDATES]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    kept = np.empty(max_detections, np.intp)
    count = 0
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        if count:
            over = _clashes(corners, areas, classes, block, kept[:count], iou_threshold)
            block = block[~over.any(axis=1)]
        later = np.triu(_clashes(corners, areas, classes, block, block, iou_threshold), 1)
        stays = np.ones(len(block), np.bool_)
        for row in np.flatnonzero(later.any(axis=1)):
            if stays[row]:
                stays &= ~later[row]
        chosen = block[stays][: max_detections - count]
        kept[count : count + len(chosen)] = chosen
        count += len(chosen)
        if count == max_detections:
            break
    return kept[:count]


def _clashes(
    corners: npt.NDArray[np.float32],
    areas: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    iou_threshold: float,
) -> npt.NDArray[np.bool_]:
    """Bool [rows, columns]: same class, and overlap above the threshold."""
    a, b = corners[rows][:, None], corners[columns][None]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    union = areas[rows][:, None] + areas[columns][None] - inter
    over = inter / np.maximum(union, np.finfo(np.float32).tiny) > iou_threshold
    result: npt.NDArray[np.bool_] = over & (classes[rows][:, None] == classes[columns][None])
    return result
