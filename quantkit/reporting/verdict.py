"""The report in words: what each variant costs and gains, no stronger than the numbers allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantkit.datasets.description import HOW_TO_LABEL
from quantkit.reporting.decision import EXPECTED, chance_level, decide, is_expected
from quantkit.reporting.formatting import (
    LEAST_DIFFERENCE,
    format_bounds,
    format_decibels,
    format_difference,
    format_interval,
    format_percent,
    format_score,
    format_significant,
    format_speedup,
    score_unit,
    single_line,
    with_unit,
)
from quantkit.significance import (
    CLOSE,
    DIFFERING,
    FEWEST_DIFFERING,
    FEWEST_SAMPLES,
    AccuracyVerdict,
    GateWord,
    SpeedVerdict,
    agreement_interval,
    compare_accuracy,
    compare_speed,
    contradicting_speeds,
    has_identical_outputs,
    loss_interval,
    mlperf,
    names_one_class,
)
from quantkit.types import Evaluation, GateCheck, Report, Score

Tone = Literal["good", "neutral", "bad"]

_LEAST_MAP = 0.01
"""A detector below it detects almost nothing."""

_SHARE = f"{100 * CLOSE:.3g}%"

_GATES: dict[GateWord, str] = {
    "pass": "the whole 95% interval meets it",
    "fail": "the whole 95% interval misses it",
    "inconclusive": "the 95% interval contains it",
}
_BY_SCORE = "by the score alone, no interval"

_PLACES = {"cpu": "on this CPU", "gpu": "on this GPU", None: "on this machine"}

_CHECK = "check that labels, class order and preprocessing match the model before using any accuracy in this report."


@dataclass(frozen=True)
class Gate:
    """One of MLPerf's targets: "99%", the word for it, and why."""

    name: str
    word: GateWord
    why: str


@dataclass(frozen=True)
class Verdict:
    """One variant in words.

    Attributes:
        variant: its name.
        headline: one clause about accuracy, one about speed, and whether TensorRT, which it is for, ran it.
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
    """A verdict for each variant but the baseline; the one that is decided on first, then what is quantized."""
    decision = decide(report)
    chosen = "" if decision is None else decision.variant
    others = sorted(
        report.evaluations[1:],
        key=lambda e: (single_line(e.name) != chosen, not e.is_quantized, not e.representative),
    )
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
    judges_speed = any(check.kind == "speedup" for check in checks)
    return (*remarks(report), *(map(single_line, report.timing_warnings) if judges_speed else ()))


def doubts(report: Report) -> tuple[str, ...]:
    """Doubts about the whole report that its numbers raise by themselves, one sentence each, the gravest first."""
    found = []
    if (doubt := _doubt_of_score(report)) is not None:
        found.append(f"Baseline {single_line(report.baseline.name)} has {doubt}: {_CHECK}")
    if names_one_class(report):
        hint = "" if report.task == "none" else "; if its outputs are not class scores, pass --task none"
        found.append(
            f"Baseline {single_line(report.baseline.name)} names the same class on all "
            f"{_count(report, report.baseline)}, so agreeing with it says nothing: check preprocessing and model{hint}."
        )
    if _lacks_labels(report):
        found.append(f"No labels, so accuracy was not measured: to give labels, {HOW_TO_LABEL}.")
    for evaluation in report.evaluations:
        if (count := evaluation.metrics.get("non_finite", 0)) > 0:
            found.append(f"{single_line(evaluation.name)} produces NaN or infinite values ({count:.0f} elements).")
    backends = {e.backend.partition(" (run ")[0] for e in report.evaluations if e.latency is not None}  # of any run
    if len(backends) > 1:
        found.append(
            f"Latencies were measured on different backends ({'; '.join(sorted(map(single_line, backends)))}) and are "
            "not comparable across them: each speed-up is relative to the first variant of the same backend."
        )
    return tuple(found)


def _verdict(report: Report, evaluation: Evaluation) -> Verdict:
    accuracy, accuracy_tone, accuracy_sentence = _judge_accuracy(report, evaluation)
    speed, speed_tone, speed_sentence = _judge_speed(report, evaluation)
    tones = (accuracy_tone, speed_tone)
    name = single_line(evaluation.name)
    # "int8 is within 1% of fp32 and runs ...", "int8 vs fp32: no significant difference, and it runs ...".
    is_undecided = compare_accuracy(report, evaluation).kind == "undecided"
    is_unsettled = compare_speed(report, evaluation).kind == "unsettled"
    joint = "" if not speed else "; " if is_unsettled else ", and it " if is_undecided else " and "
    sentences = (accuracy_sentence, speed_sentence, _sweep_sentence(report, evaluation))
    return Verdict(
        variant=name,
        headline=f"{name} {accuracy}{joint}{speed}{f', {EXPECTED}' if is_expected(report, evaluation) else ''}",
        sentences=tuple(s for s in (*sentences, _size_sentence(report, evaluation)) if s),
        gates=_gates(report, evaluation),
        tone="bad" if "bad" in tones else "good" if "good" in tones else "neutral",
    )


def _gates(report: Report, evaluation: Evaluation) -> tuple[Gate, ...]:
    has_interval = loss_interval(report, evaluation) is not None
    found = mlperf(report, evaluation).items()
    return tuple(Gate(name, word, _GATES[word] if has_interval else _BY_SCORE) for name, word in found)


def _judge_accuracy(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Clause, tone and sentence."""
    if evaluation.metrics.get("non_finite", 0) > 0:
        return "produces NaN or infinite outputs", "bad", ""
    score, verdict = report.score, compare_accuracy(report, evaluation)
    if score is None or verdict.loss is None:
        return _judge_agreement(report, evaluation)
    clause, tone = _clause(report, evaluation, score, verdict)
    return clause, tone, _numbers(report, evaluation, score, verdict)


