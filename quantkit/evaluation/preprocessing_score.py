"""How well an input fits a model: paired evidence, with labels or without, that one preprocessing beats another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.errors import EvaluationError
from quantkit.evaluation.metrics.accuracy import probabilities
from quantkit.evaluation.run import feed
from quantkit.evaluation.tasks.classification import find_scores
from quantkit.paired_statistics import NORMAL_975, difference_interval, mcnemar_p_value
from quantkit.types import Array, Batch, Runner

_DRAWS = 1000
_STANDARD_ERRORS = 3.5
"""Two-sided 0.0005: with the twenty alternatives that are tried, one false alarm in a hundred runs."""

_MIN_TOP1_GAIN = 0.03
_MIN_INFORMATION_GAIN = 0.1
_MIN_INFORMATION_GAIN_OF_VALUES = 0.2
"""Nats. A change of scale makes outputs sharper or softer by itself, which information partly follows."""


@dataclass(frozen=True, eq=False)
class PreprocessingScore:
    """What a model says about N samples under one preprocessing.

    Attributes:
        probabilities: [N, C], the softmax of the scores, or the scores where they are probabilities already.
        targets: int64 [N], None without labels.
    """

    probabilities: npt.NDArray[np.float64]
    targets: npt.NDArray[np.int64] | None

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[N] whether the highest score is at the label; only with labels."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.targets)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """[N] negative logarithm of the label's probability, nats; only with labels."""
        chosen = np.take_along_axis(self.probabilities, np.asarray(self.targets)[:, None], axis=1)[:, 0]
        return np.asarray(-np.log(np.maximum(chosen, 1e-12)))

    @property
    def information(self) -> float:
        """Entropy of the mean prediction minus the mean entropy of the predictions, nats: confident *and* various.

        Confidence alone misleads: an input that is 255 times too large makes most models very sure of one class.
        """
        weights = np.full((1, len(self.probabilities)), 1 / len(self.probabilities))
        return float(_information(self.probabilities, weights)[0])


def score_preprocessing(runner: Runner, batches: Iterable[Batch]) -> PreprocessingScore:
    """Runs the batches and keeps the class probabilities.

    Raises:
        EvaluationError: the model has no class scores, or there are no samples.
    """
    parts: list[npt.NDArray[np.float64]] = []
    targets: list[npt.NDArray[np.int64]] = []
    for batch in batches:
        outputs = feed(runner, batch)
        name = find_scores(outputs)
        if name is None:
            raise EvaluationError("the model has no output of class scores, [N, C] with C >= 2")
        parts.append(_probabilities(outputs[name].reshape(outputs[name].shape[:2])))
        if batch.targets is not None:
            targets.append(batch.targets)
    if not parts:
        raise EvaluationError("there are no samples to run")
    return PreprocessingScore(np.concatenate(parts), np.concatenate(targets) if len(targets) == len(parts) else None)


def is_clearly_better(other: PreprocessingScore, declared: PreprocessingScore, *, same_values: bool = False) -> bool:
    """Whether `other` fits the model better beyond chance and by enough to matter; in doubt, no.

    With labels: top-1 is 3 points higher, McNemar's p is at most 0.05, and the mean loss is lower by 3.5 standard
    errors of the paired difference. Without: `PreprocessingScore.information` is higher by 3.5 bootstrap standard
    errors and by 10%, and by 0.2 nats (0.1 where the values are the same, only in other places: `same_values`).
    """
    if declared.targets is not None:
        fixed, broken = int((other.right & ~declared.right).sum()), int((declared.right & ~other.right).sum())
        if fixed - broken < _MIN_TOP1_GAIN * len(declared.right) or mcnemar_p_value(fixed, broken) > 0.05:
            return False
    else:
        gain = other.information - declared.information
        least = _MIN_INFORMATION_GAIN if same_values else _MIN_INFORMATION_GAIN_OF_VALUES
        if gain < max(least, 0.1 * declared.information if not same_values else 0.0):
            return False
    return advantage(other, declared) >= _STANDARD_ERRORS


def advantage(other: PreprocessingScore, declared: PreprocessingScore) -> float:
    """How much better `other` fits, in standard errors of the paired difference; negative where it fits worse."""
    if declared.targets is not None:
        differences = declared.losses - other.losses
        error = float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
        return float(differences.mean()) / error if error > 0 else 0.0
    error = _information_error(other, declared)
    return (other.information - declared.information) / error if error > 0 else 0.0


def gain_interval(other: PreprocessingScore, declared: PreprocessingScore) -> tuple[float, float]:
    """95% interval of what `other` gains: in top-1, a fraction of 1; without labels in information, nats."""
    if declared.targets is not None:
        fixed, broken = int((other.right & ~declared.right).sum()), int((declared.right & ~other.right).sum())
        return difference_interval(fixed, broken, num_samples=len(declared.right))
    gain = other.information - declared.information
    half = NORMAL_975 * _information_error(other, declared)
    return gain - half, gain + half


def may_be_better(other: PreprocessingScore, declared: PreprocessingScore) -> bool:
    """Whether more samples may show that `other` is better by enough to matter, or that it is not."""
    low, high = gain_interval(other, declared)
    least = _MIN_TOP1_GAIN if declared.targets is not None else _MIN_INFORMATION_GAIN_OF_VALUES
    return low < least < high and not is_clearly_better(other, declared)


def _information_error(other: PreprocessingScore, declared: PreprocessingScore) -> float:
    """Standard error of the difference, by a bootstrap over samples."""
    count = len(declared.probabilities)
    # Seeded: the same data give the same answer.
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWS) / count
    return float((_information(other.probabilities, draws) - _information(declared.probabilities, draws)).std())


def _information(probabilities: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities [N, C], weights [B, N] → [B]."""
    return _entropy(weights @ probabilities) - weights @ _entropy(probabilities)


def _entropy(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    entropy: npt.NDArray[np.float64] = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1)
    return entropy


def _probabilities(scores: Array) -> npt.NDArray[np.float64]:
    """Without NaN and infinity, which count as no score and as the largest."""
    finite = np.nan_to_num(np.asarray(scores, np.float64), nan=0.0, posinf=1e6, neginf=-1e6)
    return probabilities(finite, tolerance=1e-3)
