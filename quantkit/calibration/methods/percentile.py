"""Percentile calibration: a given share of the values is not clipped.

H. Wu et al., "Integer Quantization for Deep Learning Inference" (arXiv 2004.09602), section 5: 99.99 serves most
convolutional networks, 99.999 and more serve transformers and detectors, 99.9 clips too much nearly everywhere.
"""

from __future__ import annotations

import numpy as np

from quantkit.types import TensorStatistics

__all__ = ["DEFAULT_PERCENTILE", "percentile"]

DEFAULT_PERCENTILE = 99.99


def percentile(statistics: TensorStatistics, percent: float = DEFAULT_PERCENTILE) -> float:
    """Smallest bin edge with at least `percent` % of all values, zeros included, at or below it.

    Args:
        statistics: of one tensor, not all zero.
        percent: above 0, at most 100; 100 is MinMax.

    Returns:
        amax, at most the largest magnitude seen, at least one bin.
    """
    cumulative = np.cumsum(statistics.histogram)
    needed = np.ceil(cumulative[-1] * (percent / 100))
    edge = int(np.searchsorted(cumulative, needed)) + 1
    return min(edge * statistics.bin_width, statistics.amax)
