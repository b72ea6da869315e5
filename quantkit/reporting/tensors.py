"""What quantization does to each activation: rows in network order, their histograms, and the error along the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.formatting import (
    format_count,
    format_decibels,
    format_interval,
    format_percent,
    format_significant,
    one_line,
    shorten,
)
from quantkit.reporting.scales import Scale, Tick, nice_ticks, place_ticks
from quantkit.types import Report, TensorQuality

__all__ = ["Histogram", "Mark", "Profile", "TensorRow", "TensorTable", "tensor_tables"]

NUM_WORST = 10

_HISTOGRAM_WIDTH, _HISTOGRAM_HEIGHT = 120, 30
_MOST_BARS = 40

_WIDTH, _HEIGHT = 640.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 26.0, 40.0

_PROFILE_DB = -20.0, 120.0
"""The profile's axis goes no further: what lies beyond is drawn at its end."""

_LEAST_TOP_DB = 40.0
"""The bars of SQNR end here or at the best tensor: INT8 of uniform values has 20 log10(2^8) = 48 dB at the most."""


@dataclass(frozen=True)
class Histogram:
    """Two areas, up to the threshold and beyond it, and where the threshold lies; SVG units."""

    kept: str
    clipped: str
    amax_x: float
    width: int = _HISTOGRAM_WIDTH
    height: int = _HISTOGRAM_HEIGHT


@dataclass(frozen=True)
class TensorRow:
    """One activation as text, with the length of its bar (0 to 1) and its histogram.

    `rank` is its place among the worst, from 1; 0 where it is not among them.
    """

    tensor: str
    producer: str
    rank: int
    tensor_position: str
    tensor_sqnr: str
    tensor_own_sqnr: str
    tensor_amax: str
    tensor_range: str
    tensor_clipped: str
    bar: float
    own_bar: float
    histogram: Histogram | None


@dataclass(frozen=True)
class Mark:
    """One of the worst tensors on the profile: its rank and where it lies, SVG units."""

    rank: int
    x: float
    y: float
    name: str


@dataclass(frozen=True)
class Profile:
    """SQNR along the network: a line of the error that has come up, dots of what each tensor adds; SVG units."""

    line: str
    dots: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]
    y_ticks: tuple[Tick, ...]
    description: str
    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = _HEIGHT - _BOTTOM


@dataclass(frozen=True)
class TensorTable:
    """The activations of one variant: the worst first, and all in network order."""

    variant: str
    worst: tuple[TensorRow, ...]
    all: tuple[TensorRow, ...]
    profile: Profile | None
    top_db: str


def tensor_tables(report: Report) -> tuple[TensorTable, ...]:
    """One table for each variant that was looked into; empty where none was."""
    names = dict.fromkeys(tensor.variant for tensor in report.tensors)
    return tuple(_table(name, [t for t in report.tensors if t.variant == name]) for name in names)


def _table(variant: str, tensors: Sequence[TensorQuality]) -> TensorTable:
    order = sorted(range(len(tensors)), key=lambda i: _severity(tensors[i]))
    worst = [i for i in order if tensors[i].own_sqnr_db is not None or tensors[i].sqnr_db is not None][:NUM_WORST]
    ranks = {i: rank for rank, i in enumerate(worst, start=1)}
    finite = [v for t in tensors for v in (t.sqnr_db, t.own_sqnr_db) if v is not None and math.isfinite(v)]
    top = max([_LEAST_TOP_DB, *finite])
    rows = [_row(t, i, ranks.get(i, 0), top) for i, t in enumerate(tensors)]
    return TensorTable(
        variant=one_line(variant),
        worst=tuple(rows[i] for i in worst),
        all=tuple(rows),
        profile=_profile(tensors, worst),
        top_db=format_significant(top, 2),
    )


def _row(tensor: TensorQuality, index: int, rank: int, top: float) -> TensorRow:
    return TensorRow(
        tensor=one_line(tensor.tensor),
        producer=one_line(tensor.producer),
        rank=rank,
        tensor_position=format_count(index + 1),
        tensor_sqnr=_decibels(tensor.sqnr_db),
        tensor_own_sqnr=_decibels(tensor.own_sqnr_db),
        tensor_amax=format_significant(tensor.amax),
        tensor_range=format_interval(format_significant(tensor.minimum), format_significant(tensor.maximum)),
        tensor_clipped=_share(tensor.clipped),
        bar=_bar(tensor.sqnr_db, top),
        own_bar=_bar(tensor.own_sqnr_db, top),
        histogram=_histogram(tensor),
    )


