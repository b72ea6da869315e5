"""The types that the stages of quantkit pass to each other. numpy only; everything refuses nonsense when it is made.

How a value is computed is left to the stage that computes it; how it is stored, to `quantkit.calibration.table` and
`quantkit.reporting`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError, DatasetError, EvaluationError, StaleTableError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "OLDEST_QDQ_OPSET",
    "Array",
    "Batch",
    "CalibrationTable",
    "ColorOrder",
    "Dataset",
    "Evaluation",
    "GateCheck",
    "HistogramRule",
    "Interpolation",
    "Latency",
    "Layout",
    "Method",
    "Preprocessing",
    "QdqEdge",
    "QdqPlan",
    "QuantParams",
    "QuantizedModel",
    "QueryTimes",
    "Report",
    "Resize",
    "Runner",
    "Sample",
    "TensorRange",
    "TensorSpec",
    "TensorStatistics",
    "TimedRunner",
]

Array = npt.NDArray[np.generic]
ColorOrder = Literal["RGB", "BGR", "L"]
Resize = Literal["stretch", "crop", "letterbox"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of an input or output. A dimension is an int, a symbol's name, or None."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...]


# ------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model input: ``(resized pixels * scale - mean) / std``, pixels from 0 to 255.

    The same definition serves calibration, evaluation and latency measurement, and is stored with every artefact.

    Attributes:
        size: (height, width) in pixels that the model takes.
        color: order of the channels; "L" is one grey channel.
        resize: "stretch" to `size`; "crop": shorter side to `shorter_side`, then the centre; "letterbox": fit and pad.
        shorter_side: pixels, for "crop" only.
        interpolation: Pillow's filter.
        pad_value: 0 to 255, for "letterbox" only.
        scale: factor applied first.
        mean: subtracted after scaling, one value for each channel or one for all.
        std: divisor, likewise.
        layout: "NCHW" or "NHWC".
        dtype: numpy name of the model input's type.
    """

    size: tuple[int, int]
    color: ColorOrder = "RGB"
    resize: Resize = "stretch"
    shorter_side: int | None = None
    interpolation: Interpolation = "bilinear"
    pad_value: int = 114
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "NCHW"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, allowed in _PREPROCESSING_CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise DatasetError(f"preprocessing: {name} {value!r} is not one of {', '.join(allowed)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise DatasetError(f"preprocessing: size {self.size!r} must be two positive numbers, height and width")
        if self.resize == "crop":
            if self.shorter_side is None or self.shorter_side < max(self.size):
                raise DatasetError(
                    f"preprocessing: shorter_side {self.shorter_side!r} must be at least {max(self.size)}, "
                    "the larger side of the crop"
                )
        elif self.shorter_side is not None:
            raise DatasetError(f"preprocessing: shorter_side has no meaning with resize {self.resize!r}")
        if not 0 <= self.pad_value <= 255:
            raise DatasetError(f"preprocessing: pad_value {self.pad_value} must be from 0 to 255")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DatasetError(f"preprocessing: scale {self.scale} must be positive and finite")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, self.channels) or not all(math.isfinite(v) for v in values):
                raise DatasetError(
                    f"preprocessing: {name} {values!r} must be 1 or {self.channels} finite numbers for {self.color}"
                )
        if any(v <= 0 for v in self.std):
            raise DatasetError(f"preprocessing: std {self.std!r} must be positive")
        if self.dtype not in ("float32", "float16", "float64", "uint8", "int8"):
            raise DatasetError(f"preprocessing: images cannot fill a model input of type {self.dtype}")

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.color == "L" else 3


