"""The report in words: what each variant costs and gains, no stronger than the numbers allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantkit.reporting.formatting import (
    format_beside,
    format_bounds,
    format_decibels,
    format_percent,
    format_score,
    format_score_difference,
    format_significant,
    format_speedup,
    one_line,
    score_unit,
)
from quantkit.significance import (
    CLOSE,
    DIFFERING,
    FEWEST_DIFFERING,
    FEWEST_SAMPLES,
    AccuracyVerdict,
    compare_accuracy,
    has_identical_outputs,
    judge_speed,
    loss_interval,
    mlperf,
)
from quantkit.types import Evaluation, GateCheck, Latency, Report, Score

__all__ = ["Gate", "Verdict", "cautions", "doubts", "partial_notice", "remarks", "verdicts"]

Tone = Literal["good", "neutral", "bad"]

_LEAST_SHOWN = 0.00005
"""Half of the last digit of a difference in points."""

_LEAST_MAP = 0.01
"""A detector below it finds next to nothing."""

_GATES = {
    "passed": ("kept", "all of the 95 % interval keeps it"),
    "failed": ("missed", "all of the 95 % interval misses it"),
    "undecided": ("open", "the 95 % interval holds it"),
}
_BY_SCORE = "by the score itself, no interval"

_TIMING = ("speed-up", "latenc", "timed", "timing", "mean times", "machine was busy", "clocks")
"""What the report's warnings about times speak of."""


@dataclass(frozen=True)
class Gate:
    """One of MLPerf's targets: "99 %", "kept", "missed" or "open", and why."""

    name: str
    word: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """One variant in words.

    Attributes:
        variant: its name.
        headline: one clause about accuracy, one about speed.
        sentences: the numbers behind it, one sentence each.
        gates: MLPerf's, empty without a score.
        tone: "bad" where something is lost, "good" where something is gained and nothing lost.
    """

    variant: str
    headline: str
    sentences: tuple[str, ...]
    gates: tuple[Gate, ...]
    tone: Tone


def verdicts(report: Report) -> tuple[Verdict, ...]:
    """A verdict for each variant but the baseline; the most telling first: INT8 whose latency means something."""
    others = sorted(report.evaluations[1:], key=lambda e: (e.precision != "int8", not e.representative))
    return tuple(_verdict(report, evaluation) for evaluation in others)


def partial_notice(report: Report) -> str:
    """What a partial report says first: "Partial: 3,200 of 10,000 samples; interrupted"; empty for a whole one."""
    if report.planned_samples is None:
        return ""
    return f"Partial: {report.baseline.num_samples:,} of {report.planned_samples:,} samples; interrupted"


def remarks(report: Report) -> tuple[str, ...]:
    """What must be read with any number of this report: that it is partial, and `doubts`."""
    notice = partial_notice(report)
    return (*((f"{notice}.",) if notice else ()), *doubts(report))


def cautions(report: Report, checks: Sequence[GateCheck]) -> tuple[str, ...]:
    """What must be read with a gate's checks: `remarks`; where a speed is judged, the report's warnings about times."""
    timing: tuple[str, ...] = ()
    if any(check.limit.startswith("--min-speedup") for check in checks):
        timing = tuple(one_line(w) for w in report.warnings if any(word in w.lower() for word in _TIMING))
    return (*remarks(report), *timing)


def doubts(report: Report) -> tuple[str, ...]:
    """Doubts about the whole report that its numbers raise by themselves, one sentence each, the gravest first."""
    found = []
    if (chance := _chance(report)) is not None:
        found.append(
            f"{one_line(report.baseline.name)} itself is right on {format_percent(report.baseline.metrics['top1'])} % "
            f"of the samples, which guessing ({format_percent(chance)} %) could reach too: check that the labels, "
            "their order and the preprocessing fit the model before using any accuracy in this report."
        )
    elif (doubt := _doubt_of_score(report)) is not None:
        found.append(
            f"{one_line(report.baseline.name)} itself {doubt}: check that the labels, their order and the "
            "preprocessing fit the model before using any accuracy in this report."
        )
    for evaluation in report.evaluations:
        if evaluation.metrics.get("non_finite", 0) > 0:
            found.append(
                f"{one_line(evaluation.name)} puts out NaN or infinite values "
                f"({evaluation.metrics['non_finite']:.0f} elements)."
            )
    backends = {e.backend for e in report.evaluations if e.latency is not None}
    if len(backends) > 1:
        found.append(
            f"Latencies were measured on different backends ({'; '.join(sorted(map(one_line, backends)))}) and are not "
            "comparable between them: each speed-up is to the first variant of the same backend."
        )
    return tuple(found)


def _verdict(report: Report, evaluation: Evaluation) -> Verdict:
    accuracy, accuracy_tone, accuracy_sentence = _judge_accuracy(report, evaluation)
    speed, speed_tone, speed_sentence = _judge_speed(report, evaluation)
    tones = (accuracy_tone, speed_tone)
    tone: Tone = "bad" if "bad" in tones else "good" if "good" in tones else "neutral"
    name = one_line(evaluation.name)
    sentences = (accuracy_sentence, speed_sentence, _sweep_sentence(report, evaluation))
    return Verdict(
        variant=name,
        headline=f"{name} {accuracy}" + (f" and {speed}" if speed else ""),
        sentences=tuple(s for s in (*sentences, _size_sentence(report, evaluation)) if s),
        gates=_gates(report, evaluation),
        tone=tone,
    )


