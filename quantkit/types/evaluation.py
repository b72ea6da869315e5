"""What was measured: variants side by side, and all that a report says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from quantkit.errors import EvaluationError
from quantkit.types.data import Preprocessing
from quantkit.types.notebook import ShownInNotebook, ShownRow
from quantkit.types.plan import QuantizationPlan
from quantkit.types.quantization import SCHEMES, Precision
from quantkit.types.sensitivity import SensitivityRanking

Interval = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True)
class Score:
    """The metric by which the variants of a report are judged.

    Attributes:
        name: its key in `Evaluation.metrics`. The 95% interval of its difference from the baseline on the same samples
            is under ``{name}_difference_low`` and ``{name}_difference_high``, where it was computed.
        label: what a person reads, "Top-1".
        is_fraction: from 0 to 1: shown in percent, differences in points.
        higher_is_better: whether more of it is a better model.
        definition: one sentence.
    """

    name: str
    label: str
    is_fraction: bool = True
    higher_is_better: bool = True
    definition: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.label:
            raise EvaluationError("a score needs a name and a label")


TOP1 = Score("top1", "Top-1", definition="Share of samples whose highest score is at their label's class.")


@dataclass(frozen=True)
class Latency:
    """Time of one inference call on one batch, after warm-up. Throughput is samples per second.

    By method "host", a call is `Runner.run` on the host's clock. By method "device", it is the copy to the device, the
    computation and the copy back of one query, by the device's own events, as trtexec measures it.

    Attributes:
        batch_size: samples a call.
        iterations: timed calls.
        threads: threads of the runtime within one call, 0 if it chose.
        median_ms, mean_ms, minimum_ms, p90_ms, p99_ms: over the timed calls.
        throughput: batch_size * iterations / total time of the timed calls, samples / s.
        method: whose clock, "host" or "device".
        compute_ms, compute_p99_ms: "device" only: median and 99th percentile of the computation alone.
        compute_variation: "device" only: standard deviation of the computation's time over its mean.
        h2d_ms, d2h_ms: "device" only: medians of the copies to the device and back.
        enqueue_ms: "device" only: median time that the host needs to hand one computation over.
        cuda_graph: whether the calls replayed a CUDA graph.
        median_interval_ms, p90_interval_ms, p99_interval_ms: 95% intervals of the percentiles by order statistics
            (ranks of a binomial distribution); None where there are too few calls for one, or in old reports.
        speedup_interval: 95% interval of `Report.speedup` by a bootstrap over the rounds of the run, in which the
            variants took turns; None for the variant that the others are compared with, or where it was not computed.
    """

    batch_size: int
    iterations: int
    threads: int
    median_ms: float
    mean_ms: float
    minimum_ms: float
    p90_ms: float
    p99_ms: float
    throughput: float
    method: Literal["host", "device"] = "host"
    compute_ms: float | None = None
    compute_p99_ms: float | None = None
    compute_variation: float | None = None
    h2d_ms: float | None = None
    d2h_ms: float | None = None
    enqueue_ms: float | None = None
    cuda_graph: bool = False
    median_interval_ms: Interval | None = None
    p90_interval_ms: Interval | None = None
    p99_interval_ms: Interval | None = None
    speedup_interval: Interval | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.iterations < 1:
            raise EvaluationError("latency needs at least one sample and one iteration")
        if (self.method == "device") != (self.compute_ms is not None):
            raise EvaluationError(f"latency: compute_ms {self.compute_ms} does not go with method {self.method!r}")
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, tuple):
                if not (0 <= value[0] <= value[1] < math.inf):
                    raise EvaluationError(f"latency: {f.name} {value} must be finite, not negative and ordered")
            elif value is not None and not isinstance(value, str) and (not math.isfinite(value) or value < 0):
                raise EvaluationError(f"latency: {f.name} {value} must be finite and not negative")

    @property
    def compared_ms(self) -> float:
        """What a speed-up compares: the median computation where it was measured apart from the copies, which are the
        same for every variant and overlap with it in a pipeline; else the median call.
        """
        return self.median_ms if self.compute_ms is None else self.compute_ms


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one variant of the model.

    Attributes:
        name: unique in a report: "fp32", "fp16", "int8", "int8-cpu", or the user's.
        precision: "fp32", "fp16", or the format that it is quantized to: a name in `SCHEMES`.
        backend: runtime and device, for example "onnxruntime 1.31.1 CPU".
        size_bytes: of the model file, external data included.
        num_samples: samples that the metrics were computed over.
        metrics: name → value; accuracies are fractions of 1, SQNR is dB.
        latency: at the first batch size; None where it was not measured.
        sweep: latencies at the other batch sizes.
        notes: what a reader must know before using a number (FP16 on a CPU is computed by casting).
        representative: False where `latency` says nothing about the device that the variant is made for.
        device: kind of the device that it ran on; None where that is not known.
        target: deployment target that its Q/DQ or FP16 is made for; None where its form does not tell.
    """

    name: str
    precision: Precision
    backend: str
    size_bytes: int
    num_samples: int
    metrics: Mapping[str, float]
    latency: Latency | None = None
    notes: tuple[str, ...] = ()
    representative: bool = True
    sweep: tuple[Latency, ...] = ()
    device: Literal["cpu", "gpu"] | None = None
    target: Literal["tensorrt", "cpu"] | None = None

    @property
    def is_quantized(self) -> bool:
        """Whether it is in a low-precision format."""
        return self.precision in SCHEMES

    def __post_init__(self) -> None:
        sizes = [latency.batch_size for latency in self.latencies]
        if len(set(sizes)) < len(sizes) or (self.sweep and self.latency is None):
            raise EvaluationError(f"variant {self.name!r}: latencies at batch sizes {sizes}, one each is needed")

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """At all batch sizes, in the order in which they were asked for."""
        return self.sweep if self.latency is None else (self.latency, *self.sweep)


