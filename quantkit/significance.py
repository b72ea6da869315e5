"""What an interval allows one to say of a variant, as data: the gate decides by it, a report puts it into words.

`quantkit.evaluation` computes the intervals, by `quantkit.paired_statistics` or a bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from quantkit.paired_statistics import samples_by_counts, samples_to_tell, two_digits, wilson_interval
from quantkit.types import Evaluation, Report

CLOSE = 0.01
"""Share of the baseline's score that may be lost where a variant is called as good: MLPerf's wider gate."""

MLPERF_MARGINS = {"99%": 0.01, "99.9%": 0.001}
"""MLPerf Inference's gates by name, and the share of the reference's score that each lets go: "99% of FP32".
Source: mlcommons/inference, submission checker, accuracy targets.
"""

FEWEST_SAMPLES = 30
"""With fewer, a bootstrap's 95% interval holds the truth too rarely: of mIoU in 53 of 100 runs of 5 images, in 72 of
10, in 91 to 93 from 20 on.
"""

FEWEST_DIFFERING = 10
"""Samples that must differ between two models for a bootstrap of their difference: where none does, all draws are 0."""

DIFFERING = "differing"
"""Metric of a variant: on how many samples it differs from the baseline in what the score depends on. Where a task
computes no bootstrap, it is missing.
"""

NAMED_CLASSES = "named_classes"
"""Metric of a variant: how many classes are its answer to at least one sample."""

_AGREES_BY_SAMPLE = ("classify", "none")
"""Tasks whose agreement is a share of samples; of a segmentation it is one of pixels."""

GateWord = Literal["pass", "fail", "inconclusive"]

_WIDE = 1.2
"""Ratio of the ends of an interval of a speed-up from which on it is wide."""

_UNSETTLED = 2.0
"""Ratio of the ends from which on the interval says no more than the direction, if that."""


@dataclass(frozen=True)
class AccuracyVerdict:
    """What is known of a variant's score against the baseline's. A loss is positive where the variant does worse,
    whether more or less of the score is better; it is in the score's own unit (of a fraction, 0.01 is a point).

    Attributes:
        kind: "better": all of the interval is a gain. "within": the loss is at most `margin`, if there is one. "worse":
            there is a loss, and it may be or is beyond `margin`. "undecided": the interval holds both "no loss" and
            one beyond `margin`. "unknown": there is no score, no number, or no interval, or the baseline's score is 0,
            which has no parts to lose.
        share: of the baseline's score that may be lost.
        margin: the same in the score's unit: share * |baseline|; NaN where `kind` is "unknown" for lack of numbers.
        loss: estimate; None where there is none.
        interval: of the loss, 95%; None where there is none.
        needed: "undecided" only: about how many samples would decide, two digits of it; None where none would.
    """

    kind: Literal["worse", "better", "within", "undecided", "unknown"]
    share: float = CLOSE
    margin: float = math.nan
    loss: float | None = None
    interval: tuple[float, float] | None = None
    needed: int | None = None

    @property
    def is_loss_certain(self) -> bool:
        """Whether all of the interval is a loss, perhaps one within the margin."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def is_beyond_margin(self) -> bool:
        """Whether all of the interval is a loss of more than the margin."""
        return self.interval is not None and self.interval[0] > self.margin


