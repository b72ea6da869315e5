"""The glossary's terms: what each number of a report means. Columns and other numbers refer to them."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.significance import FEWEST_DIFFERING, FEWEST_SAMPLES


@dataclass(frozen=True)
class Term:
    """An entry of the glossary."""

    name: str
    definition: str


SCORE = Term("Score", "Defined by the task.")
"""Stands for the report's own score, whose label and definition come with the report."""

TOP5 = Term("Top-5", "Share of samples whose true class is among the five highest scores.")

DIFFERENCE = Term(
    "Difference",
    "The score minus the baseline's on the same samples; in percentage points if the score is a fraction. If the 95% "
    "interval contains 0, this many samples do not distinguish the two, which does not prove them equal. There is no "
    "correction for comparing several variants.",
)

INTERVAL = Term(
    "Interval of the difference",
    "95% confidence interval, paired by sample. Top-1, and custom scores that average zeros and ones: adjusted Wald "
    "interval for paired proportions (Bonett and Price 2012). Any other score: paired bootstrap over the samples "
    "(percentile interval; for mAP the basic interval). Not computed for fewer than "
    f"{FEWEST_SAMPLES} samples or fewer than {FEWEST_DIFFERING} differing ones, where it would be too short.",
)

WITHIN = Term(
    "Within 1%",
    "The whole 95% interval lies above 99% of the baseline's score. If the interval contains both no loss and a larger "
    "one, more samples are needed; the number given decides in 80 of 100 repetitions if the observed rates persist.",
)

MLPERF = Term(
    "MLPerf",
    "MLPerf Inference accuracy targets: 99% and 99.9% of the reference score. Pass: the whole 95% interval meets the "
    "target. Fail: the whole interval misses it. Inconclusive: the interval contains the target. Without an interval "
    "the score alone decides, as in MLPerf's own rules.",
)

FLIPS = Term(
    "Fixed / broken",
    "Samples that only the variant, or only the baseline, classifies correctly. p is the two-sided exact p-value of "
    "McNemar's test: the probability of a split at least this uneven if both models are equally accurate.",
)

AGREEMENT = Term("Agreement", "Share of samples for which variant and baseline predict the same class, right or wrong.")

SQNR = Term(
    "SQNR",
    "Signal-to-quantization-noise ratio of the outputs in dB: 10 log10(sum x^2 / sum (x - xq)^2), where x are the "
    "baseline's and xq the variant's values, over all elements of all samples; the worst of several outputs.",
)

COSINE = Term(
    "Cosine",
    "Cosine similarity of the baseline's and the variant's outputs over all elements of all samples; the worst of "
    "several outputs.",
)

VECTOR_ANGLE = Term(
    "Mean and lowest cosine",
    "Cosine similarity of each sample's vector with the baseline's: mean, and lowest.",
)

IMAGE_QUALITY = Term(
    "PSNR and SSIM",
    "Of output images against their targets, or without targets against the baseline's outputs; means over images.",
)

SIZE = Term(
    "Size", "Model file including external data; 1 MB is 10^6 bytes. The ratio is relative to the baseline's size."
)

BATCH_SIZE = Term(
    "Batch size", "Samples per call. Time per sample is the median latency of a call divided by its batch size."
)

LATENCY = Term(
    "Latency",
    "Time from submitting a batch to receiving its outputs, after warm-up: median, 90th and 99th percentile (nearest "
    "rank, as in trtexec). On the host clock: the whole call. By device events: trtexec's latency, that is host-to-"
    "device copy (H2D), computation and device-to-host copy (D2H) of one query. MLPerf's SingleStream scenario reports "
    "the 90th percentile, MultiStream the 99th.",
)

RANK_INTERVAL = Term(
    "Interval of a percentile",
    "95% confidence interval from order statistics: the two ranks between which the true percentile lies with 95% "
    "probability by the binomial distribution, for any distribution of latencies. It assumes independent calls.",
)

