"""MSE calibration: the threshold with the smallest squared error of the quantized values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.calibration.methods.registry import METHODS, Method
from quantkit.numerics import decibels
from quantkit.types import TensorStatistics

_CODES = 127
_COARSE_STEPS = 100
_FINE_STEPS = 20

LOW_TENSOR_DB = 20.0
"""Above this SQNR of a tensor by itself, what a range loses does not show in the output. 30 to 40 dB is common."""


def mse(statistics: TensorStatistics) -> float:
    """The T that minimizes the sum of (x - Q_T(x))^2; Q_T clips to [-T, T] and rounds to 127 steps of each sign.

    The histogram's bin centers stand for the values. 100 thresholds from 1% to 100% of the largest magnitude, then 40
    around the best: the error is smooth at that scale.

    Args:
        statistics: of one tensor, not all zero.

    Returns:
        amax, at most the largest magnitude seen.
    """
    centers, counts = _occupied(statistics)
    coarse = statistics.amax * np.arange(1, _COARSE_STEPS + 1) / _COARSE_STEPS
    best = _best(coarse, centers, counts)
    step = statistics.amax / _COARSE_STEPS
    fine = best + step * np.arange(-_FINE_STEPS, _FINE_STEPS + 1) / _FINE_STEPS
    return _best(fine[(fine > 0) & (fine <= statistics.amax)], centers, counts)


def mean_squared_error(statistics: TensorStatistics, threshold: float) -> float:
    """Mean over all values of (x - Q_T(x))^2, as the histogram tells it.

    Args:
        statistics: of one tensor, not all zero.
        threshold: T, positive.
    """
    centers, counts = _occupied(statistics)
    return squared_error(threshold, centers, counts) / float(counts.sum())


def expected_sqnr_db(statistics: TensorStatistics, threshold: float) -> float:
    """Signal-to-noise ratio of the quantized values in dB, as the histogram tells it; ``inf`` without an error.

    Args:
        statistics: of one tensor, not all zero.
        threshold: T, positive.
    """
    centers, counts = _occupied(statistics)
    error = squared_error(threshold, centers, counts)
    return decibels(float(counts @ centers**2), error)


def squared_error(threshold: float, centers: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> float:
    """Sum over bins of counts * (center - quantized center)^2 for symmetric INT8 with amax `threshold`."""
    scale = threshold / _CODES
    quantized = np.minimum(np.rint(centers / scale), _CODES) * scale
    return float(counts @ (centers - quantized) ** 2)


def _occupied(statistics: TensorStatistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Middles and counts of the bins that hold values."""
    occupied = np.flatnonzero(statistics.histogram)
    centers = np.minimum((occupied + 0.5) * statistics.bin_width, statistics.amax)
    if occupied[0] == 0:
        centers[0] = 0.0  # zeros and values next to them: exact under every threshold
    return centers, statistics.histogram[occupied].astype(np.float64)


def _best(
    thresholds: npt.NDArray[np.float64], centers: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]
) -> float:
    errors = [squared_error(t, centers, counts) for t in thresholds]
    # The largest of equal thresholds clips least. The smallest error first, from the right.
    return float(thresholds[len(errors) - 1 - int(np.argmin(errors[::-1]))])


METHODS["mse"] = Method(mse, "the smallest mean squared error of the quantized values")
