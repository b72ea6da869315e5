"""One decoder for all layouts: from tensors, as a layout declares them, to candidate boxes of each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.detection.layouts import DetectionLayout
from quantkit.types import Array

_Floats = npt.NDArray[np.float32]


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


def decode(layout: DetectionLayout, tensors: Mapping[str, Array], frame: Frame) -> Iterator[Candidates]:
    """Candidates of each image, as the layout declares its tensors.

    Args:
        layout: which fields of a box stand where.
        tensors: by role.
        frame: input size, threshold and what the tensors mean.
    """
    for index in range(frame.num_samples):
        rows = _rows_of_image(layout, tensors, index)
        found = {
            name: rows[field.role] if field.columns is None else rows[field.role][:, field.columns]
            for name, field in layout.fields.items()
        }
        box = _from_grid(found["box"], layout.strides, frame.input_size) if layout.strides else found["box"]
        corners = frame.corners(box)
        if "indices" in layout.roles:
            # ONNX's NonMaxSuppression allows either pair of opposite corners.
            low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
            corners = np.concatenate((low, high), axis=1)
        if "label" in found:
            yield given_classes(corners, _floats(found["score"]), frame.labels(found["label"]), frame)
            continue
        scores = _probabilities(_floats(found["scores"]), frame)
        if "objectness" in found:
            # Only boxes whose objectness is above the threshold can have a score above it.
            objectness = _floats(found["objectness"])
            likely = ~(objectness <= frame.score_threshold)  # NaN is kept, to be counted
            corners, scores = corners[likely], scores[likely] * objectness[likely, None]
        if frame.options["classes_of_a_box"] == "one":
            yield _best_class(corners, scores, frame)
        else:
            yield _each_class(corners, scores, frame.score_threshold)


def _rows_of_image(layout: DetectionLayout, tensors: Mapping[str, Array], index: int) -> dict[str, Array]:
    """The tensors of one image by role, a row for each box."""
    if "indices" in layout.roles:  # [S, 3]: image, class, box, into boxes [N, B, 4] and scores [N, C, B]
        picked = np.asarray(tensors["indices"], np.int64)
        _, classes, boxes = picked[picked[:, 0] == index].T
        scores = np.asarray(tensors["scores"])[index][classes, boxes]
        return {"boxes": np.asarray(tensors["boxes"])[index][boxes], "scores": scores, "indices": classes}
    if "image" in layout.fields:
        (role,) = layout.roles
        rows = _floats(tensors[role])
        return {role: rows[rows[:, layout.fields["image"].columns] == index]}
    arrays = {role: np.asarray(array) for role, array in tensors.items()}
    if "boxes" in arrays and arrays["boxes"].ndim == 2:  # one image, without N
        return arrays
    filled = slice(None)
    if "count" in layout.roles:
        count = arrays.pop("count").reshape(-1).tolist()[index]
        filled = slice(0, max(0, int(np.nan_to_num(count))))
    return {role: array[index].T if layout.is_transposed else array[index][filled] for role, array in arrays.items()}


def _from_grid(boxes: Array, strides: Sequence[int], input_size: tuple[int, int]) -> _Floats:
    """Centers that count from their cell and logarithms of sizes, both in strides → center and size in pixels."""
    height, width = input_size
    cells, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack((x.ravel(), y.ravel()), axis=1))
        sizes.append(np.full((x.size, 1), stride))
    cell, stride_of = (np.concatenate(parts).astype(np.float32) for parts in (cells, sizes))
    rows = _floats(boxes)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate(((rows[:, :2] + cell) * stride_of, np.exp(rows[:, 2:]) * stride_of), axis=1)


def _probabilities(raw: _Floats, frame: Frame) -> _Floats:
    """Scores of each class from what stands in the tensor, without the column that stands for no object."""
    scores = _ACTIVATIONS[frame.options["activation"]](raw)
    background = frame.options["background"]
    return scores[:, 1:] if background == "first" else scores[:, :-1] if background == "last" else scores


def _floats(array: Array) -> _Floats:
    return np.asarray(array, np.float32)


def _each_class(corners: _Floats, scores: _Floats, threshold: float) -> Candidates:
    """A candidate for each class of each box [B, 4], [B, C] with a score above the threshold."""
    rows, classes = np.nonzero(scores > threshold)
    with np.errstate(invalid="ignore", over="ignore"):
        total = scores.sum()
    lost = 0 if np.isfinite(total) else int(np.isnan(scores).sum())
    return _finite(corners[rows], scores[rows, classes], classes.astype(np.int64), lost)


def _best_class(corners: _Floats, scores: _Floats, frame: Frame) -> Candidates:
    best = scores.argmax(axis=1)
    return given_classes(corners, scores[np.arange(len(scores)), best], best.astype(np.int64), frame)


def given_classes(corners: _Floats, scores: _Floats, classes: npt.NDArray[np.int64], frame: Frame) -> Candidates:
    """Boxes [M, 4] of one class each, those with a finite score above the threshold."""
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