def _clause(report: Report, evaluation: Evaluation, score: Score, verdict: AccuracyVerdict) -> tuple[str, Tone]:
    base, count = single_line(report.baseline.name), _count(report, evaluation)
    by = _points(report.difference(evaluation, score.name), score)
    match verdict.kind:
        case "better":
            return f"is better than {base} ({by})", "good"
        case "within":
            return f"is within {_SHARE} of {base}", "neutral"
        case "worse":
            more = f" by more than {_SHARE}" if verdict.is_beyond_margin else ""
            return f"is worse than {base}{more} ({by})", "bad"
        case "undecided":
            needed = f" (about {verdict.needed:,} needed to decide)" if verdict.needed else ""
            return f"vs {base}: no significant difference on {count}{needed}", "neutral"
    if has_identical_outputs(evaluation):
        return f"produces the same outputs as {base} on all {count}", "neutral"
    label, why = single_line(score.label), _why_unknown(report, evaluation)
    if not verdict.loss:
        return f"has the same {label} as {base} ({why})", "neutral"
    if score.is_fraction and verdict.loss is not None and abs(verdict.loss) < LEAST_DIFFERENCE:
        by = "less than 0.01 points"
    return f"differs from {base} by {by} of {label} ({why})", "neutral"


def _why_unknown(report: Report, evaluation: Evaluation) -> str:
    """Why nothing more is said: mostly because there is no interval."""
    if report.score is not None and report.baseline.metrics.get(report.score.name) == 0:
        return "cannot be judged relative to 0"
    differing, count = evaluation.metrics.get(DIFFERING), _count(report, evaluation)
    if differing is None or not 0 <= differing <= evaluation.num_samples:
        return "no interval"
    if evaluation.num_samples < FEWEST_SAMPLES:
        return f"{count} are too few for an interval"
    if differing >= FEWEST_DIFFERING:
        return "no interval"
    return f"{f'only {differing:,.0f}' if differing else 'none'} of {count} differ, too few for an interval"


def _numbers(report: Report, evaluation: Evaluation, score: Score, verdict: AccuracyVerdict) -> str:
    unit = score_unit(score)
    mine, theirs = (with_unit(format_score(e.metrics[score.name], score), unit) for e in (evaluation, report.baseline))
    bounds = report.difference_interval(evaluation)
    by = _points(report.difference(evaluation, score.name), score, bounds)
    words = (
        f"{single_line(score.label)} is {mine} ({single_line(report.baseline.name)}: {theirs}), a difference of {by}"
    )
    if bounds is None or verdict.interval is None:
        return f"{words}."
    words += f" (95% interval {format_bounds(bounds, score)}, {_count(report, evaluation)})"
    if verdict.kind not in ("within", "undecided"):
        return f"{words}."
    if verdict.is_loss_certain:
        return f"{words}; the loss is significant but small."
    most = verdict.interval[1]
    if most <= 0:
        return f"{words}."
    if score.is_fraction and most < LEAST_DIFFERENCE:
        return f"{words}; a loss of more than 0.01 points can be ruled out."
    return f"{words}; a loss of up to {_points(most, score).lstrip('+')} cannot be ruled out."


