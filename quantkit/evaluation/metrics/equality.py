"""Share of equal elements, for outputs that are no numbers on a scale: class indices, masks, strings."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.metric import Scope
from quantkit.types import Array

__all__ = ["Equality"]


class Equality:
    """``equal = sum(x == xq) / number of elements`` over all elements of all samples.

    >>> equality = Equality()
    >>> equality.update(np.array([1, 2, 3, 4]), reference=np.array([1, 2, 3, 5]))
    >>> equality.compute()
    {'equal': 0.75}
    """

    scope: ClassVar[Scope] = "others"
    compares: ClassVar[bool] = True
    additive: ClassVar[bool] = False

    def __init__(self) -> None:
        self.num_elements = 0
        self.same = 0

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds the variant's output and the baseline's, of one shape; `targets` is not used."""
        self.num_elements += values.size
        self.same += int((values == reference).sum())

    def merge(self, other: Equality) -> None:
        """Adds what another accumulator has seen."""
        self.num_elements += other.num_elements
        self.same += other.same

    def compute(self) -> dict[str, float]:
        """`equal`, a fraction of 1; empty before the first element."""
        return {"equal": self.same / self.num_elements} if self.num_elements else {}
