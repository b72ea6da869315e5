"""Automatic choice: the range that hurts the model's output least, of those that the other methods give.

What a range does to the output is tried on samples: `quantkit.refinement.range_choice`. From statistics alone, as for a
tensor that no sample was tried on, the least squared error decides.
"""

from __future__ import annotations

from quantkit.calibration.methods.mse import mse
from quantkit.calibration.methods.registry import METHODS, Method
from quantkit.types import TensorStatistics


def auto(statistics: TensorStatistics) -> float:
    """The threshold with the least squared error, as `mse`.

    Args:
        statistics: of one tensor, not all zero.

    Returns:
        amax, at most the largest magnitude seen.
    """
    return mse(statistics)


METHODS["auto"] = Method(auto, "whichever range hurts the model's output least", keeps_probabilities=True)