def _severity(tensor: TensorQuality) -> tuple[float, float]:
    """Smallest own SQNR first; NaN, which is no number at all, before everything."""
    values = (math.inf if v is None else v for v in (tensor.own_sqnr_db, tensor.sqnr_db))
    own, total = (-math.inf if math.isnan(v) else v for v in values)
    return own, total


def _decibels(value: float | None) -> str:
    return "∞" if value is None else format_decibels(value)


def _share(value: float) -> str:
    """Percent; a share that rounds to nothing and is something says so."""
    return "<0.01" if 0 < value < 5e-5 else format_percent(value)


def _bar(value: float | None, top: float) -> float:
    if value is None:
        return 1.0
    return 0.0 if math.isnan(value) else round(min(max(value / top, 0.0), 1.0), 4)


def _histogram(tensor: TensorQuality) -> Histogram | None:
    """Steps of log(1 + count); the axis goes to the threshold or to the last bin, whichever is further."""
    counts, top, amax = tensor.histogram, tensor.histogram_top, tensor.amax
    if not counts or max(counts) <= 0 or not (0 < top < math.inf) or not (0 <= amax < math.inf):
        return None
    joined = -(-len(counts) // _MOST_BARS)
    bars = [sum(max(c, 0) for c in counts[i : i + joined]) for i in range(0, len(counts), joined)]
    width = top / len(counts) * joined
    unit = (_HISTOGRAM_WIDTH - 1) / max(len(bars) * width, amax)
    high = math.log1p(max(bars))
    kept: list[str] = []
    clipped: list[str] = []
    for i, bar in enumerate(bars):
        if bar:
            height = max(round(math.log1p(bar) / high * (_HISTOGRAM_HEIGHT - 2), 1), 0.7)
            step = f"M{i * width * unit:.1f} {_HISTOGRAM_HEIGHT}v-{height:g}h{width * unit:.2f}v{height:g}z"
            # A bin that holds the threshold is kept: most of what it holds may be.
            (clipped if i * width >= amax else kept).append(step)
    return Histogram("".join(kept), "".join(clipped), round(amax * unit, 1))


def _profile(tensors: Sequence[TensorQuality], worst: Sequence[int]) -> Profile | None:
    """None with fewer than three tensors, which a table shows as well."""
    finite = [v for t in tensors for v in (t.sqnr_db, t.own_sqnr_db) if v is not None and math.isfinite(v)]
    if len(tensors) < 3 or len(finite) < 3:
        return None
    least, most = (min(max(end, _PROFILE_DB[0]), _PROFILE_DB[1]) for end in (min(finite), max(finite)))
    ticks = nice_ticks(least, most, 4)
    y_scale = Scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    x_scale = Scale(0, len(tensors) - 1, _LEFT + 8, _WIDTH - _RIGHT - 8)

    def place(index: int, value: float) -> tuple[float, float]:
        return round(x_scale(index), 1), round(y_scale(min(max(value, ticks[0]), ticks[-1])), 1)

    line, pen = [], "M"
    for i, tensor in enumerate(tensors):
        value = tensor.sqnr_db
        if value is None or not math.isfinite(value):
            pen = "M"  # a gap: no error here, or no number
            continue
        line.append(f"{pen}{place(i, value)[0]:g} {place(i, value)[1]:g}")
        pen = "L"
    own = {i: v for i, t in enumerate(tensors) if (v := t.own_sqnr_db) is not None and math.isfinite(v)}
    marks = [
        Mark(rank, *place(i, own[i]), name=one_line(tensors[i].tensor))
        for rank, i in enumerate(worst[:5], start=1)
        if i in own
    ]
    last = next((t.sqnr_db for t in reversed(tensors) if t.sqnr_db is not None), None)
    named = ", ".join(f"{shorten(mark.name, 40)} at {format_decibels(own[worst[mark.rank - 1]])} dB" for mark in marks)
    return Profile(
        line="".join(line),
        dots=tuple(place(i, value) for i, value in own.items()),
        marks=tuple(marks),
        y_ticks=place_ticks(ticks, y_scale),
        description=f"{len(tensors)} activations; the error at the last is {_decibels(last)} dB. Lowest own: {named}.",
    )
