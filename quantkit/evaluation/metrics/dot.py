"""Inner products of large outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["dot"]

_CHUNK = 8192
"""Values at once: BLAS spreads longer vectors over threads, which on a busy machine costs many times what it saves."""


def dot(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Sum of ``x * y``, both [M], in float64; chunk by chunk, which also keeps the rounding error small."""
    return sum(float(np.dot(x[i : i + _CHUNK], y[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK))
