"""Scores by class: one table for each variant, sorted by what was lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.notices import plural
from quantkit.paired_statistics import wilson_interval
from quantkit.reporting.formatting import LEAST_DIFFERENCE, single_line
from quantkit.types import ClassScore, Evaluation, Interval, Report, Score

NUM_CLASSES_SHOWN = 10
"""Classes that are shown at once; the others are folded."""


@dataclass(frozen=True)
class ClassRow:
    """One class of one variant.

    Attributes:
        label: the class.
        count: how much of it the data holds.
        score: of the report.
        before, after: the baseline's value and the variant's; None where there is none.
        interval: of `after`; None where there is none.
        gain: length of the bar from -1 (worse) to 1 (better), relative to the largest change in the report.
        is_noise: the baseline's value lies within the interval.
    """

    label: str
    count: int
    score: Score
    before: float | None
    after: float | None
    interval: Interval | None
    gain: float
    is_noise: bool


@dataclass(frozen=True)
class ClassTable:
    """The classes of one variant.

    Attributes:
        variant: its name.
        summary: how many classes got worse and better; empty where none changed.
        rows: classes that changed, the largest loss first; those without a score in both models at the end.
    """

    variant: str
    summary: str
    rows: tuple[ClassRow, ...]


def class_tables(report: Report) -> tuple[ClassTable, ...]:
    """One table for each variant but the baseline; empty where there are no classes or no score."""
    score = report.score
    if not report.classes or score is None:
        return ()
    gains = [_gain(report, score, c, e) for c in report.classes for e in report.evaluations[1:]]
    largest = max((abs(gain) for gain in gains if gain is not None), default=0.0)
    return tuple(
        _table(report, score, evaluation, largest)
        for evaluation in report.evaluations[1:]
        if any(_value(c, evaluation) is not None for c in report.classes)
    )


def _table(report: Report, score: Score, evaluation: Evaluation, largest: float) -> ClassTable:
    found = [(c, _gain(report, score, c, evaluation)) for c in report.classes]
    known = [(c, gain) for c, gain in found if gain is not None]
    changed = sorted(((c, gain) for c, gain in known if gain), key=lambda pair: pair[1])
    rows = [_row(report, score, c, evaluation, gain / largest) for c, gain in changed]
    rows += [_row(report, score, c, evaluation, 0.0) for c, gain in found if gain is None]
    return ClassTable(
        variant=single_line(evaluation.name),
        summary=_summary([gain for _, gain in changed], len(known), len(found)),
        rows=tuple(rows),
    )


def _row(report: Report, score: Score, scored: ClassScore, evaluation: Evaluation, gain: float) -> ClassRow:
    before, after = _value(scored, report.baseline), _value(scored, evaluation)
    interval = None
    if score.name == "top1" and after is not None and 0 <= after <= 1 and scored.count > 0:
        interval = wilson_interval(after, scored.count)
    return ClassRow(
        label=single_line(scored.label),
        count=scored.count,
        score=score,
        before=before,
        after=after,
        interval=interval,
        gain=round(gain, 4),
        is_noise=before is not None and interval is not None and interval[0] <= before <= interval[1],
    )


def _summary(gains: Sequence[float], num_known: int, num_all: int) -> str:
    if not gains and num_known == num_all:
        return ""
    worse, better = sum(gain < 0 for gain in gains), sum(gain > 0 for gain in gains)
    words = f"{worse:,} of {plural(num_all, 'class')} worse, {better:,} better, {num_known - len(gains):,} unchanged"
    unknown = num_all - num_known
    return f"{words}, {unknown:,} without a score to compare." if unknown else f"{words}."


def _gain(report: Report, score: Score, scored: ClassScore, evaluation: Evaluation) -> float | None:
    """What the variant gained in this class: above 0 is better, whichever way the score goes."""
    before, after = _value(scored, report.baseline), _value(scored, evaluation)
    if before is None or after is None:
        return None
    difference = after - before
    # What is shown as 0.00 points is no change, nor are the last bits of two sums over the same samples.
    least = LEAST_DIFFERENCE if score.is_fraction else 0.0
    if abs(difference) < least or abs(difference) <= 1e-12 * max(abs(before), abs(after)):
        return 0.0
    return difference if score.higher_is_better else -difference


def _value(scored: ClassScore, evaluation: Evaluation) -> float | None:
    value = scored.scores.get(evaluation.name)
    return value if value is not None and math.isfinite(value) else None
