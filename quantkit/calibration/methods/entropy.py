"""Entropy calibration: the threshold whose 128-level distribution diverges least, as TensorRT searches it.

The rule is the one of IInt8EntropyCalibrator2 (S. Migacz, "8-bit Inference with TensorRT", GTC 2017, S7310; bin 0
replaced by bin 1 as in NVIDIA's pytorch-quantization). On the histograms behind a cache that TensorRT 7.2.2 wrote it
returns TensorRT's own bin for every tensor.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from quantkit.calibration.methods.registry import METHODS, Method
from quantkit.calibration.statistics import TENSORRT_BINS, rebin
from quantkit.types import TensorStatistics

LEVELS = 128
"""Quantized magnitudes: INT8 is symmetric, so 128 of them."""

_BLOCK = 256
"""Thresholds at once: intermediate arrays stay in the second-level cache."""

_LEAST_KEPT = 0.5
"""Lower bound on the kept mass; guards against degenerate thresholds (docs/explanation/calibration.md)."""


def entropy(statistics: TensorStatistics) -> float:
    """Threshold (m + 0.5) * bin width that minimizes KL(P || Q) over m = 128 .. 2048.

    With TensorRT's histogram this is TensorRT's number, which may lie above the largest value seen. With the exact
    histogram it is limited to that value, since a wider range can only cost resolution, and to thresholds that leave at
    least half of the values that are not zero below: where no value is near 0 (images without black, say) the
    divergence is least where everything is cut off to one level.

    Args:
        statistics: of one tensor, not all zero.

    Returns:
        amax, in the tensor's unit.
    """
    histogram, width = rebin(statistics, TENSORRT_BINS)
    if statistics.rule == "tensorrt":
        return (search(histogram) + 0.5) * width
    return min((search(histogram, kept=_LEAST_KEPT) + 0.5) * width, statistics.amax)


def search(histogram: npt.NDArray[np.int64], *, kept: float = 0.0) -> int:
    """Number of bins below the threshold, from 128 to the number of bins; the last one where several are equal.

    Args:
        histogram: int64 [bins], bins >= 128.
        kept: share of the values beyond the first bin that must lie below the threshold, 0 to 1.
    """
    divergence = divergences(histogram)
    if divergence is None:
        return int(histogram.size)
    mass = np.cumsum(np.asarray(histogram[1:], np.float64))
    least = int(np.searchsorted(mass, kept * mass[-1])) + 2 if kept else LEVELS
    allowed = divergence[max(least, LEVELS) - LEVELS :]
    return int(histogram.size - np.argmin(allowed[::-1]))


def divergences(histogram: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
    """KL(P || Q) in nats for each threshold of m = 128 .. bins; infinite where Q is 0 and P is not; None without mass.

    P is the histogram below m with everything above added to its last bin. Q is the histogram below m, without what
    is above, merged into 128 levels (bin j belongs to level floor(j * 128 / m)) and spread again over the bins that
    are not empty. Prefix sums make each m cost 128 steps instead of m:
    KL = (sum p log p - sum over levels of mass * log(height)) / sum p - log(sum p / sum q).

    Args:
        histogram: int64 [bins], bins >= 128.

    Returns:
        float64 [bins - 127].
    """
    bins = np.asarray(histogram, np.float64).copy()
    # Bin 0 holds the zeros of ReLU and padding, which quantize exactly whatever the threshold: it must not decide.
    bins[0] = bins[1]
    total = bins.sum()
    if total <= 0:
        return None
    mass = np.concatenate([[0.0], np.cumsum(bins)])
    occupied = np.concatenate([[0.0], np.cumsum(bins > 0)])
    plogp = np.concatenate([[0.0], np.cumsum(_xlogx(bins))])
    parts = []
    for thresholds, edges in _blocks(bins.size):
        level_mass = np.diff(mass.take(edges))
        # Counts are whole numbers: 1 stands for an empty level, whose mass of 0 leaves nothing of the logarithm.
        height = np.diff(occupied.take(edges))
        np.maximum(height, 1.0, out=height)
        np.divide(np.maximum(level_mass, 1.0), height, out=height)
        log_height = np.log(height, out=height)
        below = mass[thresholds]
        above = total - below
        last = bins[thresholds - 1]
        sum_plogp = plogp[thresholds] - _xlogx(last) + _xlogx(last + above)
        sum_plogq = (level_mass * log_height).sum(axis=1) + above * log_height[:, -1]
        with np.errstate(divide="ignore"):
            part = (sum_plogp - sum_plogq) / total - np.log(total) + np.log(below)
        part[(below <= 0) | ((last <= 0) & (above > 0))] = np.inf
        parts.append(part)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _blocks(bins: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """All thresholds m in blocks, with the first bin of each level l under each m, ceil(l * m / 128)."""
    levels = np.arange(LEVELS + 1)
    blocks = np.split(np.arange(LEVELS, bins + 1), range(_BLOCK, bins + 1 - LEVELS, _BLOCK))
    return [(thresholds, (levels * thresholds[:, None] + LEVELS - 1) // LEVELS) for thresholds in blocks]


def _xlogx(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)), np.float64)


METHODS["entropy"] = Method(
    entropy,
    "the smallest KL divergence, as TensorRT's default calibrator",
    tensorrt_algorithm="EntropyCalibration2",
    keeps_probabilities=True,
)
