"""Every variant as rows of text: accuracy, fidelity and size in one, speed at a batch size in the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quantkit.reporting.formatting import (
    MISSING,
    format_beside,
    format_bounds,
    format_count,
    format_decibels,
    format_interval,
    format_p_value,
    format_percent,
    format_plus_minus,
    format_score,
    format_score_difference,
    format_significant,
    format_speedup,
    one_line,
)
from quantkit.significance import mlperf
from quantkit.types import Evaluation, Report

__all__ = ["AccuracyRow", "SpeedRow", "accuracy_rows", "batch_sizes", "is_class_score", "speed_rows", "sweep_rows"]


@dataclass(frozen=True)
class AccuracyRow:
    """One variant as text; `MISSING` where something was not measured. `with_interval` is the difference with its
    interval, short: "-0.10 ± 0.25".
    """

    name: str
    score: str
    top5: str
    difference: str
    interval: str
    with_interval: str
    mlperf: str
    flips: str
    p_value: str
    agreement: str
    sqnr_db: str
    cosine: str
    size_mb: str
    size_ratio: str


@dataclass(frozen=True)
class SpeedRow:
    """One variant at one batch size as text; `MISSING` where something was not measured."""

    name: str
    backend: str
    batch_size: str
    median_ms: str
    median_interval: str
    p90_ms: str
    p90_interval: str
    p99_ms: str
    p99_interval: str
    compute_ms: str
    compute_p99_ms: str
    h2d_ms: str
    d2h_ms: str
    enqueue_ms: str
    speedup: str
    speedup_interval: str
    throughput: str
    representative: bool


def accuracy_rows(report: Report) -> tuple[AccuracyRow, ...]:
    """Every variant of the report, the baseline first."""
    return tuple(_accuracy_row(report, evaluation) for evaluation in report.evaluations)


def speed_rows(report: Report) -> tuple[SpeedRow, ...]:
    """Every variant at its first batch size, the baseline first; empty where nothing was timed."""
    if not any(e.latency for e in report.evaluations):
        return ()
    return tuple(_speed_row(report, evaluation, None) for evaluation in report.evaluations)


def sweep_rows(report: Report) -> dict[int, tuple[SpeedRow, ...]]:
    """Batch size → the variants that were timed at it; empty where no variant was timed at two."""
    if not any(e.sweep for e in report.evaluations):
        return {}
    return {
        size: tuple(_speed_row(report, e, size) for e in report.evaluations if report.latency_at(e, size))
        for size in batch_sizes(report)
    }


def batch_sizes(report: Report) -> tuple[int, ...]:
    """At which any variant was timed, ascending."""
    return tuple(sorted({latency.batch_size for e in report.evaluations for latency in e.latencies}))


def is_class_score(report: Report) -> bool:
    """Whether the score is top-1: a share of samples, each right or wrong."""
    return report.score is not None and report.score.name == "top1"


def _accuracy_row(report: Report, evaluation: Evaluation) -> AccuracyRow:
    metrics, score = evaluation.metrics, report.score
    is_baseline = evaluation is report.baseline
    value, difference, bounds, both = MISSING, MISSING, MISSING, MISSING
    if score is not None:
        value = format_score(metrics.get(score.name), score)
        if not is_baseline:
            found = report.difference(evaluation, score.name)
            difference = both = format_score_difference(found, score)
            if (pair := report.difference_interval(evaluation)) is not None:
                bounds = format_bounds(*pair, score)
                if found is not None:
                    difference, both = format_beside(found, *pair, score), format_plus_minus(found, *pair, score)
    return AccuracyRow(
        name=one_line(evaluation.name),
        score=value,
        top5=format_percent(metrics.get("top5")),
        difference=difference,
        interval=bounds,
        with_interval=both,
        mlperf=MISSING if is_baseline else _gates(report, evaluation),
        flips=_flips(metrics),
        p_value=format_p_value(metrics.get("p_value")),
        agreement=format_percent(metrics.get("agreement")),
        sqnr_db=format_decibels(metrics.get("sqnr_db")),
        cosine=_cosine(metrics.get("cosine")),
        size_mb=format_significant(evaluation.size_bytes / 1e6),
        size_ratio=_ratio(evaluation.size_bytes, report.baseline.size_bytes),
    )


def _speed_row(report: Report, evaluation: Evaluation, batch_size: int | None) -> SpeedRow:
    latency = report.latency_at(evaluation, batch_size)
    speedup = report.speedup(evaluation, batch_size)
    if report.speed_reference(evaluation, batch_size) is evaluation:
        speedup = None
    return SpeedRow(
        name=one_line(evaluation.name),
        backend=one_line(evaluation.backend),
        batch_size=format_count(latency.batch_size) if latency else MISSING,
        median_ms=format_significant(latency.median_ms if latency else None),
        median_interval=_bounds(latency.median_interval_ms if latency else None),
        p90_ms=format_significant(latency.p90_ms if latency else None),
        p90_interval=_bounds(latency.p90_interval_ms if latency else None),
        p99_ms=format_significant(latency.p99_ms if latency else None),
        p99_interval=_bounds(latency.p99_interval_ms if latency else None),
        compute_ms=format_significant(latency.compute_ms if latency else None),
        compute_p99_ms=format_significant(latency.compute_p99_ms if latency else None),
        h2d_ms=format_significant(latency.h2d_ms if latency else None),
        d2h_ms=format_significant(latency.d2h_ms if latency else None),
        enqueue_ms=format_significant(latency.enqueue_ms if latency else None),
        speedup=MISSING if speedup is None else f"{format_speedup(speedup)}x",
        speedup_interval=_speedup_bounds(latency.speedup_interval if latency and speedup is not None else None),
        throughput=MISSING if latency is None else _throughput(latency.throughput),
        representative=evaluation.representative,
    )


def _gates(report: Report, evaluation: Evaluation) -> str:
    """One word for each gate: "99 % kept, 99.9 % open"."""
    words = {"passed": "kept", "failed": "missed", "undecided": "open"}
    found = mlperf(report, evaluation)
    return ", ".join(f"{name} {words[word]}" for name, word in found.items()) or MISSING


def _bounds(pair: tuple[float, float] | None) -> str:
    return MISSING if pair is None else format_interval(*(format_significant(end) for end in pair))


def _speedup_bounds(pair: tuple[float, float] | None) -> str:
    return MISSING if pair is None else format_interval(*(format_speedup(end) for end in pair))


def _throughput(value: float) -> str:
    return format_count(value) if 1000 <= value < 1e10 else format_significant(value)


def _ratio(value: float, whole: float) -> str:
    return f"{value / whole:.2f}x" if whole else MISSING


def _cosine(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.5f}" if math.isfinite(value) else format_significant(value)


def _flips(metrics: Mapping[str, float]) -> str:
    if "fixed" not in metrics or "broken" not in metrics:
        return MISSING
    return f"{format_count(metrics['fixed'])} / {format_count(metrics['broken'])}"