def _gates(report: Report, evaluation: Evaluation) -> tuple[Gate, ...]:
    has_interval = loss_interval(report, evaluation) is not None
    found = ((name, *_GATES[word]) for name, word in mlperf(report, evaluation).items())
    return tuple(Gate(name, word, why if has_interval else _BY_SCORE) for name, word, why in found)


def _judge_accuracy(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Clause, tone and sentence."""
    if evaluation.metrics.get("non_finite", 0) > 0:
        return "is broken: it puts out NaN or infinite values", "bad", ""
    score, judgement = report.score, compare_accuracy(report, evaluation)
    if score is None or judgement.loss is None:
        return _judge_agreement(report, evaluation)
    clause, tone = _clause(report, evaluation, score, judgement)
    return clause, tone, _numbers(report, evaluation, score, judgement)


def _clause(report: Report, evaluation: Evaluation, score: Score, judgement: AccuracyVerdict) -> tuple[str, Tone]:
    base = one_line(report.baseline.name)
    by = _with_unit(report.difference(evaluation, score.name), score)
    share = f"{100 * CLOSE:.3g} %"
    if judgement.kind == "better":
        return f"is better than {base} ({by})", "good"
    if judgement.kind == "within":
        return f"is within {share} of {base}", "neutral"
    if judgement.kind == "worse":
        more = f" by more than {share}" if judgement.is_beyond_margin else ""
        return f"is worse than {base}{more} ({by})", "bad"
    if judgement.kind == "undecided":
        count = f"{evaluation.num_samples:,} {_noun(report)}"
        needed = f" (about {judgement.needed:,} are needed)" if judgement.needed else ""
        return f"cannot be told from {base} by {count}{needed}", "neutral"
    count = f"{evaluation.num_samples:,} {_noun(report)}"
    if has_identical_outputs(evaluation):
        return f"gives the same answers as {base} on all {count}", "neutral"
    if not judgement.loss:
        return f"has the same {one_line(score.label)} as {base} ({_why_unknown(report, evaluation)})", "neutral"
    if score.is_fraction and abs(judgement.loss) < _LEAST_SHOWN:
        by = "less than 0.01 points"
    return f"differs from {base} by {by} {one_line(score.label)} ({_why_unknown(report, evaluation)})", "neutral"


def _why_unknown(report: Report, evaluation: Evaluation) -> str:
    """Why there is no interval, which is why nothing more is said."""
    differing, noun = evaluation.metrics.get(DIFFERING), _noun(report)
    if differing is None or not 0 <= differing <= evaluation.num_samples:
        return "no interval"
    if evaluation.num_samples < FEWEST_SAMPLES:
        return f"{evaluation.num_samples:,} {noun} are too few for an interval"
    if differing >= FEWEST_DIFFERING:
        return "no interval"
    count = f"only {differing:,.0f}" if differing else "none"
    return f"{count} of {evaluation.num_samples:,} {noun} differ, too few for an interval"


def _numbers(report: Report, evaluation: Evaluation, score: Score, judgement: AccuracyVerdict) -> str:
    base, unit = one_line(report.baseline.name), score_unit(score)
    mine, theirs = (format_score(e.metrics[score.name], score) for e in (evaluation, report.baseline))
    space = f" {unit}" if unit else ""
    difference, bounds = report.difference(evaluation, score.name), report.difference_interval(evaluation)
    by = _with_unit(difference, score)
    if difference is not None and bounds is not None and not score.is_fraction:
        by = format_beside(difference, *bounds, score)
    words = f"{one_line(score.label)} is {mine}{space} where {base} has {theirs}{space}: a difference of {by}"
    if bounds is None or judgement.interval is None:
        return f"{words}."
    words += f" (95 % interval {format_bounds(*bounds, score)}, {evaluation.num_samples:,} {_noun(report)})"
    if judgement.is_loss_certain and judgement.kind == "within":
        return f"{words}; a loss is certain, and small."
    if judgement.kind in ("within", "undecided"):
        words += _possible_loss(judgement.interval[1], score)
    return f"{words}."


def _possible_loss(most: float, score: Score) -> str:
    if most <= 0:
        return ""
    if score.is_fraction and most < _LEAST_SHOWN:
        return "; a loss of more than 0.01 points can be ruled out"
    return f"; a loss of up to {_with_unit(most, score).lstrip('+')} cannot be ruled out"


def _judge_agreement(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Without a score nothing is known about accuracy; say how near the outputs are, and that it is not accuracy."""
    base = one_line(report.baseline.name)
    if (agreement := evaluation.metrics.get("agreement")) is not None:
        words = (
            f"names the same class as {base} for {format_percent(agreement)} % of "
            f"{evaluation.num_samples:,} {_noun(report)}"
        )
        return words, "neutral", "There are no labels, so whether the changed answers are better or worse is not known."
    if (sqnr := evaluation.metrics.get("sqnr_db")) is not None:
        words = f"follows {base}'s outputs with {format_decibels(sqnr)} dB SQNR"
        return words, "neutral", "Accuracy was not measured: there is nothing to judge the outputs by."
    return "was not compared in accuracy", "neutral", ""


def _judge_speed(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Clause, tone and sentence, at the first batch size."""
    speedup, reference = report.speedup(evaluation), report.speed_reference(evaluation)
    if speedup is None or reference is None or evaluation.latency is None:
        return "", "neutral", "Its speed was not measured."
    theirs = report.latency_at(reference, evaluation.latency.batch_size) or evaluation.latency
    place = _place(evaluation)
    mine, base = (format_significant(latency.compared_ms) for latency in (evaluation.latency, theirs))
    if not evaluation.representative:
        words = f"Its {mine} ms {place} ({base} ms in {one_line(reference.name)}) say nothing about the device that it "
        return "", "neutral", words + "is made for."
    if reference is evaluation:
        words = f"It takes {mine} ms {place}; {one_line(report.baseline.name)} was not timed there, so that their "
        return "", "neutral", words + "speeds are not comparable."
    return _compare_speed(report, evaluation, evaluation.latency, reference, (mine, base))


def _compare_speed(
    report: Report, evaluation: Evaluation, latency: Latency, reference: Evaluation, times: tuple[str, str]
) -> tuple[str, Tone, str]:
    place, judgement = _place(evaluation), judge_speed(report, evaluation)
    ratio = f"{format_speedup(judgement.speedup or 1.0)}x"
    # The baseline needs no name in a headline that has named it.
    name = "" if reference is report.baseline else f" {one_line(reference.name)}"
    compared = "medians" if latency.compute_ms is None else "median computations"
    numbers = f"A batch of {latency.batch_size} takes {times[0]} ms instead of {times[1]} ms"
    numbers += f" as{name} takes" if name else ""
    numbers += f" ({compared}, {place}"
    if judgement.interval is not None:
        low, high = (format_speedup(end) for end in judgement.interval)
        numbers += f"; speed-up {ratio}, 95 % interval {low} to {high}"
    numbers += ")."
    if judgement.kind == "faster":
        return f"runs {ratio} as fast{f' as{name}' if name else ''} {place}", "good", numbers
    if judgement.kind == "slower":
        return f"is slower {place}: {ratio} the speed{f' of{name}' if name else ''}", "bad", numbers
    return f"is no faster{f' than{name}' if name else ''} {place}", "neutral", numbers


def _sweep_sentence(report: Report, evaluation: Evaluation) -> str:
    """Speed-ups at the other batch sizes."""
    if not evaluation.representative:
        return ""
    found = []
    for latency in evaluation.sweep:
        judgement = judge_speed(report, evaluation, latency.batch_size)
        if judgement.speedup is not None:
            found.append(f"{format_speedup(judgement.speedup)}x at a batch of {latency.batch_size}")
    return f"Speed-up at other batch sizes: {', '.join(found)}." if found else ""


def _size_sentence(report: Report, evaluation: Evaluation) -> str:
    base = report.baseline.size_bytes
    if not base:
        return ""
    mine = format_significant(evaluation.size_bytes / 1e6)
    return f"The file is {mine} MB instead of {format_significant(base / 1e6)} MB."


def _with_unit(difference: float | None, score: Score) -> str:
    return f"{format_score_difference(difference, score)} {score_unit(score, of_difference=True)}".strip()


def _noun(report: Report) -> str:
    return "samples" if report.preprocessing is None else "images"


def _place(evaluation: Evaluation) -> str:
    words = evaluation.backend.lower()
    if "cpu" in words:
        return "on this CPU"
    return "on this GPU" if any(w in words for w in ("gpu", "cuda", "tensorrt")) else "on this machine"


def _doubt_of_score(report: Report) -> str | None:
    """What is odd about the baseline's own mAP or mIoU; None where nothing is."""
    value = math.nan if report.score is None else report.baseline.metrics.get(report.score.name, math.nan)
    if report.task == "detect" and value < _LEAST_MAP:
        return f"has an mAP of {format_percent(value)} %, so that it finds next to nothing"
    if report.task == "segment" and report.classes and value <= 1 / len(report.classes):
        most = format_percent(1 / len(report.classes))
        return f"has an mIoU of {format_percent(value)} %, which one class everywhere (up to {most} %) could reach too"
    return None


def _chance(report: Report) -> float | None:
    """Accuracy of guessing, where the baseline's is within three standard errors of it; None otherwise."""
    top1, classes = report.baseline.metrics.get("top1"), report.baseline.metrics.get("num_classes", 0)
    if top1 is None or classes < 2 or not report.baseline.num_samples:
        return None
    chance = 1 / classes
    error = (chance * (1 - chance) / report.baseline.num_samples) ** 0.5
    # A handful of samples cannot tell an untrained model from a good one with bad luck.
    return chance if report.baseline.num_samples >= 30 and top1 < chance + 3 * error else None
