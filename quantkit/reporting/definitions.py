"""What each number of a report means: every number on the page belongs to a term, and every term has its words."""

from __future__ import annotations

from quantkit.significance import FEWEST_DIFFERING, FEWEST_SAMPLES
from quantkit.types import Latency, Report

__all__ = ["DEFINITIONS", "FIELDS", "definitions", "term_of"]

SCORE = "Score"
"""Stands for the report's own score, whose label and definition come with the report."""

DEFINITIONS: dict[str, str] = {
    "Top-5": "Share of samples whose label's class is among the five highest scores.",
    "Difference": "The score minus the baseline's, on the same samples; of a share, in percentage points. Where the "
    "95 % interval holds 0 the two are not distinguishable with this many samples, which does not prove them equal. "
    "Nothing is corrected for comparing several variants.",
    "Interval of the difference": "Of top-1, the adjusted Wald interval for paired proportions (Bonett and Price "
    "2012), as of a custom score that is the mean of zeros and ones. Of any other score, a bootstrap: the same samples "
    "are drawn again with replacement for baseline and variant alike, and the interval is what 95 % of the draws give "
    "(of mAP turned around the difference, the basic interval). There is none of fewer than "
    f"{FEWEST_SAMPLES} samples or where fewer than {FEWEST_DIFFERING} differ: it would be too short.",
    "Within 1 %": "Said where all of the 95 % interval keeps 99 % of the baseline's score. Where it holds both no "
    "loss and a larger one, more samples are needed; the number named gives a decision in 80 of 100 repetitions if "
    "the samples go on as they did.",
    "MLPerf": "MLPerf Inference's accuracy targets, 99 % and 99.9 % of the reference's score. Kept where all of the "
    "95 % interval keeps the target, missed where all of it misses it, open where the interval holds the target. "
    "Without an interval the score alone decides, as MLPerf does on its own validation set.",
    "Fixed / broken": "Samples that only the variant, or only the baseline, gets right. p is McNemar's exact two-sided "
    "p-value: how often chance alone would make them at least this uneven.",
    "Agreement": "Share of samples for which variant and baseline name the same class, right or wrong.",
    "SQNR": "Signal to quantization noise ratio of the outputs in dB: 10 log10(sum x^2 / sum (x - xq)^2), x the "
    "baseline's and xq the variant's values, over all elements of all samples; of several outputs the worst.",
    "Cosine": "Cosine of the angle between the baseline's and the variant's outputs, all elements of all samples; of "
    "several outputs the worst.",
    "Size": "Bytes of the model file with its external data; 1 MB is 10^6 bytes. The ratio is to the baseline.",
    "Latency": "Time from handing one batch over to having its outputs, after warm-up: median, 90th and 99th "
    "percentile (nearest rank, as trtexec). On the host's clock it is the whole call; by the device's events it is "
    "trtexec's latency, the copy to the device (H2D), the computation and the copy back (D2H) of one query. MLPerf's "
    "SingleStream scenario reports the 90th percentile, its MultiStream the 99th.",
    "Rank interval": "95 % interval of a percentile from the sorted times themselves: the two ranks between which the "
    "true percentile lies with a probability of 95 % by the binomial distribution, whatever the times' distribution. "
    "It treats calls as independent.",
    "Compute": "The computation of one query alone, by events on the device (trtexec's GPU compute time); H2D, D2H and "
    "enqueue (the host's time to hand the computation over) are medians too. Only where a device measures itself.",
    "Throughput": "Samples per second: batch size times calls over the total time of the calls, which followed one "
    "another. trtexec's throughput, in queries per second, times the batch size; not MLPerf's Offline or Server "
    "scenario, which may keep more queries in flight.",
    "Speed-up": "Median time of the first variant timed by the same method on the same backend at the same batch size, "
    "over this one's; above 1 is faster. The computation alone is compared where it was measured, else the whole call. "
    "Its 95 % interval is a bootstrap over the rounds in which the variants took turns. Times of different devices or "
    "runs are not comparable.",
    "Batch size": "Samples handed over in one call. Time per sample is the median time of a call over its batch size.",
    "Class score": "The score of one class alone: of top-1 the share of its samples that are right, of mAP its AP, of "
    "mIoU its IoU. The count is what the data holds of the class: samples, objects or pixels. The change is the "
    "variant's minus the baseline's. Of top-1, the 95 % interval is Wilson's, of the variant's share alone. "
    "A change that rounds to 0.00 points counts as none.",
    "Changed samples": "Samples for which the variant's answer is not the baseline's. Broken: the baseline does "
    "better; fixed: the variant does; changed: neither is known to. The most severe of each kind are shown.",
    "Place": "Of an activation among those that were looked into, from the input to the output.",
    "SQNR of a tensor": "10 log10(sum x^2 / sum (x - xq)^2) of one activation, x the baseline's values and xq the "
    "variant's, before this tensor's own quantization: the error that has come up to here. ∞ where there is none.",
    "Own SQNR": "The same where xq is x through this tensor's own quantization alone: the error that it adds itself. "
    "The lower, the more. Tensors are ranked by it.",
    "amax": "Magnitude at which a tensor is clipped; 127 steps of INT8 lie between 0 and it.",
    "Seen range": "Smallest and largest value of the baseline on the samples that were looked into.",
    "Clipped": "Share of the baseline's values whose magnitude is beyond amax.",
    "Histogram": "Counts of the baseline's magnitudes from 0, in bins of equal width, on a logarithmic scale. The line "
    "is amax; what lies right of it is clipped.",
    "Coverage": "Weighted operators (convolutions, matrix products) whose inputs and weights are INT8, of all of them.",
    "Samples": "Samples that were evaluated, of those that were planned where the run was interrupted.",
}
"""Term → words, in the order of the page. The score's own definition comes with the report."""

