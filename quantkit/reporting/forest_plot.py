"""Geometry of the plot of differences: each variant's 95 % interval beside 99 %, 99.9 % and 100 % of the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.formatting import format_bounds, format_score_difference, one_line, score_unit, shorten
from quantkit.reporting.scales import Scale, Tick, nice_ticks
from quantkit.significance import MLPERF, compare_accuracy
from quantkit.types import Evaluation, Report, Score

__all__ = ["Forest", "ForestRow", "make_forest"]

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _FOOT = 640.0, 156.0, 24.0, 58.0, 34.0, 56.0
_LONGEST_NAME = 14


@dataclass(frozen=True)
class ForestRow:
    """One variant: estimate and interval, None without one, on the axis of differences, SVG units; better is right."""

    name: str
    x: float
    low: float | None
    high: float | None
    y: float
    label: str
    tone: str


@dataclass(frozen=True)
class Forest:
    """Everything that the template draws; `marks` are the lines at 99 %, 99.9 % and 100 % of the baseline's score."""

    rows: tuple[ForestRow, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    description: str
    axis_label: str
    height: float
    has_bare: bool = False
    width: float = _WIDTH
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = 0.0


def make_forest(report: Report) -> Forest | None:
    """Lays out the variants, those without an interval as bare points; None where no difference has an interval."""
    score = report.score
    shown = [e for e in report.evaluations[1:] if _gain(report, e) is not None]
    if score is None or all(_gain_interval(report, e) is None for e in shown):
        return None
    base = abs(report.baseline.metrics.get(score.name, math.nan))
    limits = {name: -share * base for name, share in MLPERF.items()} if math.isfinite(base) else {}
    ends = [end for e in shown for end in (*(_gain_interval(report, e) or ()), _gain(report, e) or 0.0)]
    # Limits far beyond every interval would squeeze the intervals to nothing, and the reverse: both are shown.
    low, high = min([0.0, *ends, *limits.values()]), max([0.0, *ends])
    unit = 100 if score.is_fraction else 1
    room = 0.06 * max(high - low, 1e-9)
    values = nice_ticks(unit * (low - room), unit * (high + room), 6)
    scale = Scale(values[0], values[-1], _LEFT, _WIDTH - _RIGHT)
    rows = [_row(report, e, i, scale, unit) for i, e in enumerate(shown)]
    bottom = _TOP + _ROW * len(rows)
    sign = 1 if score.higher_is_better else -1
    ticks = [Tick(round(scale(v), 2), format_score_difference(sign * v / unit, score)) for v in values]
    return Forest(
        rows=tuple(rows),
        ticks=tuple(_without_trailing_zeros(ticks)),
        marks=_marks(limits, scale, unit),
        description="; ".join(f"{row.name}: {row.label}" for row in rows) + ".",
        axis_label=_axis_label(report, score),
        height=bottom + _FOOT,
        has_bare=any(row.low is None for row in rows),
        bottom=bottom,
    )


def _row(report: Report, evaluation: Evaluation, index: int, scale: Scale, unit: float) -> ForestRow:
    score, pair = report.score, _gain_interval(report, evaluation)
    assert score is not None
    difference = report.difference(evaluation, score.name) or 0.0
    ends = report.difference_interval(evaluation)
    words = f"{format_score_difference(difference, score)} {score_unit(score, of_difference=True)}".strip()
    bounds = "no interval" if pair is None or ends is None else format_bounds(*ends, score)
    kind = compare_accuracy(report, evaluation).kind
    return ForestRow(
        name=shorten(evaluation.name, _LONGEST_NAME),
        x=round(scale(unit * (_gain(report, evaluation) or 0.0)), 2),
        low=None if pair is None else round(scale(unit * pair[0]), 2),
        high=None if pair is None else round(scale(unit * pair[1]), 2),
        y=_TOP + _ROW * (index + 0.5),
        label=f"{words} ({bounds})",
        tone={"better": "good", "worse": "bad"}.get(kind, ""),
    )


def _gain_interval(report: Report, evaluation: Evaluation) -> tuple[float, float] | None:
    """95 % interval of what was gained: better is up, whichever way the score goes; None if it is none to draw."""
    pair, score = report.difference_interval(evaluation), report.score
    if pair is None or score is None or not -1e9 < pair[0] <= pair[1] < 1e9:
        return None
    if _gain(report, evaluation) is None:
        return None
    return pair if score.higher_is_better else (-pair[1], -pair[0])


def _gain(report: Report, evaluation: Evaluation) -> float | None:
    """What was gained: better is up; None if it is none to draw."""
    difference = None if report.score is None else report.difference(evaluation, report.score.name)
    if report.score is None or difference is None or not abs(difference) < 1e9:
        return None
    return difference if report.score.higher_is_better else -difference


def _marks(limits: dict[str, float], scale: Scale, unit: float) -> tuple[Tick, ...]:
    """The limits from the left, "100 %" last."""
    found = [Tick(round(scale(unit * limit), 2), name) for name, limit in limits.items()]
    return (*sorted(found, key=lambda tick: tick.at), Tick(round(scale(0.0), 2), "100 %"))


def _without_trailing_zeros(ticks: Sequence[Tick]) -> list[Tick]:
    """-0.50 → -0.5, where all of them allow it."""
    labels = [tick.label for tick in ticks]
    while all(label.endswith("0") for label in labels if label != "0") and any("." in label for label in labels):
        labels = [label if label == "0" else label[:-1].removesuffix(".") for label in labels]
    return [Tick(tick.at, label) for tick, label in zip(ticks, labels, strict=True)]


def _axis_label(report: Report, score: Score) -> str:
    unit = score_unit(score, of_difference=True)
    words = f"Difference from {shorten(report.baseline.name, 24)} in {score.label}"
    return f"{one_line(words)}{f', {unit}' if unit else ''} (right is better)"
