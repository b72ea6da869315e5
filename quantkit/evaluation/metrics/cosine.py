"""Cosine similarity of an output with the baseline's: the angle between them, blind to gain."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.metric import METRICS, Metric, dot, finite_pairs
from quantkit.types import Array


class Cosine(Metric):
    """``cosine = sum x xq / sqrt(sum x^2 * sum xq^2)``, the sums over all elements of all samples.

    Equal outputs have cosine 1 exactly, zeros too; one of zeros and one of anything else 0. An element that is NaN or
    infinite on one side only, or differently, makes it 0; one that is the same on both sides `NonFinite` counts.

    >>> cosine = Cosine()
    >>> cosine.update(np.array([[2.0, 0.0]]), reference=np.array([[1.0, 0.0]]))
    >>> cosine.compute()
    {'cosine': 1.0}
    """

    scope = "floats"
    numbers = ("cosine",)

    def __init__(self) -> None:
        self.num_elements = 0
        self.product = 0.0
        self.reference_square = 0.0
        self.values_square = 0.0
        self.broken = False

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds the variant's output and the baseline's, of one shape; `targets` is not used."""
        self.num_elements += values.size
        xq, x, others_agree = finite_pairs(values, reference)
        self.broken |= not others_agree
        square = dot(x, x)
        self.reference_square += square
        if np.array_equal(x, xq):  # BLAS may round the same sum in another way where its arrays lie elsewhere
            self.product += square
            self.values_square += square
        else:
            self.product += dot(x, xq)
            self.values_square += dot(xq, xq)

    def compute(self) -> dict[str, float]:
        """`cosine`, from -1 to 1; empty before the first element."""
        if not self.num_elements:
            return {}
        if self.broken:
            return {"cosine": 0.0}
        if self.reference_square == self.values_square:
            norm = self.reference_square  # exactly: roots would be rounded
        else:
            norm = math.sqrt(self.reference_square) * math.sqrt(self.values_square)
        if norm == 0:
            return {"cosine": float(self.reference_square == self.values_square)}
        return {"cosine": min(max(self.product / norm, -1.0), 1.0)}


METRICS["cosine"] = Cosine
