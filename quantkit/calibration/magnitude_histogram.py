"""Histograms of magnitudes made small enough to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from quantkit.types import TensorStatistics

_COLUMNS = 20


@dataclass(frozen=True)
class MagnitudeHistogram:
    """How often which magnitude came, in columns of equal width.

    Attributes:
        upper: the largest magnitude seen: the columns cover 0 to it.
        counts: values in each column.
    """

    upper: float
    counts: tuple[int, ...]


def magnitude_columns(tensor: TensorStatistics) -> MagnitudeHistogram:
    """The histogram in few columns. A bin belongs to the column of its middle: known to within one bin."""
    upper = tensor.amax if tensor.minimum <= tensor.maximum else 0.0
    if upper == 0 or tensor.bin_width == 0:
        return MagnitudeHistogram(0.0, (int(tensor.count), *[0] * (_COLUMNS - 1)))
    occupied = np.flatnonzero(tensor.histogram)
    with np.errstate(over="ignore"):  # bins wider than all values, in a file of another's making: the last column
        middles = (occupied + 0.5) * tensor.bin_width
        column = np.minimum(middles / upper * _COLUMNS, _COLUMNS - 1).astype(np.int64)
    column[-1:] = _COLUMNS - 1  # the largest magnitude lies in the topmost bin, wherever that bin's middle is
    counts = np.zeros(_COLUMNS, np.int64)
    np.add.at(counts, column, tensor.histogram[occupied])
    return MagnitudeHistogram(upper, tuple(int(n) for n in counts))
