"""From the tensors of one layout to candidate boxes of each image. Which tensor is which is left to `layouts`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.types import Array

__all__ = [
    "Candidates",
    "Frame",
    "decode_columns",
    "decode_counted",
    "decode_grid",
    "decode_indexed",
    "decode_matrix",
    "decode_numbered_rows",
    "decode_objectness",
    "decode_queries",
    "decode_ranked",
    "decode_rows",
    "decode_scored_boxes",
]

_Floats = npt.NDArray[np.float32]
_YOLOX_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Candidates:
    """Boxes of one image that have a score, before duplicates are removed.

    Attributes:
        corners: [M, 4] left, top, right, bottom in pixels of the model's input.
        scores: [M].
        classes: [M], class indices.
        non_finite: how many others were left out because their score or a corner is NaN or infinite.
    """

    corners: _Floats
    scores: _Floats
    classes: npt.NDArray[np.int64]
    non_finite: int = 0


@dataclass(frozen=True)
class Frame:
    """What a decoder must know besides the tensors.

    Attributes:
        num_samples: images in the batch.
        input_size: (height, width) of the model's input in pixels.
        score_threshold: candidates must be above it.
        options: what the layout's tensors mean, see `layouts.OPTIONS`.
    """

    num_samples: int
    input_size: tuple[int, int]
    score_threshold: float
    options: Mapping[str, str]

    def corners(self, boxes: Array) -> _Floats:
        """Boxes [..., 4] in the declared order and coordinates → left, top, right, bottom in pixels of the input."""
        a, b, c, d = np.moveaxis(np.asarray(boxes, np.float32), -1, 0)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out and counted later
            if self.options["order"] == "cxcywh":
                a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
            elif self.options["order"] == "yxyx":
                # ONNX's NonMaxSuppression takes corners in either direction.
                a, b, c, d = b, a, d, c
            stacked = np.stack((a, b, c, d), axis=-1)
            if self.options["coordinates"] == "relative":
                height, width = self.input_size
                stacked = stacked * np.array([width, height, width, height], np.float32)
        return stacked

    def labels(self, values: Array) -> npt.NDArray[np.int64]:
        """Class indices from labels that count from 0 or 1, whatever their type."""
        with np.errstate(invalid="ignore"):
            whole = np.nan_to_num(np.rint(np.asarray(values, np.float64)), nan=-1, posinf=-1, neginf=-1)
        first = int(self.options["labels_from"])
        result: npt.NDArray[np.int64] = np.clip(whole, -(2**31), 2**31).astype(np.int64) - first
        return result


def decode_objectness(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """[N, B, 5+C]: box, objectness, probability of each class: a score is objectness times probability."""
    for rows in _floats(tensors["detections"]):
        yield _objectness(frame.corners(rows[:, :4]), rows, frame.score_threshold)


def decode_columns(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """[N, 4+C, B]: a column a box, then the probability of each class."""
    for columns in _floats(tensors["detections"]):
        yield _each_class(frame.corners(columns[:4].T), columns[4:].T, frame.score_threshold)


def decode_grid(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """[N, B, 5+C]: as `decode_objectness`, but centres count from their cell and sizes are logarithms, in strides."""
    height, width = frame.input_size
    cells, strides = [], []
    for stride in _YOLOX_STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack((x.ravel(), y.ravel()), axis=1))
        strides.append(np.full((x.size, 1), stride))
    cell, stride_of = (np.concatenate(parts).astype(np.float32) for parts in (cells, strides))
    for rows in _floats(tensors["detections"]):
        with np.errstate(over="ignore", invalid="ignore"):
            centres, sizes = (rows[:, :2] + cell) * stride_of, np.exp(rows[:, 2:4]) * stride_of
        yield _objectness(frame.corners(np.concatenate((centres, sizes), axis=1)), rows, frame.score_threshold)


def decode_ranked(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """[N, K, 6]: corners, score, class."""
    for rows in _floats(tensors["detections"]):
        yield _given(frame.corners(rows[:, :4]), rows[:, 4], frame.labels(rows[:, 5]), frame)


def decode_numbered_rows(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """[M, 7]: number of the image in the batch, corners, class, score."""
    rows = np.asarray(tensors["detections"], np.float32)
    for index in range(frame.num_samples):
        mine = rows[rows[:, 0] == index]
        yield _given(frame.corners(mine[:, 1:5]), mine[:, 6], frame.labels(mine[:, 5]), frame)


def decode_queries(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """[N, Q, 4+C]: box, probability of each class: each query is of its most probable class."""
    for rows in _floats(tensors["detections"]):
        yield _best_class(frame.corners(rows[:, :4]), rows[:, 4:], frame)


def decode_matrix(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """Boxes [N, B, 4], and scores [N, B, C] that may be logits and may have a column that stands for no object."""
    activation, background = frame.options["activation"], frame.options["background"]
    for boxes, raw in zip(_floats(tensors["boxes"]), _floats(tensors["scores"]), strict=True):
        scores = _ACTIVATIONS[activation](raw)
        scores = scores[:, 1:] if background == "first" else scores[:, :-1] if background == "last" else scores
        corners = frame.corners(boxes)
        if frame.options["classes_of_a_box"] == "one":
            yield _best_class(corners, scores, frame)
        else:
            yield _each_class(corners, scores, frame.score_threshold)


def decode_scored_boxes(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """Two tensors: detections [N, K, 5], corners and score; labels [N, K]."""
    for rows, label in zip(_floats(tensors["detections"]), np.asarray(tensors["labels"]), strict=True):
        yield _given(frame.corners(rows[:, :4]), rows[:, 4], frame.labels(label), frame)


def decode_rows(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """Three tensors, boxes [N, K, 4], labels [N, K], scores [N, K]; or without N for a batch of one."""
    boxes, labels, scores = (np.asarray(tensors[role]) for role in ("boxes", "labels", "scores"))
    if boxes.ndim == 2:
        boxes, labels, scores = boxes[None], labels[None], scores[None]
    for box, label, score in zip(boxes, labels, _floats(scores), strict=True):
        yield _given(frame.corners(box), score, frame.labels(label), frame)


def decode_counted(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """As `decode_rows`, and count [N] or [N, 1]: how many of the K rows are filled."""
    counts = np.asarray(tensors["count"]).reshape(frame.num_samples)
    for index, count in enumerate(counts.tolist()):
        filled = slice(0, max(0, int(np.nan_to_num(count))))
        box, label, score = (np.asarray(tensors[role])[index][filled] for role in ("boxes", "labels", "scores"))
        yield _given(frame.corners(box), np.asarray(score, np.float32), frame.labels(label), frame)


def decode_indexed(tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """Three tensors, indices [S, 3] (image, class, box) into boxes [N, B, 4] and scores [N, C, B]."""
    picked = np.asarray(tensors["indices"], np.int64)
    for index in range(frame.num_samples):
        _, classes, rows = picked[picked[:, 0] == index].T
        corners = frame.corners(np.asarray(tensors["boxes"])[index][rows])
        # The operator allows either pair of opposite corners.
        corners = np.concatenate(
            (np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])), axis=1
        )
        scores = np.asarray(tensors["scores"], np.float32)[index][classes, rows]
        yield _given(corners, scores, classes, frame)


def _floats(array: Array) -> _Floats:
    return np.asarray(array, np.float32)


def _objectness(corners: _Floats, rows: _Floats, threshold: float) -> Candidates:
    """Only boxes whose objectness is above the threshold can have a score above it."""
    objectness = rows[:, 4]
    likely = ~(objectness <= threshold)  # NaN is kept, to be counted
    return _each_class(corners[likely], rows[likely, 5:] * objectness[likely, None], threshold)


def _each_class(corners: _Floats, scores: _Floats, threshold: float) -> Candidates:
    """A candidate for each class of each box [B, 4], [B, C] with a score above the threshold."""
    rows, classes = np.nonzero(scores > threshold)
    with np.errstate(invalid="ignore", over="ignore"):
        total = scores.sum()
    lost = 0 if np.isfinite(total) else int(np.isnan(scores).sum())
    return _finite(corners[rows], scores[rows, classes], classes.astype(np.int64), lost)


def _best_class(corners: _Floats, scores: _Floats, frame: Frame) -> Candidates:
    best = scores.argmax(axis=1)
    return _given(corners, scores[np.arange(len(scores)), best], best.astype(np.int64), frame)


def _given(corners: _Floats, scores: _Floats, classes: npt.NDArray[np.int64], frame: Frame) -> Candidates:
    lost = int(np.isnan(scores).sum())
    high = scores > frame.score_threshold
    return _finite(corners[high], scores[high], classes[high], lost)


def _finite(corners: _Floats, scores: _Floats, classes: npt.NDArray[np.int64], lost: int) -> Candidates:
    good = np.isfinite(scores) & np.isfinite(corners).all(axis=1)
    return Candidates(corners[good], scores[good], classes[good], lost + int((~good).sum()))


def _softmax(values: _Floats) -> _Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        result: _Floats = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _sigmoid(values: _Floats) -> _Floats:
    with np.errstate(over="ignore"):
        odds = np.exp(-values)
    return np.asarray(1 / (1 + odds), np.float32)


_ACTIVATIONS = {"none": _floats, "softmax": _softmax, "sigmoid": _sigmoid}
