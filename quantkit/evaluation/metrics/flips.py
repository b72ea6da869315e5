"""Samples whose verdict changed from the baseline to the variant: the evidence for a paired comparison."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.accuracy import rank_targets
from quantkit.evaluation.metrics.metric import METRICS, Metric
from quantkit.paired_statistics import difference_interval, mcnemar_p_value
from quantkit.types import Array


class Flips(Metric):
    """Counts of `fixed` (baseline wrong, variant right) and `broken` (baseline right, variant wrong) samples.

    ``top1 - baseline's top1 = (fixed - broken) / N``; the p-value and the 95% interval of that difference come from
    `quantkit.paired_statistics`.

    >>> flips = Flips()
    >>> fp32, int8 = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> flips.update(int8, reference=fp32, targets=np.array([0, 0]))
    >>> flips.compute()["fixed"], flips.compute()["broken"], flips.compute()["p_value"]
    (0.0, 1.0, 1.0)
    """

    scope = "labels"
    numbers = ("fixed", "broken", "p_value")

    def __init__(self) -> None:
        self.num_samples = 0
        self.fixed = 0
        self.broken = 0

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds the variant's scores and the baseline's, both [N, C], and targets [N]."""
        if targets is None:
            raise ValueError("flips need targets")
        right, was_right = rank_targets(values, targets) == 0, rank_targets(reference, targets) == 0
        self.num_samples += len(targets)
        self.fixed += int((right & ~was_right).sum())
        self.broken += int((~right & was_right).sum())

    def compute(self) -> dict[str, float]:
        """`fixed`, `broken`, `p_value` and the interval's ends (fractions of 1); empty before the first sample."""
        if not self.num_samples:
            return {}
        low, high = difference_interval(self.fixed, self.broken, num_samples=self.num_samples)
        return {
            "fixed": float(self.fixed),
            "broken": float(self.broken),
            "p_value": mcnemar_p_value(self.fixed, self.broken),
            "top1_difference_low": low,
            "top1_difference_high": high,
        }


METRICS["flips"] = Flips
