"""Numbers of a report as text, the same in every form of it: which digits are shown is decided here alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantkit.types import Evaluation, Latency, Preprocessing, Report

__all__ = [
    "DEFINITIONS",
    "MISSING",
    "Row",
    "facts_from_mapping",
    "facts_from_preprocessing",
    "format_decibels",
    "format_difference",
    "format_percent",
    "format_significant",
    "format_speedup",
    "how_measured",
    "interval",
    "one_line",
    "rows",
]

MISSING = "–"

DEFINITIONS: dict[str, str] = {
    "Size": "Bytes of the model file with its external data; 1 MB is 10^6 bytes. The ratio is to the baseline.",
    "Top-1": "Share of samples whose highest score is at their label's class. Equal scores count for the lower index.",
    "Top-5": "Share of samples whose label's class is among the five highest scores.",
    "Difference": "Top-1 minus the baseline's, in percentage points, on the same samples. The interval is the 95 % "
    "adjusted Wald interval for paired proportions (Bonett and Price 2012). Where it holds 0 the two are not "
    "distinguishable with this many samples, which does not prove them equal. Nothing is corrected for comparing "
    "several variants.",
    "Fixed / broken": "Samples that only the variant, or only the baseline, gets right. p is McNemar's exact two-sided "
    "p-value: how often chance alone would make them at least this uneven.",
    "Agreement": "Share of samples for which variant and baseline name the same class, right or wrong.",
    "SQNR": "Signal to quantization noise ratio of the outputs in dB: 10 log10(sum x^2 / sum (x - xq)^2), x the "
    "baseline's and xq the variant's values, over all elements of all samples; of several outputs the worst.",
    "Cosine": "Cosine of the angle between the baseline's and the variant's outputs, all elements of all samples; of "
    "several outputs the worst.",
    "Latency": "Time of one call on one batch, after warm-up: median, 90th and 99th percentile (nearest rank, as "
    "trtexec). On the host's clock it is the whole call; by the device's events it is the copy to the device (H2D), "
    "the computation and the copy back (D2H) of one query.",
    "Compute": "The computation of one query alone, by events on the device; H2D, D2H and enqueue (the host's time to "
    "hand the computation over) are medians too. Only where a device measures itself.",
    "Speed-up": "Median time of the first variant timed by the same method on the same backend, over this one's; above "
    "1 is faster. The computation alone is compared where it was measured, else the whole call. Times of different "
    "devices are not comparable.",
    "Throughput": "Samples per second: batch size times calls over the total time of the calls.",
}
"""What each number means, in the order of the tables."""


@dataclass(frozen=True)
class Row:
    """One variant as text; `MISSING` where something was not measured."""

    name: str
    precision: str
    backend: str
    size_mb: str
    size_ratio: str
    top1: str
    top5: str
    difference: str
    interval: str
    plus_minus: str
    flips: str
    p_value: str
    agreement: str
    sqnr_db: str
    cosine: str
    median_ms: str
    p90_ms: str
    p99_ms: str
    speedup: str
    throughput: str
    compute_ms: str
    compute_p99_ms: str
    h2d_ms: str
    d2h_ms: str
    enqueue_ms: str
    is_baseline: bool
    representative: bool


def rows(report: Report) -> tuple[Row, ...]:
    """Every variant of the report as text, the baseline first."""
    return tuple(_row(report, evaluation) for evaluation in report.evaluations)


def interval(evaluation: Evaluation) -> tuple[float, float] | None:
    """95 % interval of the top-1 difference from the baseline, fractions of 1; None where it was not computed."""
    low, high = (evaluation.metrics.get(f"top1_difference_{end}") for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def format_percent(fraction: float | None) -> str:
    """0.81034 → "81.03"."""
    return MISSING if fraction is None else f"{100 * fraction:.2f}"


def format_difference(fraction: float | None) -> str:
    """-0.00103 → "-0.10", 0.002 → "+0.20"; what rounds to nothing has no sign."""
    if fraction is None:
        return MISSING
    text = f"{100 * fraction:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def format_significant(value: float | None, digits: int = 3) -> str:
    """Rounds to significant digits, plainly from 1e-6 to 1e10: 0.24549 → "0.245", 4081.6 → "4082"; inf → "∞"."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    # The exponent of the rounded number, because 9.996 has one digit before the point and "10.0" two.
    scientific = f"{value:.{digits - 1}e}"
    exponent = int(scientific.rpartition("e")[2])
    return f"{value:.{max(digits - 1 - exponent, 0)}f}" if -7 < exponent < 10 else scientific


def format_decibels(value: float | None) -> str:
    """24.87 → "24.9"; inf, of equal outputs, → "∞"."""
    return format_significant(value) if value is None or not math.isfinite(value) else f"{value:.1f}"


def format_speedup(ratio: float) -> str:
    """2.0408 → "2.04", 0.8913 → "0.89", 12.34 → "12.3"."""
    return f"{ratio:.2f}" if ratio < 9.995 else format_significant(ratio)


