"""Percentile calibration: a given share of the values is not clipped.

H. Wu et al., "Integer Quantization for Deep Learning Inference" (arXiv 2004.09602), section 5: 99.99 serves most
convolutional networks, 99.999 and more serve transformers and detectors, 99.9 clips too much nearly everywhere.
"""

from __future__ import annotations

import numpy as np

from quantkit.calibration.methods.registry import METHODS, Method
from quantkit.types import TensorStatistics
from quantkit.types.option import OwnOption


def percentile(statistics: TensorStatistics, *, percentile: float) -> float:
    """Smallest bin edge with at least `percentile` % of all values, zeros included, at or below it.

    Args:
        statistics: of one tensor, not all zero.
        percentile: above 0, at most 100; 100 is MinMax.

    Returns:
        amax, at most the largest magnitude seen, at least one bin.
    """
    cumulative = np.cumsum(statistics.histogram)
    needed = np.ceil(cumulative[-1] * (percentile / 100))
    edge = int(np.searchsorted(cumulative, needed)) + 1
    return min(edge * statistics.bin_width, statistics.amax)


METHODS["percentile"] = Method(
    percentile,
    "a percentile of the magnitudes",
    own_options=(
        OwnOption(
            "percentile",
            default=99.99,
            help="Percentage of the values that is not clipped",
            is_valid=lambda value: 0 < value <= 100,
            expected="above 0 and at most 100",
        ),
    ),
)