_PREPROCESSING_CHOICES: dict[str, tuple[str, ...]] = {
    "color": ("RGB", "BGR", "L"),
    "resize": ("stretch", "crop", "letterbox"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "layout": ("NCHW", "NHWC"),
}


@dataclass(frozen=True)
class Sample:
    """One preprocessed sample: model inputs by name, without the batch dimension, and its class if known."""

    id: str
    inputs: Mapping[str, Array]
    target: int | None = None


@dataclass(frozen=True)
class Batch:
    """N samples stacked. `inputs[name]` has shape [N, ...]; `targets` is int64 [N], None where labels are missing."""

    inputs: Mapping[str, Array]
    ids: tuple[str, ...]
    targets: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not self.inputs or not self.ids:
            raise DatasetError("a batch needs at least one input and one sample")
        for name, array in self.inputs.items():
            if array.shape[:1] != (len(self.ids),):
                raise DatasetError(f"batch: input {name!r} has shape {array.shape} for {len(self.ids)} samples")
            if not array.flags.c_contiguous:
                raise DatasetError(f"batch: input {name!r} is not contiguous")
        if self.targets is not None and self.targets.shape != (len(self.ids),):
            raise DatasetError(f"batch: {self.targets.shape} targets for {len(self.ids)} samples")

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class Dataset(Protocol):
    """A fixed sequence of samples, decoded on access, safe to read from several threads.

    `dataset[i]` raises `DatasetError` naming the file where the sample cannot be read.
    """

    @property
    def ids(self) -> Sequence[str]:
        """One stable name per sample, relative to the data's root: no machine path."""

    @property
    def targets(self) -> Sequence[int] | None:
        """Class index per sample, None where there are no labels."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names by index; empty where there are none."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared; None for arrays, which are fed as they are."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted ids and contents, hexadecimal; independent of order and of where the files lie."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


# ---------------------------------------------------------------------------------------------------------- running


@runtime_checkable
class Runner(Protocol):
    """A model that can be run. Every backend passes the same contract test."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch. Returns every output by name; the arrays are the caller's."""

    def close(self) -> None:
        """Frees what the runner holds; calling it twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class QueryTimes:
    """Times in ms of consecutive queries on a device, one element for each query.

    Attributes:
        h2d_ms, compute_ms, d2h_ms: copy to the device, computation, copy back: by the device's own events.
        enqueue_ms: how long the host needed to hand the computation over.
        span_ms: from the first query's start to the last one's end, by the device's events.
    """

    h2d_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...]
    span_ms: float

    def __post_init__(self) -> None:
        if not self.h2d_ms or len({len(t) for t in (self.h2d_ms, self.compute_ms, self.d2h_ms, self.enqueue_ms)}) != 1:
            raise EvaluationError("query times need the same number of queries, at least one, in every part")

    def __len__(self) -> int:
        return len(self.compute_ms)


@runtime_checkable
class TimedRunner(Runner, Protocol):
    """A runner that can time its queries on the device."""

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether queries replay a captured CUDA graph."""

    def time_block(self, inputs: Mapping[str, Array], *, duration_ms: float, min_queries: int = 1) -> QueryTimes:
        """Runs the same query again and again, at least so long and so often, without returning its outputs."""


# ------------------------------------------------------------------------------------------------------ calibration

HistogramRule = Literal["exact", "tensorrt"]


@dataclass
class TensorStatistics:
    """What calibration knows of one tensor: everything that any method needs, from one pass over the data.

    Attributes:
        histogram: int64 [bins], counts of magnitudes; bin i holds |x| in [i, i + 1) * bin_width.
        bin_width: width of a bin, 0 while every value was 0.
        minimum, maximum: extremes of the values themselves, with sign.
        rule: "exact" (bin width a power of two; merging is exact) or "tensorrt" (depends on the order of the data).
    """

    histogram: npt.NDArray[np.int64]
    bin_width: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    rule: HistogramRule = "exact"

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.histogram.sum())

    @property
    def amax(self) -> float:
        """Largest magnitude seen, 0 if there was none."""
        return max(-self.minimum, self.maximum, 0.0) if self.minimum <= self.maximum else 0.0


Method = Callable[[TensorStatistics], float]
"""A calibration method: the magnitude at which a tensor is clipped, from its statistics."""


@dataclass(frozen=True)
class TensorRange:
    """Calibrated range of one tensor: clipped to [-amax, amax]; minimum and maximum are what was seen."""

    amax: float
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amax) and self.amax > 0):
            raise CalibrationError(f"amax {self.amax} must be positive and finite")
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum) and self.minimum <= self.maximum):
            raise CalibrationError(f"seen range [{self.minimum}, {self.maximum}] must be finite and ordered")


