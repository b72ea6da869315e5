"""What quantization does to a model's output, as one number that ranks: 0 is nothing.

Class scores: the Kullback-Leibler divergence of their distribution from the float model's, in nats, as few samples tell
it best. To second order it is half the variance of the errors of the logits under its own probabilities. Nearly
all of it comes from the few samples on the edge of two classes, so its mean over some hundred samples is mostly noise.
But errors hardly depend on how sure the model is. So samples are put together by that, and in each part every error is
weighed with the probabilities of all samples there. Of 256 samples, ratios of such numbers were seen to vary by 11%
instead of 22% (resnet20) and by 13% instead of 20% (repvgg_a0); what clipping does, which happens where the model is
sure, still counts up to 12% too much (mobilenetv3_small). See docs/explanation/accuracy.md.

Boxes with scores: see `raw_boxes`.

Anything else: for each channel the share of the squared error in error and variance together, mean over channels. A
plain signal-to-noise ratio misranks detectors, whose few large channels hide the class scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.embedding_values import looks_like_embedding
from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.notices import Notice, Notify, plural
from quantkit.refinement.raw_boxes import SUM_ERROR, SURE, BoxDamage, find_boxes
from quantkit.types import Array

_PARTS = 4
_SMALLEST_PART = 16
"""Samples are put together in so many parts, or fewer of so many samples."""

_MOST_SCORES = 1 << 22
"""The divergence is computed from at most so many scores, at positions that are drawn: neighbors are much alike."""

_TINY = 1e-30
_LEAST_PROBABILITY = 1e-12

_Rows = slice | npt.NDArray[np.int64]
"""Which ones of a batch."""

Outputs = Sequence[Mapping[str, Array]]
"""One mapping from name to array for each batch."""


def recognize_class_scores(outputs: Sequence[MeasuredOutput], reference: Outputs) -> tuple[MeasuredOutput, ...]:
    """The outputs, each of the kind that its values show.

    A product [N, C] may as well hold an embedding or coordinates, for which a divergence is blind to errors that all
    columns share, or to all but the largest column: class scores name another class for another sample. Values that
    are positive and add up to 1 are probabilities, whatever lies between them and a Softmax.

    Args:
        outputs: as the graph tells.
        reference: of the float model.
    """
    return tuple(_recognized(output, [batch[output.name] for batch in reference]) for output in outputs)


def _recognized(output: MeasuredOutput, values: Sequence[Array]) -> MeasuredOutput:
    axis, shapes = output.axis, [np.shape(array) for array in values]
    if axis is not None and (
        any(not -len(shape) <= axis < len(shape) for shape in shapes)
        or len(sizes := {shape[axis] for shape in shapes}) > 1
        or 0 in sizes
    ):
        return replace(output, kind="values", axis=None)  # another rank than declared, a size of each batch, or no size
    if output.kind == "logits" and not _are_logits(output, values):
        return replace(output, kind="values")
    if output.kind == "values":
        for axis in (-1, 1):
            if all(_are_probabilities(np.asarray(array), axis) for array in values):
                return replace(output, kind="probabilities", axis=axis)
    return output


def _are_probabilities(values: npt.NDArray[np.generic], axis: int) -> bool:
    if values.ndim < 2 or values.shape[axis] < 2 or not values.size:
        return False
    return bool(values.min(initial=0) >= 0 and (np.abs(values.sum(axis=axis, dtype=np.float64) - 1) < SUM_ERROR).all())


def _are_logits(output: MeasuredOutput, values: Sequence[Array]) -> bool:
    """Samples of calibration are of several classes: an output whose largest column is always the same is none."""
    assert output.axis is not None
    rows = np.concatenate(
        [np.moveaxis(np.asarray(array), output.axis, -1).reshape(-1, array.shape[output.axis]) for array in values]
    )
    return len(np.unique(rows.argmax(axis=1))) > 1 and not looks_like_embedding(rows)


class OutputDamage:
    """Compares outputs with those of the float model on the same batches.

    Args:
        outputs: what to compare.
        reference: of the float model.
        notify: hears of outputs that are those of a detector.
    """

    def __init__(self, outputs: Sequence[MeasuredOutput], reference: Outputs, notify: Notify | None = None) -> None:
        scores = [output for output in outputs if output.kind != "values"]
        # KL divergence and shares of error do not add up: class scores count as such only where nothing else is there.
        self.is_divergence = len(scores) == len(outputs)
        self._outputs = tuple(outputs)
        self._reference = reference
        self._chosen: dict[tuple[str, int], tuple[list[_Rows], npt.NDArray[np.float64]]] = {}
        found = () if self.is_divergence else find_boxes(outputs, reference)
        self.boxes = BoxDamage(found, reference) if found else None
        """Where the outputs are those of a detector."""
        if self.boxes is not None and notify is not None:
            detects = self.boxes.detects
            text = f"the outputs are {self.boxes}: their errors count where something is detected "
            text += f"({detects.sum()} of {plural(len(detects), 'sample')} have a score of {SURE} or more)"
            notify(Notice("info", "ranges", text))
        self._variance = {o.name: self._variances(o) for o in outputs if not (self.is_divergence or found)}

    @property
    def unit(self) -> str:
        """What the number is, for messages."""
        return "KL divergence" if self.is_divergence else "relative error"

    def of(self, outputs: Outputs) -> float:
        """Damage of the same batches, perhaps of the first ones only."""
        if self.boxes is not None:
            return self.boxes.of(outputs)
        measure = self._expected_divergence if self.is_divergence else self._lost_share
        return float(np.mean([measure(output, outputs) for output in self._outputs]))

    def mean_divergence(self, outputs: Outputs) -> float:
        """KL divergence of class scores in nats, mean over samples and positions; infinite if it is not finite."""
        return float(np.mean([self._mean_divergence(output, outputs) for output in self._outputs]))

    def _mean_divergence(self, output: MeasuredOutput, outputs: Outputs) -> float:
        reference, errors = self._compared(output, outputs)
        if not reference.size:
            return 0.0
        with np.errstate(invalid="ignore"):
            return _finite(np.maximum(-(np.exp(reference) * errors).sum(axis=1), 0.0).mean())

    def _expected_divergence(self, output: MeasuredOutput, outputs: Outputs) -> float:
        reference, errors = self._compared(output, outputs)
        if not reference.size:
            return 0.0
        p = np.exp(reference)
        order = np.argsort(np.square(p).sum(axis=1), kind="stable")
        num_parts = min(max(len(p) // _SMALLEST_PART, 1), _PARTS)
        with np.errstate(invalid="ignore", over="ignore"):
            parts = [len(part) * _expected(p[part], errors[part]) for part in np.array_split(order, num_parts)]
            return _finite(sum(parts) / len(p))

    def _compared(
        self, output: MeasuredOutput, outputs: Outputs
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Logarithms of the float model's probabilities, and how far those of `outputs` are from them: [rows, C]."""
        chosen, reference = self._choose(output, len(outputs))
        scores = [
            _log_probabilities(output, _rows(output, batch[output.name])[rows])
            for batch, rows in zip(outputs, chosen, strict=False)
        ]
        return reference, np.concatenate(scores) - reference

    def _choose(self, output: MeasuredOutput, num_batches: int) -> tuple[list[_Rows], npt.NDArray[np.float64]]:
        """Which rows of the first batches are compared, and the logarithms of the float model's probabilities there."""
        key = output.name, num_batches
        if key not in self._chosen:
            scores = [_rows(output, batch[output.name]) for batch in self._reference[:num_batches]]
            share = min(_MOST_SCORES / max(sum(map(np.size, scores)), 1), 1.0)
            chosen = [_some_rows(len(batch), share) for batch in scores]
            logarithms = [_log_probabilities(output, batch[rows]) for batch, rows in zip(scores, chosen, strict=True)]
            self._chosen[key] = chosen, np.concatenate(logarithms)
        return self._chosen[key]

    def _lost_share(self, output: MeasuredOutput, outputs: Outputs) -> float:
        error, count = np.zeros(()), 0
        for reference, got in zip(self._reference, outputs, strict=False):
            x, y = (_channels(output, batch[output.name]) for batch in (reference, got))
            if x.shape != y.shape:
                return 1.0
            difference = np.where(np.isfinite(x), y - x, 0.0)
            error = error + np.where(np.isfinite(difference), difference**2, np.inf).sum(axis=1)
            count += x.shape[1]
        error = error / max(count, 1)
        variance = self._variance[output.name]
        with np.errstate(invalid="ignore"):
            share = np.where(np.isfinite(error), error / (error + variance + _TINY), 1.0)
        return float(share.mean())

    def _variances(self, output: MeasuredOutput) -> npt.NDArray[np.float64]:
        total, squares, count = np.zeros(()), np.zeros(()), 0
        for batch in self._reference:
            x = _channels(output, batch[output.name])
            x = np.where(np.isfinite(x), x, 0.0)
            total, squares, count = total + x.sum(axis=1), squares + (x**2).sum(axis=1), count + x.shape[1]
        mean, square = total / max(count, 1), squares / max(count, 1)
        # Of few values the variance is not known: of a single one, its own size has to do.
        return np.asarray(np.maximum(square - mean**2, 0.0) + square / max(count, 1))


