"""Share of equal elements, for outputs that are no numbers on a scale: class indices, masks, strings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.metric import METRICS, Metric
from quantkit.types import Array


class Equality(Metric):
    """``equal = sum(x == xq) / number of elements`` over all elements of all samples.

    >>> equality = Equality()
    >>> equality.update(np.array([1, 2, 3, 4]), reference=np.array([1, 2, 3, 5]))
    >>> equality.compute()
    {'equal': 0.75}
    """

    scope = "others"
    numbers = ("equal",)

    def __init__(self) -> None:
        self.num_elements = 0
        self.same = 0

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds the variant's output and the baseline's, of one shape; `targets` is not used."""
        self.num_elements += values.size
        self.same += int((values == reference).sum())

    def compute(self) -> dict[str, float]:
        """`equal`, a fraction of 1; empty before the first element."""
        return {"equal": self.same / self.num_elements} if self.num_elements else {}


METRICS["equality"] = Equality