FIELDS: dict[str, str] = {
    "samples": "Samples",
    "score": SCORE,
    "top5": "Top-5",
    "difference": "Difference",
    "interval": "Interval of the difference",
    "mlperf": "MLPerf",
    "flips": "Fixed / broken",
    "p_value": "Fixed / broken",
    "agreement": "Agreement",
    "sqnr_db": "SQNR",
    "cosine": "Cosine",
    "size_mb": "Size",
    "size_ratio": "Size",
    "batch_size": "Batch size",
    "median_ms": "Latency",
    "median_interval": "Rank interval",
    "p90_ms": "Latency",
    "p90_interval": "Rank interval",
    "p99_ms": "Latency",
    "p99_interval": "Rank interval",
    "compute_ms": "Compute",
    "compute_p99_ms": "Compute",
    "h2d_ms": "Compute",
    "d2h_ms": "Compute",
    "enqueue_ms": "Compute",
    "speedup": "Speed-up",
    "speedup_interval": "Speed-up",
    "throughput": "Throughput",
    "class_count": "Class score",
    "class_before": "Class score",
    "class_after": "Class score",
    "class_change": "Class score",
    "class_interval": "Class score",
    "change_shown": "Changed samples",
    "change_total": "Changed samples",
    "tensor_position": "Place",
    "tensor_sqnr": "SQNR of a tensor",
    "tensor_own_sqnr": "Own SQNR",
    "tensor_amax": "amax",
    "tensor_range": "Seen range",
    "tensor_clipped": "Clipped",
    "tensor_histogram": "Histogram",
    "int8_count": "Coverage",
    "operator_count": "Coverage",
    "reason_count": "Coverage",
}
"""Field of a cell on the page (its ``data-field``) → term."""


def definitions(report: Report) -> dict[str, str]:
    """The terms that this report needs, with their words; the score's first."""
    absent = _absent(report)
    score = {} if report.score is None else {report.score.label: report.score.definition or "Defined by its task."}
    return score | {term: words for term, words in DEFINITIONS.items() if term not in absent}


def term_of(field: str, report: Report) -> str:
    """The term under which `definitions` explains a field of the page."""
    term = FIELDS[field]
    return report.score.label if term == SCORE and report.score else term


def _absent(report: Report) -> set[str]:
    """Terms of what this report does not hold."""
    latencies = [latency for e in report.evaluations for latency in e.latencies]
    metrics = {name for e in report.evaluations for name in e.metrics}
    layers = {"Place", "SQNR of a tensor", "Own SQNR", "amax", "Seen range", "Clipped", "Histogram"}
    absent_if: list[tuple[bool, set[str]]] = [
        ("top5" not in metrics, {"Top-5"}),
        ("fixed" not in metrics, {"Fixed / broken"}),
        (report.score is None, {"Difference", "Interval of the difference", "Within 1 %", "MLPerf"}),
        ("agreement" not in metrics, {"Agreement"}),
        ("sqnr_db" not in metrics, {"SQNR"}),
        ("cosine" not in metrics, {"Cosine"}),
        (not latencies, {"Latency", "Rank interval", "Throughput", "Speed-up", "Batch size"}),
        (all(latency.compute_ms is None for latency in latencies), {"Compute"}),
        (not any(_has_rank_interval(latency) for latency in latencies), {"Rank interval"}),
        (not report.classes, {"Class score"}),
        (not (report.changes or report.num_changes), {"Changed samples"}),
        (not report.tensors, layers),
        (not (report.layers or report.skipped), {"Coverage"}),
        (not report.is_partial, {"Samples"}),
    ]
    return {term for is_absent, terms in absent_if if is_absent for term in terms}


def _has_rank_interval(latency: Latency) -> bool:
    found = (latency.median_interval_ms, latency.p90_interval_ms, latency.p99_interval_ms)
    return any(interval is not None for interval in found)