@dataclass(frozen=True)
class CalibrationTable:
    """The reusable result of calibration, and what it belongs to.

    Attributes:
        tensors: calibrated range by tensor name, in network order.
        skipped: tensors that were observed and got no range, with the reason (all zero).
        model_hash: hash of graph and weights (`quantkit.graph.model.model_hash`).
        dataset_fingerprint: `Dataset.fingerprint` of the samples used.
        num_samples: how many samples were seen.
        preprocessing: as the images were prepared; None for arrays.
        settings: everything else that decides the numbers: method, its parameters, histogram, order, seed, batch size.
        versions: of quantkit and the runtime that computed the activations.
    """

    tensors: Mapping[str, TensorRange]
    model_hash: str
    dataset_fingerprint: str
    num_samples: int
    settings: Mapping[str, str | int | float | bool | None]
    preprocessing: Preprocessing | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    model_name: str = ""
    format_version: int = 1

    def __post_init__(self) -> None:
        if not self.tensors:
            raise CalibrationError("a calibration table needs at least one tensor")
        if both := self.tensors.keys() & self.skipped.keys():
            raise CalibrationError(f"tensor {min(both)!r} is both calibrated and skipped")

    @property
    def method(self) -> str:
        """Name of the calibration method."""
        return str(self.settings.get("method", "unknown"))

    def check_model(self, model_hash: str, model_name: str) -> None:
        """Raises `StaleTableError`, naming both hashes, unless the table was made from this model."""
        if model_hash != self.model_hash:
            raise StaleTableError(
                f"the calibration table was made for model {self.model_name!r} (hash {self.model_hash[:12]}), "
                f"not for {model_name!r} (hash {model_hash[:12]}): calibrate {model_name!r} again"
            )


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of affine quantization: ``q = saturate(round(x / scale) + zero_point)``.

    Attributes:
        scale: float32, shape [] for one scale, [C] with `axis`.
        zero_point: code of 0; 0 for everything that TensorRT takes.
        axis: which dimension the scales belong to; set if and only if `scale` is 1-D.
        dtype: int8 or uint8.
        narrow: codes from -127 instead of -128 (weights).
    """

    scale: npt.NDArray[np.float32]
    zero_point: int = 0
    axis: int | None = None
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.int8))
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.asarray(self.scale, np.float32))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if self.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
            raise CalibrationError(f"quantized type {self.dtype} must be int8 or uint8")
        if self.scale.ndim != (0 if self.axis is None else 1):
            raise CalibrationError(f"scale of shape {self.scale.shape} with axis {self.axis}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError("every scale must be positive and finite")
        info = np.iinfo(self.dtype)
        if not info.min <= self.zero_point <= info.max:
            raise CalibrationError(f"zero point {self.zero_point} is no {self.dtype}")

    @classmethod
    def from_amax(cls, amax: float) -> QuantParams:
        """Symmetric INT8: scale = amax / 127, zero point 0."""
        # Divided in double: a scale that was read from a cache as 127 * scale comes back bit for bit.
        return cls(scale=np.asarray(float(amax) / 127, np.float32))


# ---------------------------------------------------------------------------------------------------------- placing

OLDEST_QDQ_OPSET = 13
"""QuantizeLinear and DequantizeLinear know an axis from ONNX opset 13 on."""


@dataclass(frozen=True, order=True)
class QdqEdge:
    """Input `index` of node `node` reads `tensor` through Q/DQ (a weight: through DQ). `axis` is set per channel."""

    tensor: str
    node: str
    index: int
    axis: int | None = None


@dataclass(frozen=True)
class QdqPlan:
    """Where Q/DQ go: a function of the graph alone, without a single scale.

    Attributes:
        activations: edges quantized per tensor.
        weights: edges whose constant is stored as INT8.
        groups: sets of tensors that must share one scale (inputs and output of a Concat).
        skipped: what stays in float, and why: name of a tensor or node → reason.
        target: "tensorrt" or "cpu".
    """

    activations: tuple[QdqEdge, ...]
    weights: tuple[QdqEdge, ...]
    groups: tuple[frozenset[str], ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    target: str = "tensorrt"

    def __post_init__(self) -> None:
        seen: set[tuple[str, int]] = set()
        for edge in (*self.activations, *self.weights):
            if (edge.node, edge.index) in seen:
                raise CalibrationError(f"input {edge.index} of node {edge.node!r} is planned twice")
            seen.add((edge.node, edge.index))
        for name, reason in self.skipped.items():
            if not reason:
                raise CalibrationError(f"{name!r} is left in float without a reason")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the activations that need a scale, in first-use order, members of their groups included."""
        used = dict.fromkeys(edge.tensor for edge in self.activations)
        for group in self.groups:
            used.update(dict.fromkeys(sorted(group)))
        return tuple(used)


