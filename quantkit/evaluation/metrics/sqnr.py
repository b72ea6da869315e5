"""Signal to quantization noise ratio of an output, in dB."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.metric import METRICS, Metric, dot, finite_pairs
from quantkit.numerics import decibels
from quantkit.types import Array


class Sqnr(Metric):
    """``SQNR = 10 log10(sum x^2 / sum (x - xq)^2)`` dB, both sums over all elements of all samples.

    The sums are taken first: an average of dB would let a few easy samples hide a ruined one. Equal outputs give
    ``inf``. An element that is NaN or infinite on one side only, or differently, is infinite noise: ``-inf``; one that
    is the same on both sides is left to `NonFinite` to count.

    >>> sqnr = Sqnr()
    >>> sqnr.update(np.array([[9.0, 0.0]]), reference=np.array([[10.0, 0.0]]))
    >>> sqnr.compute()
    {'sqnr_db': 20.0}
    """

    scope = "floats"
    numbers = ("sqnr_db",)

    def __init__(self) -> None:
        self.num_elements = 0
        self.signal = 0.0
        self.noise = 0.0

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds the variant's output and the baseline's, of one shape; `targets` is not used."""
        self.num_elements += values.size
        xq, x, others_agree = finite_pairs(values, reference)
        if not others_agree:
            self.noise = math.inf
        self.signal += dot(x, x)
        self.noise += dot(x - xq, x - xq)

    def compute(self) -> dict[str, float]:
        """`sqnr_db`; empty before the first element."""
        return {"sqnr_db": decibels(self.signal, self.noise)} if self.num_elements else {}


METRICS["sqnr"] = Sqnr