def _judge_agreement(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Without a score nothing is known about accuracy; say how near the outputs are, and that it is not accuracy."""
    base = single_line(report.baseline.name)
    agreement = None if names_one_class(report) else evaluation.metrics.get("agreement")
    if agreement is not None:
        clause = f"agrees with {base} on {format_percent(agreement)}% of {_count(report, evaluation)}"
        if (interval := agreement_interval(report, evaluation)) is not None:
            clause += f" (95% interval {format_interval(*map(format_percent, interval))})"
        return clause, "neutral", "Without labels it is unknown whether the changed predictions are better or worse."
    if (sqnr := evaluation.metrics.get("sqnr_db")) is not None:
        clause = f"reproduces {base}'s outputs with {format_decibels(sqnr)} dB SQNR"
        return clause, "neutral", "Accuracy was not measured: there is no score for the outputs."
    return "has no accuracy measurement", "neutral", ""


def _judge_speed(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Clause, tone and sentence, at the first batch size."""
    latency, reference = evaluation.latency, report.speed_reference(evaluation)
    if report.speedup(evaluation) is None or reference is None or latency is None:
        return "", "neutral", "Speed was not measured."
    place, what = _PLACES[evaluation.device], "latency" if latency.compute_ms is None else "compute time"
    time = f"{format_significant(latency.compared_ms)} ms"
    theirs = report.latency_at(reference, latency.batch_size) or latency
    against = f"{single_line(reference.name)}: {format_significant(theirs.compared_ms)} ms"
    if not evaluation.representative:
        return "", "neutral", f"Its {what} of {time} {place} ({against}) is not representative of its target device."
    numbers = f"Median {what} {place} at batch size {latency.batch_size}: {time}"
    if reference is evaluation:
        other = single_line(report.baseline.name)
        return "", "neutral", f"{numbers}; {other} was not timed there, so the speeds are not comparable."
    verdict = compare_speed(report, evaluation)
    numbers += f" ({against})"
    if verdict.interval is not None:
        low, high = (format_speedup(end) for end in verdict.interval)
        numbers += f"; speed-up {format_speedup(verdict.speedup or 1.0)}x, 95% interval {low} to {high}"
    # The baseline needs no name in a headline that has named it.
    name = "" if reference is report.baseline else single_line(reference.name)
    clause, tone = _speed_clause(verdict, name, place)
    if others := contradicting_speeds(report, evaluation):
        ratios = ", ".join(f"{format_speedup(v.speedup or 1.0)}x at {size}" for size, v in others.items())
        return f"{clause} at batch size {latency.batch_size}, but {ratios}", "neutral", f"{numbers}."
    return clause, tone, f"{numbers}."


def _speed_clause(verdict: SpeedVerdict, name: str, place: str) -> tuple[str, Tone]:
    """Names the interval where it is wide: the estimate alone would claim too much."""
    ratio = f"{format_speedup(verdict.speedup or 1.0)}x"
    if verdict.is_wide and verdict.interval is not None:
        ratio = " to ".join(f"{format_speedup(end)}x" for end in verdict.interval)
    if verdict.kind == "unsettled":
        found = ratio if verdict.interval else "no interval"
        return f"speed not settled {place}: {found} (use a longer --latency-s)", "neutral"
    if verdict.kind == "faster":
        return f"runs {ratio} as fast{f' as {name}' if name else ''} {place}", "good"
    if verdict.kind == "slower":
        return f"is slower {place}: {ratio} the speed{f' of {name}' if name else ''}", "bad"
    return f"is not significantly faster{f' than {name}' if name else ''} {place}", "neutral"


def _sweep_sentence(report: Report, evaluation: Evaluation) -> str:
    """Speed-ups at the other batch sizes."""
    if not evaluation.representative:
        return ""
    verdicts = (
        (latency.batch_size, compare_speed(report, evaluation, latency.batch_size)) for latency in evaluation.sweep
    )
    found = [f"{_ratio_words(v)} at batch size {size}" for size, v in verdicts if v.speedup is not None]
    return f"Speed-up at other batch sizes: {', '.join(found)}." if found else ""


def _ratio_words(verdict: SpeedVerdict) -> str:
    """The ratio with its interval, "1.40x (1.22 to 1.61)"; where that is not settled, the interval alone."""
    if verdict.interval is None:
        return "not settled"
    bounds = format_interval(*map(format_speedup, verdict.interval))
    return (
        f"not settled ({bounds})"
        if verdict.kind == "unsettled"
        else f"{format_speedup(verdict.speedup or 1.0)}x ({bounds})"
    )


def _size_sentence(report: Report, evaluation: Evaluation) -> str:
    base = report.baseline.size_bytes
    mine = format_significant(evaluation.size_bytes / 1e6)
    return f"Model size: {mine} MB instead of {format_significant(base / 1e6)} MB." if base else ""


def _points(difference: float | None, score: Score, interval: tuple[float, float] | None = None) -> str:
    return with_unit(format_difference(difference, score, interval), score_unit(score, of_difference=True))


def _lacks_labels(report: Report) -> bool:
    """Whether classes were compared with the baseline's alone."""
    return (
        report.task == "classify" and report.score is None and any("agreement" in e.metrics for e in report.evaluations)
    )


def _count(report: Report, evaluation: Evaluation) -> str:
    return f"{evaluation.num_samples:,} {'samples' if report.preprocessing is None else 'images'}"


def _doubt_of_score(report: Report) -> str | None:
    """What is odd about the baseline's own score; None where nothing is."""
    if (chance := chance_level(report)) is not None:
        top1 = format_percent(report.baseline.metrics["top1"])
        return f"a top-1 accuracy of {top1}%, no better than chance ({format_percent(chance)}%)"
    value = math.nan if report.score is None else report.baseline.metrics.get(report.score.name, math.nan)
    if report.task == "detect" and value < _LEAST_MAP:
        return f"an mAP of {format_percent(value)}%, so it detects almost nothing"
    if report.task == "segment" and report.classes and value <= 1 / len(report.classes):
        most = format_percent(1 / len(report.classes))
        return f"an mIoU of {format_percent(value)}%, which a single class everywhere could reach (up to {most}%)"
    return None
