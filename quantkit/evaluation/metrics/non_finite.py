"""Count of NaN and infinite elements in the outputs of a variant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.metric import METRICS, Metric
from quantkit.types import Array


class NonFinite(Metric):
    """``non_finite = sum(not isfinite(xq))`` over all elements of all outputs and samples.

    >>> non_finite = NonFinite()
    >>> non_finite.update(np.array([1.0, np.nan, np.inf]))
    >>> non_finite.compute()
    {'non_finite': 2.0}
    """

    scope = "floats"
    numbers = ("non_finite",)
    compares = False
    additive = True

    def __init__(self) -> None:
        self.count = 0

    def update(
        self, values: Array, *, reference: Array | None = None, targets: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Adds an output of any shape; `reference` and `targets` are not used."""
        self.count += values.size - int(np.isfinite(values).sum())

    def compute(self) -> dict[str, float]:
        """`non_finite`, a count; 0 is the only good value."""
        return {"non_finite": float(self.count)}


METRICS["non_finite"] = NonFinite
