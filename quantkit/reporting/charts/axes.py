"""What all charts share: the frame, linear and logarithmic scales, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.formatting import format_significant


@dataclass(frozen=True)
class PlotFrame:
    """Size of a drawing, and the edges of its plot."""

    width: float = 640.0
    height: float = 360.0
    left: float = 56.0
    right: float = 624.0
    top: float = 28.0
    bottom: float = 298.0

    def x_scale(self, low: float, high: float, *, is_log: bool = False, room: float = 0.0) -> Scale:
        """From left to right, with some room at both ends."""
        return Scale(low, high, self.left + room, self.right - room, is_log)

    def y_scale(self, low: float, high: float, *, is_log: bool = False) -> Scale:
        """From the bottom to the top."""
        return Scale(low, high, self.bottom, self.top, is_log)


@dataclass(frozen=True)
class Tick:
    """A line of the grid: where (SVG units) and what is written there."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What every chart has; `description` is its text for those who do not see it."""

    frame: PlotFrame
    title: str
    description: str
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True)
class Scale:
    """From a value to a place: `low` lies at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def nice_ticks(low: float, high: float, target: int) -> list[float]:
    """About `target` multiples of 1, 2 or 5 times a power of ten, of which the first and last enclose the range.

    There are at least two, also for a range of no width, so that an axis between them has a length.

    >>> nice_ticks(0.0, 0.53, 5)
    [0.0, 0.2, 0.4, 0.6]
    >>> nice_ticks(40.0, 40.0, 4)
    [40.0, 40.00000001]
    """
    span = max(high - low, 1e-9, 1e-9 * max(abs(low), abs(high)))  # steps that floats can tell apart
    rough = span / target
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... that enclose the range, with fewer between over many decades.

    >>> log_ticks(0.3, 4.0)
    [0.2, 0.5, 1.0, 2.0, 5.0]
    """
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    digits = (1, 2, 5) if high / low < 1e4 else (1,)
    values = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
    first = max(i for i, v in enumerate(values) if v <= low * 1.001)
    last = min(i for i, v in enumerate(values) if v >= high * 0.999)
    return values[first : max(last, first + 1) + 1]


def place_ticks(values: Sequence[float], scale: Scale) -> tuple[Tick, ...]:
    """Ticks at the values; all of an even axis with the same decimals."""
    if scale.is_log:
        return tuple(Tick(at=round(scale(v), 2), label=_short(v)) for v in values)
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple(Tick(at=round(scale(v), 2), label=f"{v:.{decimals}f}") for v in values)


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1 <= value < 1e7 else format_significant(value, 1)
