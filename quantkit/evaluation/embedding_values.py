"""Whether values of an output are an embedding rather than scores of classes, told by their look alone."""

from __future__ import annotations

import numpy as np

from quantkit.types import Array

_UNIT = 1e-3
"""Rows whose lengths differ from 1 by less are normalized."""

_MANY, _FLAT = 32, 4.0
"""Of so many classes or more, the likeliest has less than four times the probability that each would have by chance."""


def looks_like_embedding(values: Array) -> bool:
    """Whether the largest element of a row [C] names no class: rows of length 1, or so flat that none stands out.

    >>> looks_like_embedding(np.array([[0.6, -0.8], [0.0, 1.0]])), looks_like_embedding(np.array([[0.9, 0.1]]))
    (True, False)
    """
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not rows.size or (rows.min() >= 0 and rows.max() <= 1):
        return False  # probabilities
    if rows.min() < 0 and np.abs(np.linalg.norm(rows, axis=1) - 1).max() < _UNIT:
        return True
    exponents = np.exp(rows - rows.max(axis=1, keepdims=True))
    highest = (exponents.max(axis=1) / exponents.sum(axis=1)).mean()
    return rows.shape[1] >= _MANY and bool(highest * rows.shape[1] < _FLAT)
