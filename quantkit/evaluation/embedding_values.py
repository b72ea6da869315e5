"""Whether values of an output are an embedding rather than scores of classes, told by their look alone."""

from __future__ import annotations

import numpy as np

from quantkit.types import Array

_UNIT = 1e-3
"""Rows whose lengths differ from 1 by less are normalized."""

_SUM_ERROR, _TINY = 1e-2, 1e-30
"""Probabilities add up to 1 but for this; what stands for 0 in a quotient."""

_MANY, _FLAT = 32, 4.0
"""Values are no probabilities where the likeliest of at least so many has less than so many times the mean."""

_SORTED = 8
"""At least so many scores that descend in every sample do so by design, not by chance."""


def looks_like_embedding(values: Array) -> bool:
    """Whether the largest element of a row [C] names no class: rows of length 1, or so flat that none stands out, or
    sorted, as TopK leaves them.

    Values from 0 to 1 that do not add up to 1 are scores of each class for itself, or coordinates, which are flat.

    >>> looks_like_embedding(np.array([[0.6, -0.8], [0.0, 1.0]])), looks_like_embedding(np.array([[0.9, 0.1]]))
    (True, False)
    """
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not rows.size:
        return False
    is_share = rows.min() >= 0 and rows.max() <= 1
    if is_share and np.abs(rows.sum(axis=1) - 1).max() < _SUM_ERROR:
        return False  # probabilities
    if rows.min() < 0 and np.abs(np.linalg.norm(rows, axis=1) - 1).max() < _UNIT:
        return True
    if rows.shape[1] >= _SORTED and (np.diff(rows, axis=1) <= 0).all() and (rows[:, 0] > rows[:, -1]).all():
        return True
    weights = rows if is_share else np.exp(rows - rows.max(axis=1, keepdims=True))
    highest = (weights.max(axis=1) / np.maximum(weights.sum(axis=1), _TINY)).mean()
    return rows.shape[1] >= _MANY and bool(highest * rows.shape[1] < _FLAT)
