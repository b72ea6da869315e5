"""MinMax calibration: nothing is clipped."""

from __future__ import annotations

from quantkit.types import TensorStatistics

__all__ = ["minmax"]


def minmax(statistics: TensorStatistics) -> float:
    """The largest magnitude seen."""
    return statistics.amax