@dataclass(frozen=True)
class ClassScore:
    """One class in all variants.

    Attributes:
        label: name of the class, or its index.
        count: how much of it the data holds: samples, objects to be detected, or pixels.
        scores: by variant: the report's score of this class alone (of top-1: the share of its samples that are right;
            of mAP: its AP; of mIoU: its IoU); a variant without one is left out.
    """

    label: str
    count: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class ChangedSample:
    """A sample on which a variant answers differently from the baseline.

    Attributes:
        variant: its name.
        sample: id of the sample.
        kind: "broken" where the baseline does better, "fixed" where the variant does, "changed" where neither is known.
        truth: what is right, for a person; empty where it is not known.
        before: the baseline's answer, for a person.
        after: the variant's.
        severity: for sorting: how far the answers are apart, larger is worse.
        thumbnail: a small picture as data URI; empty where there is none.
    """

    variant: str
    sample: str
    kind: Literal["broken", "fixed", "changed"]
    truth: str
    before: str
    after: str
    severity: float
    thumbnail: str = ""


@dataclass(frozen=True)
class TensorQuality:
    """What quantization does to one activation of one variant, on a few samples.

    Attributes:
        variant: its name.
        tensor: name of the activation.
        producer: operator type and name of the node that makes it, "Conv conv1"; "input" for a model input.
        sqnr_db: 10 log10(sum x^2 / sum (x - xq)^2), x the baseline's and xq the variant's values before this tensor's
            own Q/DQ: the error that has come up to here. None where there is no error at all.
        own_sqnr_db: the same where xq is x through this tensor's own Q/DQ alone: the error that it adds itself.
        amax: magnitude at which it is clipped; of an asymmetric range the farther end.
        minimum, maximum: extremes of the baseline's values.
        clipped: share of the baseline's values more than half a step beyond the range of the codes, 0 to 1.
        histogram: counts of the baseline's magnitudes in bins of equal width from 0 to `histogram_top`.
        histogram_top: upper edge of the last bin.
        transform: "shifted", "scaled" or "shifted, scaled" where the variant does that before it quantizes: the range,
            the clipping and the histogram are then of the baseline's values after the same; the errors are not.
    """

    variant: str
    tensor: str
    producer: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    amax: float
    minimum: float
    maximum: float
    clipped: float
    histogram: tuple[int, ...]
    histogram_top: float
    transform: str = ""


