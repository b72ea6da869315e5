"""The report in words: what each variant costs and gains, no stronger than the numbers allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantkit.reporting.figures import (
    format_decibels,
    format_difference,
    format_percent,
    format_significant,
    format_speedup,
    interval,
    one_line,
)
from quantkit.types import Evaluation, Report

__all__ = ["Verdict", "remarks", "verdicts"]

Tone = Literal["good", "neutral", "bad"]

_CLOSE = 0.01
"""MLPerf's wider gate: 99 % of the reference's accuracy."""


@dataclass(frozen=True)
class Verdict:
    """One variant in words.

    Attributes:
        variant: its name.
        headline: one clause about accuracy, one about speed.
        sentences: the numbers behind it, one sentence each.
        tone: "bad" where something is lost, "good" where something is gained and nothing lost.
    """

    variant: str
    headline: str
    sentences: tuple[str, ...]
    tone: Tone


def verdicts(report: Report) -> tuple[Verdict, ...]:
    """A verdict for each variant but the baseline; the most telling first: INT8 whose latency means something."""
    others = sorted(report.evaluations[1:], key=lambda e: (e.precision != "int8", not e.representative))
    return tuple(_verdict(report, evaluation) for evaluation in others)


def remarks(report: Report) -> tuple[str, ...]:
    """Doubts about the whole report that its numbers raise by themselves, one sentence each, the gravest first."""
    found = []
    if (chance := _chance(report)) is not None:
        found.append(
            f"{one_line(report.baseline.name)} itself is right on {format_percent(report.baseline.metrics['top1'])} % "
            f"of the samples, which guessing ({format_percent(chance)} %) could reach too: check that the labels, "
            "their order and the preprocessing fit the model before using any accuracy in this report."
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
    return Verdict(
        variant=name,
        headline=f"{name} {accuracy}" + (f" and {speed}" if speed else ""),
        sentences=tuple(s for s in (accuracy_sentence, speed_sentence, _size_sentence(report, evaluation)) if s),
        tone=tone,
    )


def _judge_accuracy(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    base = one_line(report.baseline.name)
    difference, bounds = report.difference(evaluation, "top1"), interval(evaluation)
    if evaluation.metrics.get("non_finite", 0) > 0:
        return "is broken: it puts out NaN or infinite values", "bad", ""
    if difference is None:
        return _judge_agreement(report, evaluation)
    numbers = (
        f"Top-1 is {format_percent(evaluation.metrics['top1'])} % where {base} has "
        f"{format_percent(report.baseline.metrics['top1'])} %: a difference of {format_difference(difference)} points"
    )
    if bounds is None:
        return f"differs from {base} by {format_difference(difference)} points top-1", "neutral", numbers + "."
    low, high = bounds
    numbers += (
        f" (95 % interval {format_difference(low)} to {format_difference(high)}, {evaluation.num_samples:,} samples)"
    )
    if high < 0:
        return f"is less accurate than {base} ({format_difference(difference)} points)", "bad", numbers + "."
    if low > 0:
        return f"is more accurate than {base} ({format_difference(difference)} points)", "good", numbers + "."
    loss = max(-low, 0.0)
    numbers += f"; a loss of up to {format_percent(loss)} points cannot be ruled out."
    if loss <= _CLOSE * report.baseline.metrics["top1"]:
        return f"is as accurate as {base} to within {format_percent(loss)} points", "neutral", numbers
    words = (
        f"cannot be told from {base}: {evaluation.num_samples:,} samples leave room for -{format_percent(loss)} points"
    )
    return words, "neutral", numbers


def _judge_agreement(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    """Without labels nothing is known about accuracy; say how near the outputs are, and that it is not accuracy."""
    base = one_line(report.baseline.name)
    if (agreement := evaluation.metrics.get("agreement")) is not None:
        words = (
            f"names the same class as {base} for {format_percent(agreement)} % of {evaluation.num_samples:,} samples"
        )
        return words, "neutral", "There are no labels, so whether the changed answers are better or worse is not known."
    if (sqnr := evaluation.metrics.get("sqnr_db")) is not None:
        words = f"follows {base}'s outputs with {format_decibels(sqnr)} dB SQNR"
        return words, "neutral", "Accuracy was not measured: the model has no class scores."
    return "was not compared in accuracy", "neutral", ""


def _judge_speed(report: Report, evaluation: Evaluation) -> tuple[str, Tone, str]:
    speedup, reference = report.speedup(evaluation), report.speed_reference(evaluation)
    if speedup is None or reference is None or evaluation.latency is None or reference.latency is None:
        return "", "neutral", "Its speed was not measured."
    place = _place(evaluation)
    mine, base = (format_significant(latency.compared_ms) for latency in (evaluation.latency, reference.latency))
    if not evaluation.representative:
        words = f"Its {mine} ms {place} ({base} ms in {one_line(reference.name)}) say nothing about the device that it "
        return "", "neutral", words + "is made for."
    if reference is evaluation:
        words = f"It takes {mine} ms {place}; {one_line(report.baseline.name)} was not timed there, so that their "
        return "", "neutral", words + "speeds are not comparable."
    compared = "medians" if evaluation.latency.compute_ms is None else "median computations"
    than = "" if reference is report.baseline else f" as {one_line(reference.name)} takes"
    numbers = (
        f"A batch of {evaluation.latency.batch_size} takes {mine} ms instead of {base} ms{than} ({compared}, {place})"
    )
    against = "" if reference is report.baseline else f" as {one_line(reference.name)}"
    if speedup >= 1.02:
        return f"runs {format_speedup(speedup)}x as fast{against} {place}", "good", numbers + "."
    if speedup <= 1 / 1.02:
        of = "" if reference is report.baseline else f" of {one_line(reference.name)}"
        return f"is slower {place}: {format_speedup(speedup)}x the speed{of}", "bad", numbers + "."
    than = "" if reference is report.baseline else f" than {one_line(reference.name)}"
    return f"is no faster{than} {place}", "neutral", numbers + "."


def _size_sentence(report: Report, evaluation: Evaluation) -> str:
    base = report.baseline.size_bytes
    if not base:
        return ""
    mine = format_significant(evaluation.size_bytes / 1e6)
    return f"The file is {mine} MB instead of {format_significant(base / 1e6)} MB."


def _place(evaluation: Evaluation) -> str:
    words = evaluation.backend.lower()
    if "cpu" in words:
        return "on this CPU"
    return "on this GPU" if any(w in words for w in ("gpu", "cuda", "tensorrt")) else "on this machine"


def _chance(report: Report) -> float | None:
    """Accuracy of guessing, where the baseline's is within three standard errors of it; None otherwise."""
    top1, classes = report.baseline.metrics.get("top1"), report.baseline.metrics.get("num_classes", 0)
    if top1 is None or classes < 2 or not report.baseline.num_samples:
        return None
    chance = 1 / classes
    error = (chance * (1 - chance) / report.baseline.num_samples) ** 0.5
    # A handful of samples cannot tell an untrained model from a good one with bad luck.
    return chance if report.baseline.num_samples >= 30 and top1 < chance + 3 * error else None
