"""The forest plot: each variant's difference with its 95% interval, beside 99%, 99.9% and 100% of the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.charts.axes import Chart, PlotFrame, Scale, Tick, nice_ticks
from quantkit.reporting.formatting import (
    format_bounds,
    format_difference,
    score_unit,
    shorten,
    single_line,
    with_unit,
)
from quantkit.significance import MLPERF_MARGINS, compare_accuracy
from quantkit.types import Evaluation, Interval, Report, Score

_LEFT, _RIGHT, _TOP, _ROW, _FOOT = 156.0, 616.0, 58.0, 34.0, 56.0
_LONGEST_NAME = 14


@dataclass(frozen=True)
class ForestRow:
    """One variant: estimate and interval, None without one; better is right."""

    name: str
    x: float
    low: float | None
    high: float | None
    y: float
    label: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class Forest(Chart):
    """`marks` are the lines at 99%, 99.9% and 100% of the baseline's score, the last one at no difference."""

    rows: tuple[ForestRow, ...]
    marks: tuple[Tick, ...]
    has_bare: bool


def make_forest(report: Report) -> Forest | None:
    """Lays out the variants, those without an interval as bare points; None where no difference has an interval."""
    score = report.score
    gains = {e.name: gain for e in report.evaluations[1:] if (gain := _gain(report, e)) is not None}
    shown = [e for e in report.evaluations[1:] if e.name in gains]
    intervals = {e.name: pair for e in shown if (pair := _gain_interval(report, e)) is not None}
    if score is None or not intervals:
        return None
    base = abs(report.baseline.metrics.get(score.name, math.nan))
    limits = {name: -share * base for name, share in MLPERF_MARGINS.items()} if math.isfinite(base) else {}
    # Limits far beyond every interval would squeeze the intervals to nothing, and the reverse: both are shown.
    values = [0.0, *gains.values(), *(end for pair in intervals.values() for end in pair), *limits.values()]
    low, high, unit = min(values), max(values), 100 if score.is_fraction else 1
    room = 0.06 * max(high - low, 1e-9)
    ticks = nice_ticks(unit * (low - room), unit * (high + room), 6)
    bottom = _TOP + _ROW * len(shown)
    frame = PlotFrame(height=bottom + _FOOT, left=_LEFT, right=_RIGHT, top=_TOP, bottom=bottom)
    scale = frame.x_scale(ticks[0] / unit, ticks[-1] / unit)
    rows = []
    for i, e in enumerate(shown):
        low_x, high_x = (round(scale(end), 2) for end in intervals[e.name]) if e.name in intervals else (None, None)
        rows.append(
            ForestRow(
                name=shorten(e.name, _LONGEST_NAME),
                x=round(scale(gains[e.name]), 2),
                low=low_x,
                high=high_x,
                y=_TOP + _ROW * (i + 0.5),
                label=_label(report, score, e, has_interval=e.name in intervals),
                tone={"better": "good", "worse": "bad"}.get(compare_accuracy(report, e).kind, ""),
            )
        )
    sign = 1 if score.higher_is_better else -1
    return Forest(
        frame=frame,
        title="Difference of each variant with its 95% interval",
        description="; ".join(f"{row.name}: {row.label}" for row in rows) + ".",
        x_ticks=_without_trailing_zeros(
            [Tick(round(scale(v / unit), 2), format_difference(sign * v / unit, score)) for v in ticks]
        ),
        x_label=_axis_label(report, score),
        rows=tuple(rows),
        marks=_marks(limits, scale),
        has_bare=len(intervals) < len(shown),
    )


def _label(report: Report, score: Score, evaluation: Evaluation, *, has_interval: bool) -> str:
    difference = format_difference(report.difference(evaluation, score.name), score)
    pair = report.difference_interval(evaluation)
    bounds = format_bounds(pair, score) if pair and has_interval else "no interval"
    return f"{with_unit(difference, score_unit(score, of_difference=True))} ({bounds})"


def _gain(report: Report, evaluation: Evaluation) -> float | None:
    """The difference, positive where the variant is better; None if it cannot be drawn."""
    difference = None if report.score is None else report.difference(evaluation, report.score.name)
    if report.score is None or difference is None or not abs(difference) < 1e9:
        return None
    return difference if report.score.higher_is_better else -difference


def _gain_interval(report: Report, evaluation: Evaluation) -> Interval | None:
    """95% interval of `_gain`; None if it cannot be drawn."""
    pair, score = report.difference_interval(evaluation), report.score
    if pair is None or score is None or not -1e9 < pair[0] <= pair[1] < 1e9:
        return None
    return pair if score.higher_is_better else (-pair[1], -pair[0])


def _marks(limits: dict[str, float], scale: Scale) -> tuple[Tick, ...]:
    """The limits from the left, "100%" last."""
    found = [Tick(round(scale(limit), 2), name) for name, limit in limits.items()]
    return (*sorted(found, key=lambda tick: tick.at), Tick(round(scale(0.0), 2), "100%"))


def _without_trailing_zeros(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """-0.50 → -0.5, where all of them allow it."""
    labels = [tick.label for tick in ticks]
    while all(label.endswith("0") for label in labels if label != "0") and any("." in label for label in labels):
        labels = [label if label == "0" else label[:-1].removesuffix(".") for label in labels]
    return tuple(Tick(tick.at, label) for tick, label in zip(ticks, labels, strict=True))


def _axis_label(report: Report, score: Score) -> str:
    unit = score_unit(score, of_difference=True)
    words = f"Difference from {shorten(report.baseline.name, 24)} in {single_line(score.label)}"
    return f"{words}{f', {unit}' if unit else ''} (right is better)"