@dataclass(frozen=True)
class LayerPlacement:
    """Whether one operator of a variant computes on INT8, or on the format that the variant is quantized to.

    Attributes:
        variant: its name.
        node: the operator's.
        op_type: "Conv".
        is_int8: whether it does.
        reason: why not; empty where it does.
    """

    variant: str
    node: str
    op_type: str
    is_int8: bool
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Report(ShownInNotebook):
    """Variants of one model, measured on the same samples in one run. Differences are computed, never stored.

    Attributes:
        model_name: file name of the model.
        model_hash: hash of graph and weights of the FP32 model.
        evaluations: the first is the baseline.
        dataset: what the samples were: name, num_samples, fingerprint, number of classes, skipped files.
        preprocessing: None for arrays.
        calibration: method, num_samples, histogram, ... of the table behind the INT8 variants; empty without one.
        environment: machine and versions.
        skipped: what stayed in float in the INT8 model, with the reason.
        range_methods: by calibration method, how many quantized activations have its range, where that was decided
            for each tensor alone.
        float_tensors: tensors that calibration, or a plan, left in float for accuracy, with the reason.
        plan: of `quantkit tune`, with every choice that it evaluated, where one was given.
        sensitivity: what quantizing each part costs, where that was analyzed for the same table.
        warnings: one sentence each.
        timing_warnings: those of `warnings` that concern latencies.
        created: ISO 8601, UTC.
        task: what the outputs were taken for.
        score: the metric by which the variants are judged; None where there is nothing to judge by (task "none").
        planned_samples: how many samples were to be evaluated where the run was interrupted before it had seen all of
            them: the report is partial. None otherwise.
        classes: per class, in the order of the indices; empty where there are none.
        changes: samples on which a variant answers otherwise, the most telling of each variant, worst first.
        num_changes: by variant: how many there are of each kind in all, "broken", "fixed" and "changed".
        tensors: activations, in network order, for each variant that was looked into.
        layers: weighted operators, in network order, likewise.
        commands: what to type to make this again, one command each.
        deploy: what the user deploys on; None asks it from what was built or timed.
    """

    model_name: str
    model_hash: str
    evaluations: tuple[Evaluation, ...]
    dataset: Mapping[str, str | int | float | None]
    environment: Mapping[str, str]
    preprocessing: Preprocessing | None = None
    calibration: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    range_methods: Mapping[str, int] = field(default_factory=dict)
    float_tensors: Mapping[str, str] = field(default_factory=dict)
    plan: QuantizationPlan | None = None
    sensitivity: SensitivityRanking | None = None
    warnings: tuple[str, ...] = ()
    timing_warnings: tuple[str, ...] = ()
    created: str = ""
    task: str = "classify"
    score: Score | None = TOP1
    planned_samples: int | None = None
    classes: tuple[ClassScore, ...] = ()
    changes: tuple[ChangedSample, ...] = ()
    num_changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tensors: tuple[TensorQuality, ...] = ()
    layers: tuple[LayerPlacement, ...] = ()
    commands: tuple[str, ...] = ()
    deploy: Literal["tensorrt", "cpu"] | None = None
    format_version: int = 2

    def __post_init__(self) -> None:
        names = [e.name for e in self.evaluations]
        if not names:
            raise EvaluationError("a report needs at least one evaluation")
        if twice := [n for n in names if names.count(n) > 1]:
            raise EvaluationError(f"variant {twice[0]!r} is in the report twice")

    def _title(self) -> str:
        return f"Report of {self.model_name}: {self.baseline.num_samples:,} samples, task {self.task}"

    def _rows(self) -> list[ShownRow]:
        return [
            {
                "variant": e.name,
                "precision": e.precision,
                **({} if self.score is None else {self.score.name: e.metrics.get(self.score.name)}),
                "agreement": e.metrics.get("agreement"),
                "sqnr_db": e.metrics.get("sqnr_db"),
                "median_ms": None if e.latency is None else e.latency.median_ms,
                "speedup": None if self.speed_reference(e) is e else self.speedup(e),
                "size_mb": e.size_bytes / 1e6,
            }
            for e in self.evaluations
        ]

    @property
    def baseline(self) -> Evaluation:
        """What the others are compared with."""
        return self.evaluations[0]

    @property
    def is_partial(self) -> bool:
        """Whether the run was interrupted before it had seen every sample."""
        return self.planned_samples is not None

    def difference(self, evaluation: Evaluation, metric: str) -> float | None:
        """`metric` of `evaluation` minus the baseline's; None where one of them lacks it."""
        if metric not in evaluation.metrics or metric not in self.baseline.metrics:
            return None
        return evaluation.metrics[metric] - self.baseline.metrics[metric]

    def difference_interval(self, evaluation: Evaluation) -> Interval | None:
        """95% interval of the difference in `score` on the same samples; None where it was not computed, or has no
        length, which no finite number of samples can show.
        """
        if self.score is None:
            return None
        low, high = (evaluation.metrics.get(f"{self.score.name}_difference_{end}") for end in ("low", "high"))
        return None if low is None or high is None or low == high else (low, high)

    def latency_at(self, evaluation: Evaluation, batch_size: int | None = None) -> Latency | None:
        """Latency at a batch size, the first one that was timed if None. None where it was not timed."""
        if batch_size is None:
            return evaluation.latency
        return next((latency for latency in evaluation.latencies if latency.batch_size == batch_size), None)

    def speed_reference(self, evaluation: Evaluation, batch_size: int | None = None) -> Evaluation | None:
        """What the speed of `evaluation` is compared with: the first variant timed by the same method on the same
        backend at the same batch size, perhaps itself. None where it was not timed. Times of different devices are not
        comparable.
        """
        mine = self.latency_at(evaluation, batch_size)
        if mine is None:
            return None
        for other in self.evaluations:
            theirs = self.latency_at(other, mine.batch_size)
            if theirs and (other.backend, theirs.method) == (evaluation.backend, mine.method):
                return other
        return None

    def speedup(self, evaluation: Evaluation, batch_size: int | None = None) -> float | None:
        """Time of `speed_reference` over this one's (above 1 is faster); None where it was not timed."""
        mine, reference = self.latency_at(evaluation, batch_size), self.speed_reference(evaluation, batch_size)
        theirs = None if reference is None or mine is None else self.latency_at(reference, mine.batch_size)
        # A time of 0 is below what the clock shows: how much faster that is, nobody can say.
        return None if mine is None or theirs is None or not mine.compared_ms else theirs.compared_ms / mine.compared_ms
