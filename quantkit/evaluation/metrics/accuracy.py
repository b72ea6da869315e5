"""Top-1 and top-5 accuracy against labels, and how a class is read from scores (for every metric that needs it)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.metric import METRICS, Metric
from quantkit.types import Array


class TopAccuracy(Metric):
    """Share of samples whose class is among the k highest scores: ``top_k = sum(rank < k) / N``, k = 1 and 5.

    The rank of a class is the number of classes with a higher score, equal scores counted where their index is lower;
    so ties go to the lower index whatever the order of evaluation. A sample with a NaN among its scores is wrong.
    `top5` is there only where there are more than 5 classes.

    >>> accuracy = TopAccuracy()
    >>> accuracy.update(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), targets=np.array([1, 1]))
    >>> accuracy.compute()
    {'top1': 0.5, 'num_classes': 3.0}
    """

    scope = "labels"
    numbers = ("top1", "top5", "num_classes")
    compares = False

    def __init__(self) -> None:
        self.num_samples = 0
        self.num_classes = 0
        self.top1 = 0
        self.top5 = 0

    def update(
        self, values: Array, *, reference: Array | None = None, targets: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Adds scores [N, C] and targets [N], each from 0 to C - 1; `reference` is not used."""
        if targets is None:
            raise ValueError("accuracy needs targets")
        ranks = rank_targets(values, targets)
        self.num_samples += len(ranks)
        self.num_classes = max(self.num_classes, values.shape[1])
        self.top1 += int((ranks < 1).sum())
        self.top5 += int((ranks < 5).sum())

    def merge(self, later: TopAccuracy) -> None:  # type: ignore[override]
        """Adds what another one saw after it."""
        num_classes = max(self.num_classes, later.num_classes)
        super().merge(later)
        self.num_classes = num_classes

    def compute(self) -> dict[str, float]:
        """`top1`, `top5` (fractions of 1) and `num_classes`; empty before the first sample."""
        if not self.num_samples:
            return {}
        result = {"top1": self.top1 / self.num_samples}
        if self.num_classes > 5:
            result["top5"] = self.top5 / self.num_samples
        return {**result, "num_classes": float(self.num_classes)}


METRICS["accuracy"] = TopAccuracy


def rank_targets(scores: Array, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rank of each target, 0 the best: scores [N, C], targets [N] → int64 [N]; C where a score of the row is NaN.

    >>> rank_targets(np.array([[3.0, 1.0, 3.0]]), np.array([2]))
    array([1])
    """
    wanted = np.take_along_axis(scores, targets[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]
    ahead = np.greater(scores, wanted) | (np.equal(scores, wanted) & earlier)
    ranks: npt.NDArray[np.int64] = ahead.sum(axis=1, dtype=np.int64)
    ranks[np.isnan(scores).any(axis=1)] = scores.shape[1]
    return ranks


def predict_classes(scores: Array) -> npt.NDArray[np.int64]:
    """Class of the highest score, the lower index among equals: [N, C] → int64 [N]; -1 where a score is NaN.

    >>> predict_classes(np.array([[1.0, 2.0, 2.0], [np.nan, 1.0, 0.0]]))
    array([ 1, -1])
    """
    predicted: npt.NDArray[np.int64] = np.asarray(scores.argmax(axis=1), np.int64)
    predicted[np.isnan(scores).any(axis=1)] = -1
    return predicted


def probabilities(scores: Array, *, tolerance: float) -> npt.NDArray[np.float64]:
    """Scores that are probabilities already as they are, others through softmax: [N, C] → float64 [N, C].

    Args:
        scores: a row with NaN gives NaN.
        tolerance: how far a row of probabilities may be from a sum of 1.
    """
    values = np.asarray(scores, np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=tolerance):
        return values
    with np.errstate(invalid="ignore"):
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result