def one_line(text: str) -> str:
    """Text from outside (a file's or tensor's name) without line breaks, escape sequences and other control codes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def facts_from_mapping(facts: Mapping[str, str | int | float | bool | None]) -> dict[str, str]:
    """Keys and values for people: ``{"num_samples": 10000, "x": None}`` → ``{"num samples": "10000", "x": "–"}``."""
    return {one_line(name.replace("_", " ")): _fact(value) for name, value in facts.items()}


def facts_from_preprocessing(preprocessing: Preprocessing | None) -> dict[str, str]:
    """Preprocessing for people; empty for arrays, which are fed as they are."""
    if preprocessing is None:
        return {}
    p = preprocessing
    resize = {
        "stretch": "stretched",
        "crop": f"shorter side to {p.shorter_side} px, centre cropped",
        "letterbox": f"letterboxed, padded with {p.pad_value}",
    }[p.resize]
    return {
        "size": f"{p.size[0]} × {p.size[1]} px (height × width)",
        "resize": f"{resize}, {p.interpolation}",
        "color": {"L": "grey"}.get(p.color, p.color),
        "values": f"(pixel × {p.scale:.6g} - mean) / std",
        "mean": ", ".join(f"{v:.6g}" for v in p.mean),
        "std": ", ".join(f"{v:.6g}" for v in p.std),
        "input": f"{p.layout}, {p.dtype}",
    }


def how_measured(report: Report) -> tuple[str, ...]:
    """How the latencies of the report came about, one paragraph for each method that was used."""
    latencies = [e.latency for e in report.evaluations if e.latency is not None]
    host = [latency for latency in latencies if latency.method == "host"]
    device = [latency for latency in latencies if latency.method == "device"]
    paragraphs = []
    if host:
        threads = sorted({latency.threads for latency in host})
        words = " or ".join("chosen by the runtime" if count == 0 else str(count) for count in threads)
        paragraphs.append(
            f"One call on a batch of {_range(latency.batch_size for latency in host)}, by the host's clock, copies to "
            f"and from a device included; threads within a call: {words}. {_turns(host)}"
        )
    if device:
        graph = "; queries were replayed from a CUDA graph" if all(latency.cuda_graph for latency in device) else ""
        paragraphs.append(
            f"One query on a batch of {_range(latency.batch_size for latency in device)}, by events on the GPU, as "
            f"trtexec measures it: from page-locked memory to the GPU, the computation, and back, on one stream, two "
            f"queries in flight, copies not overlapping with computation{graph}. {_turns(device)}"
        )
    return tuple(paragraphs)


def _turns(latencies: Sequence[Latency]) -> str:
    return (
        "After a warm-up of each, the variants took turns in short blocks in one process, so that a slow moment of the "
        f"machine hits all of them; {_range(latency.iterations for latency in latencies)} calls of each were timed."
    )


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _row(report: Report, evaluation: Evaluation) -> Row:
    metrics, latency = evaluation.metrics, evaluation.latency
    is_baseline = evaluation is report.baseline
    bounds = interval(evaluation)
    return Row(
        name=one_line(evaluation.name),
        precision=evaluation.precision,
        backend=one_line(evaluation.backend),
        size_mb=format_significant(evaluation.size_bytes / 1e6),
        size_ratio=_ratio(evaluation.size_bytes, report.baseline.size_bytes),
        top1=format_percent(metrics.get("top1")),
        top5=format_percent(metrics.get("top5")),
        difference=MISSING if is_baseline else format_difference(report.difference(evaluation, "top1")),
        interval=MISSING if bounds is None else " to ".join(format_difference(end) for end in bounds),
        plus_minus=MISSING if bounds is None else f"{50 * (bounds[1] - bounds[0]):.2f}",
        flips=_flips(metrics),
        p_value=_p_value(metrics.get("p_value")),
        agreement=format_percent(metrics.get("agreement")),
        sqnr_db=format_decibels(metrics.get("sqnr_db")),
        cosine=MISSING if "cosine" not in metrics else f"{metrics['cosine']:.5f}",
        median_ms=format_significant(latency.median_ms if latency else None),
        p90_ms=format_significant(latency.p90_ms if latency else None),
        p99_ms=format_significant(latency.p99_ms if latency else None),
        speedup=MISSING if report.speed_reference(evaluation) is evaluation else _times(report.speedup(evaluation)),
        throughput=format_significant(latency.throughput if latency else None),
        compute_ms=format_significant(latency.compute_ms if latency else None),
        compute_p99_ms=format_significant(latency.compute_p99_ms if latency else None),
        h2d_ms=format_significant(latency.h2d_ms if latency else None),
        d2h_ms=format_significant(latency.d2h_ms if latency else None),
        enqueue_ms=format_significant(latency.enqueue_ms if latency else None),
        is_baseline=is_baseline,
        representative=evaluation.representative,
    )


def _ratio(value: float, whole: float) -> str:
    return f"{value / whole:.2f}x" if whole else MISSING


def _times(speedup: float | None) -> str:
    return MISSING if speedup is None else f"{format_speedup(speedup)}x"


def _flips(metrics: Mapping[str, float]) -> str:
    if "fixed" not in metrics or "broken" not in metrics:
        return MISSING
    return f"{metrics['fixed']:.0f} / {metrics['broken']:.0f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _fact(value: str | int | float | bool | None) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(f"{value:.6g}" if isinstance(value, float) else str(value))
