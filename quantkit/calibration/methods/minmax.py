"""MinMax calibration: nothing is clipped."""

from __future__ import annotations

from quantkit.calibration.methods.registry import METHODS, Method
from quantkit.types import TensorStatistics


def minmax(statistics: TensorStatistics) -> float:
    """The largest magnitude seen."""
    return statistics.amax


METHODS["minmax"] = Method(minmax, "the largest magnitude: nothing is clipped", tensorrt_algorithm="MinMaxCalibration")
