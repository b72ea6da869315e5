"""What quantization does to a model's output, as one number that ranks: 0 is nothing.

Class scores: the Kullback-Leibler divergence of their distribution from the float model's, in nats, mean over samples
and positions; of few samples the mean of its root, squared, so that no single one on the edge of two classes decides.
Anything else:
for each channel the share of the squared error in error and variance together, mean over channels. A plain
signal-to-noise ratio misranks detectors, whose few large channels hide the class scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.embedding_values import looks_like_embedding
from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.types import Array

__all__ = ["OutputDamage", "Outputs", "recognize_class_scores"]

_MANY_SAMPLES = 48
"""From so many on the mean divergence ranks better than the typical one (measured: docs/explanation/accuracy.md)."""

_TINY = 1e-30
_LEAST_PROBABILITY = 1e-12

_SUM_ERROR = 1e-3
"""Of probabilities, from 1."""

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
    if output.axis is not None and any(
        not -array.ndim <= output.axis < array.ndim for array in map(np.asarray, values)
    ):
        return replace(output, kind="values", axis=None)  # the model declares another rank than it computes
    if output.kind == "logits" and not _are_logits(output, values):
        return replace(output, kind="values")
    if output.kind == "values":
        for axis in (-1, 1):
            if all(_are_probabilities(np.asarray(array), axis) for array in values):
                return replace(output, kind="probabilities", axis=axis)
    return output


def _are_probabilities(values: npt.NDArray[np.generic], axis: int) -> bool:
    if values.ndim < 2 or values.shape[axis] < 2:
        return False
    return bool(values.min(initial=0) >= 0 and (np.abs(values.sum(axis=axis, dtype=np.float64) - 1) < _SUM_ERROR).all())


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
    """

    def __init__(self, outputs: Sequence[MeasuredOutput], reference: Outputs) -> None:
        scores = [output for output in outputs if output.kind != "values"]
        # KL divergence and shares of error do not add up: class scores count as such only where nothing else is there.
        self.is_divergence = len(scores) == len(outputs)
        self._outputs = tuple(outputs)
        self._reference = reference
        self._scores = {
            o.name: [_Scores.of(o, batch[o.name]) for batch in reference] for o in outputs if self.is_divergence
        }
        self._variance = {o.name: self._variances(o) for o in outputs if not self.is_divergence}

    @property
    def unit(self) -> str:
        """What the number is, for messages."""
        return "typical KL divergence" if self.is_divergence else "relative error"

    def of(self, outputs: Outputs) -> float:
        """Damage of the same batches, perhaps of the first ones only."""
        per_output = [
            self._divergence(o, outputs) if self.is_divergence else self._lost_share(o, outputs) for o in self._outputs
        ]
        return float(np.mean(per_output))

    def of_all(self, outputs: Outputs) -> float:
        """Damage in which a single ruined sample counts as well: the mean of the usual one and the plain mean."""
        return (self.of(outputs) + self.mean_divergence(outputs)) / 2 if self.is_divergence else self.of(outputs)

    def mean_divergence(self, outputs: Outputs) -> float:
        """KL divergence of class scores in nats, mean over samples and positions."""
        return float(np.mean([self._divergences(output, outputs).mean() for output in self._outputs]))

    def _divergence(self, output: MeasuredOutput, outputs: Outputs) -> float:
        if sum(len(batch[output.name]) for batch in outputs) >= _MANY_SAMPLES:
            return float(self._divergences(output, outputs).mean())
        return self.typical_divergence(output, outputs)

    def typical_divergence(self, output: MeasuredOutput, outputs: Outputs) -> float:
        """The mean of the root of one output's KL divergence over samples and positions, squared, in nats."""
        return float(np.sqrt(self._divergences(output, outputs)).mean() ** 2)

    def _divergences(self, output: MeasuredOutput, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Of every sample and position; infinite where the output is no longer finite."""
        found = []
        for scores, got in zip(self._scores[output.name], outputs, strict=False):
            with np.errstate(invalid="ignore"):
                q = _log_probabilities(output, got[output.name])
                divergence = np.maximum(scores.expected_log - (scores.probabilities * q).sum(axis=-1), 0.0)
            found.append(np.where(np.isfinite(divergence), divergence, np.inf).ravel())
        return np.concatenate(found)

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


@dataclass(frozen=True, eq=False)
class _Scores:
    """Class scores of the float model: probabilities, [..., C], and the mean of their own logarithm, [...]."""

    probabilities: npt.NDArray[np.float64]
    expected_log: npt.NDArray[np.float64]

    @classmethod
    def of(cls, output: MeasuredOutput, values: Array) -> _Scores:
        with np.errstate(invalid="ignore"):
            p = _log_probabilities(output, values)
            return cls(np.exp(p), (np.exp(p) * p).sum(axis=-1))


def _log_probabilities(output: MeasuredOutput, values: Array) -> npt.NDArray[np.float64]:
    """The classes last."""
    scores = np.moveaxis(np.asarray(values, np.float64), output.axis if output.axis is not None else -1, -1)
    if output.kind == "probabilities":
        return np.log(np.maximum(scores, _LEAST_PROBABILITY))
    scores = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True)))


def _channels(output: MeasuredOutput, values: Array) -> npt.NDArray[np.float64]:
    """[C, everything else], float64."""
    array = np.asarray(values, np.float64)
    if output.axis is None or array.ndim < 2:
        return array.reshape(1, -1)
    return np.asarray(np.moveaxis(array, output.axis, 0).reshape(array.shape[output.axis], -1))