COMPUTE = Term(
    "Compute",
    "Computation time of one query by device events (trtexec's GPU compute time). H2D, D2H and enqueue time (the host "
    "time to launch the computation) are medians as well. Only where a device measures itself.",
)

SPEEDUP = Term(
    "Speed-up",
    "Median time of the reference divided by this variant's; above 1 is faster. The reference is the first variant "
    "timed by the same method on the same backend at the same batch size. Compute times are compared where available, "
    "otherwise whole calls. The 95% interval is a bootstrap over the interleaved rounds. Times of different devices or "
    "runs are not comparable.",
)

THROUGHPUT = Term(
    "Throughput",
    "Samples per second: batch size times calls divided by the total time of back-to-back calls. Corresponds to "
    "trtexec's throughput (queries per second) times the batch size; not to MLPerf's Offline or Server scenario, which "
    "may keep more queries in flight.",
)

CLASS_SCORE = Term(
    "Class score",
    "The score of one class alone: for top-1 the share of its samples that are correct, for mAP its AP, for mIoU its "
    "IoU. The count is the number of samples, objects or pixels of the class in the data. The change is variant minus "
    "baseline; less than 0.005 points counts as unchanged. For top-1, the 95% interval is Wilson's, of the variant's "
    "share alone.",
)

CHANGED = Term(
    "Changed samples",
    "Samples for which the variant's prediction differs from the baseline's. Broken: the baseline is better. Fixed: "
    "the variant is better. Changed: unknown which is better. The most severe of each kind are shown.",
)

POSITION = Term("Position", "Index of the activation among those analyzed, from input to output.")

ACCUMULATED_SQNR = Term(
    "Accumulated SQNR",
    "SQNR of one activation in the quantized model before its own quantization: the error accumulated up to this "
    "point. ∞ where there is none.",
)

LOCAL_SQNR = Term(
    "Local SQNR",
    "SQNR of the baseline's activation after its own quantization alone: the error that this tensor adds. Lower is "
    "worse; tensors are ranked by it.",
)

AMAX = Term("amax", "Calibrated dynamic range: magnitudes above it are clipped; it spans 127 steps of INT8.")

OBSERVED_RANGE = Term(
    "Observed range",
    "Minimum and maximum of the baseline's activation on the analyzed samples. Of an activation that the variant "
    "shifts or scales before it quantizes it, this, clipping and histogram are of the shifted and scaled values; SQNR "
    "is of the activation itself.",
)

CLIPPED = Term("Clipped", "Share of the baseline's values whose magnitude exceeds amax.")

HISTOGRAM = Term(
    "Histogram",
    "Counts of the baseline's magnitudes in bins of equal width from 0, on a logarithmic scale. The line marks amax; "
    "values to its right are clipped.",
)

COVERAGE = Term(
    "Coverage",
    "Share of weighted operators (convolutions, matrix products) that are quantized: their inputs and weights in INT8 "
    "or FP8, or their weights alone in INT4.",
)

RANGE_METHOD = Term(
    "Method of a range",
    "Calibration method that proposed the range which was chosen for an activation; `tensorrt` is TensorRT's own "
    "calibrator. Activations that were left in float are not counted.",
)

FLOAT_TENSOR = Term(
    "Left in float for accuracy",
    "Activations that have a range, but whose readers stay in float in the INT8 model for TensorRT: calibration found "
    "on its samples, or a plan says, that INT8 would cost too much there. The model for a CPU quantizes them.",
)

CHOICES = Term(
    "Choices of tune",
    "Every number of tensors in float that `quantkit tune` evaluated on its own validation data, those that "
    "calibration left there among them: what is quantized then, the score and its drop below FP32's.",
)

UNIT_DAMAGE = Term(
    "Sensitivity",
    "Damage to the output where one tensor or operator alone is quantized, and what leaving it in float saves where "
    "everything else is quantized (negative: it adds). Measured on calibration samples by `quantkit sensitivity`.",
)

SAMPLES = Term("Samples", "Samples evaluated, out of those planned, where the run was interrupted.")
