"""What `evaluate` asks of a metric, the registry of metrics, and the arithmetic that several need."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from quantkit.types import Array

Scope = Literal["floats", "others", "scores", "labels"]

_CHUNK = 8192
"""Values at once: BLAS spreads longer vectors over threads, which on a busy machine costs many times what it saves."""


_Elements = npt.NDArray[np.float64]
"""[M]"""


class Metric:
    """An accumulator of one or a few numbers about one output of one variant: sums in float64 and counts, no samples.

    What it holds is added up by `merge`, batch by batch: a metric that holds anything else overrides that.

    Attributes:
        scope: what it is computed on: "floats" and "others" are every output of a floating or another type,
            "scores" is the output with class scores, "labels" the same where every sample has a label.
        numbers: what `compute` calls them, ends of intervals aside.
        compares: True where it has no meaning for the baseline itself.
        additive: True where the numbers of several outputs are added up; otherwise the lowest stands for all.
    """

    scope: ClassVar[Scope]
    numbers: ClassVar[tuple[str, ...]]
    compares: ClassVar[bool] = True
    additive: ClassVar[bool] = False

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds a batch: the variant's output, the baseline's, both [N, ...], and classes [N]."""
        raise NotImplementedError

    def merge(self, later: Metric) -> None:
        """Adds what another one of this kind saw after it: sums and counts are added, sets and flags joined."""
        for name, value in vars(later).items():
            mine = getattr(self, name)
            setattr(self, name, mine | value if isinstance(value, bool | set) else mine + value)

    def compute(self) -> dict[str, float]:
        """The numbers over everything seen, by name; empty before the first sample."""
        raise NotImplementedError


METRICS: dict[str, type[Metric]] = {}
"""By name; filled by the modules of this folder."""


def finite_pairs(values: Array, reference: Array) -> tuple[_Elements, _Elements, bool]:
    """The elements of both that are finite in both, in float64, and whether all others are the same in both."""
    x, xq = np.asarray(reference, np.float64).ravel(), np.asarray(values, np.float64).ravel()
    finite = np.isfinite(x) & np.isfinite(xq)
    if finite.all():
        return xq, x, True
    return xq[finite], x[finite], np.array_equal(x[~finite], xq[~finite], equal_nan=True)


def dot(x: _Elements, y: _Elements) -> float:
    """Sum of ``x * y``, both [M], in float64; chunk by chunk, which also keeps the rounding error small."""
    return sum(float(np.dot(x[i : i + _CHUNK], y[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK))