def _some_rows(count: int, share: float) -> _Rows:
    """A share of the rows, the same each time. Drawn, since every n-th position may be of one column of an image."""
    if share == 1:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(count, math.ceil(share * count), replace=False))


def _expected(p: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]) -> float:
    """Half the variance of errors [n, C] under probabilities [n, C], mean over all pairs of their rows."""
    mean = p.mean(axis=0)
    errors = errors - (errors @ mean)[:, None]  # the divergence is blind to it, floating point is not
    squares = float(mean @ np.square(errors).mean(axis=0))
    n, classes = p.shape
    products = float(np.vdot(p.T @ p, errors.T @ errors) if classes < n else np.square(p @ errors.T).sum())
    spread: float = squares - products / n**2
    return max(spread, 0.0) / 2


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else np.inf


def _rows(output: MeasuredOutput, values: Array) -> npt.NDArray[np.generic]:
    """[rows, C]: of every sample and position."""
    scores = np.moveaxis(np.asarray(values), output.axis if output.axis is not None else -1, -1)
    return scores.reshape(-1, scores.shape[-1])


def _log_probabilities(output: MeasuredOutput, rows: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities of rows of scores: [rows, C]."""
    scores = np.asarray(rows, np.float64)
    if output.kind == "probabilities":
        return np.log(np.maximum(scores, _LEAST_PROBABILITY))
    with np.errstate(invalid="ignore"):
        scores = scores - scores.max(axis=-1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True)))


def _channels(output: MeasuredOutput, values: Array) -> npt.NDArray[np.float64]:
    """[C, everything else], float64."""
    array = np.asarray(values, np.float64)
    if output.axis is None or array.ndim < 2:
        return array.reshape(1, -1)
    return np.asarray(np.moveaxis(array, output.axis, 0).reshape(array.shape[output.axis], -1))
