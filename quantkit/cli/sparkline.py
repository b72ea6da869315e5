"""A histogram in one line of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantkit.calibration.magnitude_histogram import MagnitudeHistogram

MARK, ASCII_MARK = "│", "!"
"""Where the range ends. Tables have "|" between their columns on terminals without other lines."""

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"


def sparkline(histogram: MagnitudeHistogram, amax: float | None, *, ascii_only: bool) -> str:
    """One character for each column, its height the logarithm of the count; "" for a tensor that was always zero.

    An empty column is a space, and only that.

    Args:
        histogram: of magnitudes from 0.
        amax: where a bar between the columns stands; None draws none.
        ascii_only: for terminals without block elements.
    """
    if histogram.upper == 0:
        return ""
    levels = _ASCII if ascii_only else _BLOCKS
    steps = len(levels) - 1
    largest = math.log1p(max(histogram.counts))
    characters = [levels[math.ceil(steps * math.log1p(n) / largest) if n else 0] for n in histogram.counts]
    if amax is not None and amax > 0:
        place = min(round(len(characters) * amax / histogram.upper), len(characters))
        characters.insert(place, ASCII_MARK if ascii_only else MARK)
    return "".join(characters)
