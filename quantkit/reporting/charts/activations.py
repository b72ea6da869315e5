"""Drawings of activations: histograms with the clipping threshold, and the SQNR along the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.charts.axes import Chart, PlotFrame, nice_ticks, place_ticks
from quantkit.reporting.formatting import format_decibels, shorten, single_line
from quantkit.types import TensorQuality

_HISTOGRAM_WIDTH, _HISTOGRAM_HEIGHT = 120, 30
_SMALLEST = 1e-300
"""Width of a bin that can be drawn: divisions by narrower ones overflow."""

_MOST_BARS = 40

_FRAME = PlotFrame(height=240.0, bottom=200.0)

_LOWEST_DB, _HIGHEST_DB = -20.0, 120.0
"""The profile's axis goes no further: what lies beyond is drawn at its end."""


@dataclass(frozen=True)
class Histogram:
    """FP32 values as two areas, up to the threshold and beyond it; INT8 values as an outline; where the threshold lies.

    The outline is what quantization makes of the same counts: values beyond the threshold are moved to it.
    """

    kept: str
    clipped: str
    quantized: str
    amax_x: float
    width: int = _HISTOGRAM_WIDTH
    height: int = _HISTOGRAM_HEIGHT


@dataclass(frozen=True)
class Mark:
    """One of the worst tensors on the profile: its rank and where it lies."""

    rank: int
    x: float
    y: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Profile(Chart):
    """SQNR along the network: a line of the accumulated error, dots of what each tensor adds."""

    line: str
    dots: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]


def make_histogram(tensor: TensorQuality) -> Histogram | None:
    """Steps of log(1 + count); the axis goes to the threshold or to the last bin, whichever is further."""
    counts, top, amax = tensor.histogram, tensor.histogram_top, tensor.amax
    if not counts or max(counts) <= 0 or not (0 < top < math.inf) or not (0 <= amax < math.inf):
        return None
    joined = -(-len(counts) // _MOST_BARS)
    bars = [sum(max(c, 0) for c in counts[i : i + joined]) for i in range(0, len(counts), joined)]
    width = top / len(counts) * joined
    unit = (_HISTOGRAM_WIDTH - 1) / max(len(bars) * width, amax, _SMALLEST)
    if width < _SMALLEST:
        return None
    high = math.log1p(max(bars))
    kept: list[str] = []
    clipped: list[str] = []
    last = max(math.ceil(min(amax / width, len(bars))) - 1, 0)

    def height_of(count: float) -> float:
        return max(round(min(math.log1p(count) / high, 1.0) * (_HISTOGRAM_HEIGHT - 2), 1), 0.7) if count else 0.0

    for i, bar in enumerate(bars):
        if bar:
            height = height_of(bar)
            step = f"M{i * width * unit:.1f} {_HISTOGRAM_HEIGHT}v-{height:g}h{width * unit:.2f}v{height:g}z"
            # A bin that contains the threshold is kept: most of its values may be.
            (clipped if i * width >= amax else kept).append(step)
    moved = [*bars[:last], sum(bars[last:])]
    outline = "".join(
        f"V{_HISTOGRAM_HEIGHT - height_of(count):g}H{(i + 1) * width * unit:.1f}" for i, count in enumerate(moved)
    )
    quantized = f"M0 {_HISTOGRAM_HEIGHT}{outline}V{_HISTOGRAM_HEIGHT}"
    return Histogram("".join(kept), "".join(clipped), quantized, round(amax * unit, 1))


def make_profile(tensors: Sequence[TensorQuality], worst: Sequence[int]) -> Profile | None:
    """The tensors in network order, of which the first of `worst` are marked; None with fewer than three."""
    local, total = ({i: v for i, v in enumerate(values) if math.isfinite(v)} for values in _decibels(tensors))
    finite = [*local.values(), *total.values()]
    if len(tensors) < 3 or len(finite) < 3:
        return None
    low, high = (min(max(end, _LOWEST_DB), _HIGHEST_DB) for end in (min(finite), max(finite)))
    ticks = nice_ticks(low, high, 4)
    x_scale, y_scale = _FRAME.x_scale(0, len(tensors) - 1, room=8), _FRAME.y_scale(ticks[0], ticks[-1])

    def place(index: int, value: float) -> tuple[float, float]:
        return round(x_scale(index), 1), round(y_scale(min(max(value, ticks[0]), ticks[-1])), 1)

    marks = [
        Mark(rank, *place(i, local[i]), name=single_line(tensors[i].tensor))
        for rank, i in enumerate(worst[:5], start=1)
        if i in local
    ]
    last = next((t.sqnr_db for t in reversed(tensors) if t.sqnr_db is not None), math.inf)
    named = ", ".join(f"{shorten(m.name, 40)} at {format_decibels(local[worst[m.rank - 1]])} dB" for m in marks)
    return Profile(
        frame=_FRAME,
        title="SQNR of the activations in network order",
        description=f"{len(tensors)} activations; accumulated SQNR of the last one {format_decibels(last)} dB. "
        f"Lowest local SQNR: {named}.",
        y_ticks=place_ticks(ticks, y_scale),
        y_label="SQNR, dB",
        line="".join(
            # A gap where there is no error, or no number.
            f"{'L' if i - 1 in total else 'M'}{x:g} {y:g}"
            for i, (x, y) in ((i, place(i, value)) for i, value in total.items())
        ),
        dots=tuple(place(i, value) for i, value in local.items()),
        marks=tuple(marks),
    )


def _decibels(tensors: Sequence[TensorQuality]) -> tuple[list[float], list[float]]:
    """Local and accumulated SQNR; infinite where there is no error."""
    local = [math.inf if t.own_sqnr_db is None else t.own_sqnr_db for t in tensors]
    return local, [math.inf if t.sqnr_db is None else t.sqnr_db for t in tensors]