@dataclass(frozen=True)
class SpeedVerdict:
    """What is known of a variant's speed.

    Attributes:
        kind: "faster" and "slower" where the interval says so; "same" where it holds 1 and is not `is_wide`;
            "unsettled" where it is, where its ends are more than a factor of 2 apart, or where there is none;
            "unknown" where the variant was not timed, or is what the others are compared with.
        speedup: above 1 is faster; None where it is unknown.
        interval: 95%; None where it was not computed.
        reference: name of the variant that it is compared with; empty where it is unknown.
    """

    kind: Literal["faster", "slower", "same", "unsettled", "unknown"]
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    reference: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether the ends of the interval are more than a fifth apart, so that the estimate alone says too little."""
        return self.interval is not None and self.interval[1] > _WIDE * self.interval[0]


def compare_accuracy(report: Report, evaluation: Evaluation, *, share: float = CLOSE) -> AccuracyVerdict:
    """Judges `evaluation` by `report.score` against the baseline.

    Args:
        report: with the intervals that its task computed.
        evaluation: one of its variants, not the baseline.
        share: of the baseline's score that may be lost; 0.01 is "within 1% of FP32".
    """
    if report.score is None:
        return AccuracyVerdict("unknown", share)
    difference = report.difference(evaluation, report.score.name)
    if difference is None or not math.isfinite(difference):
        return AccuracyVerdict("unknown", share)
    base = abs(report.baseline.metrics[report.score.name])
    margin = share * base
    loss = -difference if report.score.higher_is_better else difference
    interval = loss_interval(report, evaluation)
    if interval is None or not base:
        return AccuracyVerdict("unknown", share, margin, loss, interval)
    kind = judge(interval, margin)
    needed = _needed(report, evaluation, loss, interval, margin) if kind == "undecided" else None
    return AccuracyVerdict(kind, share, margin, loss, interval, needed)


def judge(interval: tuple[float, float], margin: float) -> Literal["worse", "better", "within", "undecided"]:
    """The word for a loss of which this is the 95% interval; see `AccuracyVerdict`.

    >>> judge((-0.001, 0.004), 0.0081), judge((-0.03, 0.04), 0.0081), judge((0.002, 0.02), 0.0081)
    ('within', 'undecided', 'worse')
    """
    low, high = interval
    if high < 0:
        return "better"
    if high <= margin:
        return "within"
    return "worse" if low > 0 else "undecided"


def mlperf(report: Report, evaluation: Evaluation) -> dict[str, GateWord]:
    """MLPerf's gates: whether the score is at least 99% (99.9%) of the baseline's, by the name of the gate.

    Where less of the score is better: whether it is at most 101% (100.1%). "inconclusive" where the 95% interval of the
    loss holds the limit; without an interval the score itself decides, as MLPerf does on a whole validation set. Empty
    where there is no score, or the baseline's is not positive, so that it has no parts.
    """
    words: dict[str, GateWord] = {}
    if report.score is None or report.baseline.metrics.get(report.score.name, 0.0) <= 0:
        return words
    for name, share in MLPERF_MARGINS.items():
        verdict = compare_accuracy(report, evaluation, share=share)
        if verdict.loss is None:
            continue
        low, high = verdict.interval or (verdict.loss, verdict.loss)
        # A limit that is just kept is kept: 0.99 * 0.8 is not exact in binary.
        limit = verdict.margin + 1e-9 * max(1.0, verdict.margin)
        words[name] = "pass" if high <= limit else "fail" if low > limit else "inconclusive"
    return words


def compare_speed(report: Report, evaluation: Evaluation, batch_size: int | None = None) -> SpeedVerdict:
    """Judges the speed of `evaluation` against `report.speed_reference`, at a batch size (None: the first)."""
    speedup, reference = report.speedup(evaluation, batch_size), report.speed_reference(evaluation, batch_size)
    latency = report.latency_at(evaluation, batch_size)
    if speedup is None or reference is None or reference is evaluation or latency is None:
        return SpeedVerdict("unknown")
    return SpeedVerdict(_speed_kind(latency.speedup_interval), speedup, latency.speedup_interval, reference.name)


def _speed_kind(interval: tuple[float, float] | None) -> Literal["faster", "slower", "same", "unsettled"]:
    if interval is None or interval[1] > _UNSETTLED * interval[0]:
        return "unsettled"
    if not interval[0] <= 1 <= interval[1]:
        return "faster" if interval[0] > 1 else "slower"
    return "unsettled" if interval[1] > _WIDE * interval[0] else "same"


def contradicting_speeds(report: Report, evaluation: Evaluation) -> dict[int, SpeedVerdict]:
    """By batch size, the speeds of the sweep that say the opposite of the first one: faster there, slower here."""
    opposite = {"faster": "slower", "slower": "faster"}.get(compare_speed(report, evaluation).kind)
    found = {timed.batch_size: compare_speed(report, evaluation, timed.batch_size) for timed in evaluation.sweep}
    return {size: verdict for size, verdict in found.items() if verdict.kind == opposite}


def agreement_interval(report: Report, evaluation: Evaluation) -> tuple[float, float] | None:
    """95% interval of a variant's agreement with the baseline; None where it is not a share of independent samples."""
    agreement = evaluation.metrics.get("agreement")
    if agreement is None or report.task not in _AGREES_BY_SAMPLE or evaluation.num_samples < 1:
        return None
    return wilson_interval(agreement, evaluation.num_samples) if 0 <= agreement <= 1 else None


def names_one_class(report: Report) -> bool:
    """Whether the baseline names the same class on every sample, so that agreeing with it tells nothing."""
    return report.baseline.metrics.get(NAMED_CLASSES) == 1


def loss_interval(report: Report, evaluation: Evaluation) -> tuple[float, float] | None:
    """95% interval of the loss in `report.score`, positive where the variant does worse; None where there is none."""
    interval = report.difference_interval(evaluation)
    if interval is None or report.score is None or not all(math.isfinite(end) for end in interval):
        return None
    return (-interval[1], -interval[0]) if report.score.higher_is_better else interval


def has_identical_outputs(evaluation: Evaluation) -> bool:
    """Whether every output of a variant is the baseline's, and so is all that its score depends on."""
    metrics = evaluation.metrics
    equal = [metrics[name] == value for name, value in (("sqnr_db", math.inf), ("equal", 1.0)) if name in metrics]
    return metrics.get(DIFFERING) == 0 and bool(equal) and all(equal)


def samples_to_tell_score(report: Report, evaluation: Evaluation, distance: float, width: float) -> int | None:
    """`samples_to_tell` of a loss in `report.score`; of top-1 by the samples that differ, as by `samples_by_counts`."""
    fixed, broken = (evaluation.metrics.get(name, -1.0) for name in ("fixed", "broken"))
    count = evaluation.num_samples
    if count < 1 or report.score is None:
        return None
    if report.score.name == "top1" and min(fixed, broken) >= 0 and fixed + broken <= count:
        found = samples_by_counts(distance, fixed / count, broken / count)
    else:
        found = samples_to_tell(distance, width, num_samples=count)
    # What cannot be told from N samples is not told from fewer, whatever the rounding says.
    return found if found is None or found > count else two_digits(1.1 * count)


def _needed(
    report: Report, evaluation: Evaluation, loss: float, interval: tuple[float, float], margin: float
) -> int | None:
    """Whichever of "within" and "worse" takes fewer samples."""
    low, high = interval
    ways = [(margin - loss, high - loss), (loss, loss - low)]
    found = [samples_to_tell_score(report, evaluation, distance, width) for distance, width in ways if distance > 0]
    return min((count for count in found if count is not None), default=None)
