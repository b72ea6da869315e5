"""What happened to each class: one table for each variant, sorted by what was lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.formatting import (
    MISSING,
    format_count,
    format_interval,
    format_percent,
    format_score,
    format_score_difference,
    one_line,
    plural,
)
from quantkit.reporting.variants import is_class_score
from quantkit.significance import wilson_interval
from quantkit.types import ClassScore, Evaluation, Report

__all__ = ["ClassRow", "ClassTable", "class_tables"]

NUM_SHOWN = 10
"""Classes that are shown at once; the others wait behind a click."""

_LEAST_SHOWN = 0.00005
"""Half of the last digit of a difference in points."""


@dataclass(frozen=True)
class ClassRow:
    """One class of one variant as text, and its bar.

    Attributes:
        label: the class.
        class_count, class_before, class_after, class_change, class_interval: as text, `MISSING` where there is none.
        gain: length of the bar from -1 (worse) to 1 (better), of the largest change on the page.
        is_noise: the baseline's share lies within the variant's own interval.
    """

    label: str
    class_count: str
    class_before: str
    class_after: str
    class_change: str
    class_interval: str
    gain: float
    is_noise: bool


@dataclass(frozen=True)
class ClassTable:
    """The classes of one variant.

    Attributes:
        variant: its name.
        summary: how many classes lost and gained.
        first, rest: rows that changed, the largest loss first, and those without a score in both at the end.
        num_unchanged: classes of which no row is shown because nothing changed.
    """

    variant: str
    summary: str
    first: tuple[ClassRow, ...]
    rest: tuple[ClassRow, ...]
    num_unchanged: int


def class_tables(report: Report) -> tuple[ClassTable, ...]:
    """One table for each variant but the baseline; empty where there are no classes or no score."""
    if not report.classes or report.score is None:
        return ()
    gains = [_gain(report, c, e) for c in report.classes for e in report.evaluations[1:]]
    largest = max((abs(gain) for gain in gains if gain is not None), default=0.0)
    return tuple(
        _table(report, evaluation, largest)
        for evaluation in report.evaluations[1:]
        if any(_value(c, evaluation) is not None for c in report.classes)
    )


def _table(report: Report, evaluation: Evaluation, largest: float) -> ClassTable:
    known = [(c, gain) for c in report.classes if (gain := _gain(report, c, evaluation)) is not None]
    changed = sorted(((c, gain) for c, gain in known if gain), key=lambda pair: pair[1])
    unknown = [c for c in report.classes if _gain(report, c, evaluation) is None]
    rows = [_row(report, c, evaluation, gain / largest) for c, gain in changed]
    rows += [_row(report, c, evaluation, 0.0) for c in unknown]
    return ClassTable(
        variant=one_line(evaluation.name),
        summary=_summary([gain for _, gain in known], len(unknown)),
        first=tuple(rows[:NUM_SHOWN]),
        rest=tuple(rows[NUM_SHOWN:]),
        num_unchanged=len(known) - len(changed),
    )


def _row(report: Report, scored: ClassScore, evaluation: Evaluation, gain: float) -> ClassRow:
    score = report.score
    assert score is not None
    before, after = _value(scored, report.baseline), _value(scored, evaluation)
    interval, is_noise = MISSING, False
    if is_class_score(report) and after is not None and 0 <= after <= 1 and scored.count > 0:
        low, high = wilson_interval(after, scored.count)
        interval = format_interval(format_percent(low), format_percent(high))
        is_noise = before is not None and low <= before <= high
    return ClassRow(
        label=one_line(scored.label),
        class_count=format_count(scored.count),
        class_before=format_score(before, score),
        class_after=format_score(after, score),
        class_change=MISSING if before is None or after is None else format_score_difference(after - before, score),
        class_interval=interval,
        gain=round(gain, 4),
        is_noise=is_noise,
    )


def _summary(gains: Sequence[float], num_unknown: int) -> str:
    lost, gained = sum(gain < 0 for gain in gains), sum(gain > 0 for gain in gains)
    words = f"Of {plural(len(gains) + num_unknown, 'class')}, {lost:,} lost, {gained:,} gained and "
    words += f"{len(gains) - lost - gained:,} did not change"
    if num_unknown:
        words += f"; {num_unknown:,} {'has' if num_unknown == 1 else 'have'} no score to compare"
    return f"{words}."


def _gain(report: Report, scored: ClassScore, evaluation: Evaluation) -> float | None:
    """What the variant gained in this class: above 0 is better, whichever way the score goes."""
    before, after = _value(scored, report.baseline), _value(scored, evaluation)
    if before is None or after is None or report.score is None:
        return None
    difference = after - before
    # What is shown as 0.00 points is no change.
    if report.score.is_fraction and abs(difference) < _LEAST_SHOWN:
        return 0.0
    # Nor are the last bits of two sums over the same samples.
    if abs(difference) <= 1e-12 * max(abs(before), abs(after)):
        return 0.0
    return difference if report.score.higher_is_better else -difference


def _value(scored: ClassScore, evaluation: Evaluation) -> float | None:
    value = scored.scores.get(evaluation.name)
    return value if value is not None and math.isfinite(value) else None
