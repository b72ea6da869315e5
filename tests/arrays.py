"""Comparison of arrays, for which `pytest.approx` takes a second for every 50,000 elements."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def assert_close(found: npt.ArrayLike, expected: npt.ArrayLike, *, rel: float = 0.0, abs: float = 0.0) -> None:
    """Each element is within `rel` of the expected one, or within `abs`: the rule of `pytest.approx`."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert (difference <= np.maximum(rel * np.abs(expected), abs)).all(), f"off by up to {difference.max()}"