@dataclass(frozen=True)
class QuantizedModel:
    """An INT8 model on disk; wherever a path is taken, it can be given.

    Attributes:
        path: the ONNX file.
        num_quantized: how many of them compute on INT8.
        num_weighted: Conv, ConvTranspose, Gemm and MatMul operators of the model.
        skipped: what stayed in float: name of a tensor or node → reason.
    """

    path: Path
    num_quantized: int
    num_weighted: int
    skipped: Mapping[str, str]

    def __fspath__(self) -> str:
        return str(self.path)


# ------------------------------------------------------------------------------------------------------- evaluation


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

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.iterations < 1:
            raise EvaluationError("latency needs at least one sample and one iteration")
        if (self.method == "device") != (self.compute_ms is not None):
            raise EvaluationError(f"latency: compute_ms {self.compute_ms} does not go with method {self.method!r}")
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not isinstance(value, str) and (not math.isfinite(value) or value < 0):
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
        precision: "fp32", "fp16" or "int8".
        backend: runtime and device, for example "onnxruntime 1.31.1 CPU".
        size_bytes: of the model file, external data included.
        num_samples: samples that the metrics were computed over.
        metrics: name → value; accuracies are fractions of 1, SQNR is dB.
        latency: None where it was not measured.
        notes: what a reader must know before using a number (FP16 on a CPU is computed by casting).
        representative: False where `latency` says nothing about the device that the variant is made for.
    """

    name: str
    precision: Literal["fp32", "fp16", "int8"]
    backend: str
    size_bytes: int
    num_samples: int
    metrics: Mapping[str, float]
    latency: Latency | None = None
    notes: tuple[str, ...] = ()
    representative: bool = True


@dataclass(frozen=True)
class Report:
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
        warnings: one sentence each.
        created: ISO 8601, UTC.
    """

    model_name: str
    model_hash: str
    evaluations: tuple[Evaluation, ...]
    dataset: Mapping[str, str | int | float | None]
    environment: Mapping[str, str]
    preprocessing: Preprocessing | None = None
    calibration: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    created: str = ""
    format_version: int = 1

    def __post_init__(self) -> None:
        names = [e.name for e in self.evaluations]
        if not names:
            raise EvaluationError("a report needs at least one evaluation")
        if twice := [n for n in names if names.count(n) > 1]:
            raise EvaluationError(f"variant {twice[0]!r} is in the report twice")

    @property
    def baseline(self) -> Evaluation:
        """What the others are compared with."""
        return self.evaluations[0]

    def difference(self, evaluation: Evaluation, metric: str) -> float | None:
        """`metric` of `evaluation` minus the baseline's; None where one of them lacks it."""
        if metric not in evaluation.metrics or metric not in self.baseline.metrics:
            return None
        return evaluation.metrics[metric] - self.baseline.metrics[metric]

    def speed_reference(self, evaluation: Evaluation) -> Evaluation | None:
        """What the speed of `evaluation` is compared with: the first variant timed by the same method on the same
        backend, perhaps itself. None where it was not timed. Times of different devices are not comparable.
        """
        if evaluation.latency is None:
            return None
        return next(
            e
            for e in self.evaluations
            if e.latency and (e.backend, e.latency.method) == (evaluation.backend, evaluation.latency.method)
        )

    def speedup(self, evaluation: Evaluation) -> float | None:
        """Time of `speed_reference` over this one's (above 1 is faster); None where it was not timed."""
        reference = self.speed_reference(evaluation)
        if evaluation.latency is None or reference is None or reference.latency is None:
            return None
        return reference.latency.compared_ms / evaluation.latency.compared_ms


@dataclass(frozen=True)
class GateCheck:
    """One limit on one variant of a report, kept or broken.

    Attributes:
        variant: its name.
        limit: the option that set it, for example "--max-drop 0.5pt".
        passed: whether it is kept.
        value: what was measured.
        bound: what it was compared with, in the same unit.
        undecided: the 95 % interval of `value` holds `bound`.
        sentence: all of this for a person.
        interval: of `value`; None where the report holds none.
    """

    variant: str
    limit: str
    passed: bool
    value: float
    bound: float
    undecided: bool
    sentence: str
    interval: tuple[float, float] | None = None
