"""The options of each command: frozen dataclasses, checked when they are made.

The command line, configuration files, the keywords of the Python functions and what a calibration table stores of its
settings come from these fields. What an option means is its help text; a docstring adds what matters in Python alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from quantkit.errors import (
    BackendError,
    CalibrationError,
    DatasetError,
    EvaluationError,
    LimitError,
    ModelError,
    OptionError,
)
from quantkit.types.calibration import CalibrationTable, HistogramRule
from quantkit.types.data import ColorOrder, Interpolation, Layout, PadPosition, PathLike, Preprocessing, Resize
from quantkit.types.device_choice import first_gpu, parse_device
from quantkit.types.option import TextForm, check_choices, check_fraction, check_minimum, nested, option, owned_options
from quantkit.types.plan import QuantizationPlan
from quantkit.types.quantization import BLOCK_SIZES, DEFAULT_BLOCK, SCHEMES, Format, Precision, QuantScheme
from quantkit.urls import data_path

Order = Literal["shuffled", "given"]
CalibratorName = Literal["auto", "quantkit", "tensorrt"]
Target = Literal["tensorrt", "cpu"]
EnginePrecision = Literal["fp32", "fp16", "int8", "fp8", "int4", "int4+int8", "best"]
EngineLibrary = Literal["auto", "tensorrt", "rtx"]
HighPrecision = Literal["fp32", "fp16"]
Effort = Literal["fast", "balanced", "best"]
Rounding = Literal["feedback", "nearest"]

DATA, IMAGES, PRECISION, LATENCY = "Data", "Images", "Precision", "Latency"
EXPERT, REUSE, MESSAGES = "Expert", "Reuse", "Messages"
"""Groups of the help."""


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"invalid size {text!r}, expected e.g. 224 or 480x640")
    return int(parts[0]), int(parts[-1])


def _parse_ratio(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"invalid number {text!r}, expected e.g. 0.0039 or 1/255") from None


def _parse_numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"invalid numbers {text!r}, expected e.g. 0.5 or 0.5,0.5,0.5") from None


PATH = TextForm(Path)
DATA_PATH = TextForm(data_path)
PATHS = TextForm(lambda words: tuple(Path(name) for text in words for name in text.split(",")))
TEXT = TextForm(str)
_SIZE = TextForm(_parse_size, lambda size: f"{size[0]}x{size[1]}")
_RATIO = TextForm(_parse_ratio, repr)
_NUMBERS = TextForm(_parse_numbers, lambda numbers: ",".join(map(repr, numbers)))


def _read_named_numbers(words: tuple[str, ...]) -> dict[str, float]:
    """Reads NAME=NUMBER words; a name may hold "="."""
    numbers: dict[str, float] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if not name or name in numbers:
            raise ValueError(f"{word!r} is not NAME=NUMBER, each name once")
        numbers[name] = _parse_ratio(number)
    return numbers


def _read_named_axes(words: tuple[str, ...]) -> dict[str, int]:
    numbers = _read_named_numbers(words)
    if wrong := [name for name, number in numbers.items() if number != int(number) or number < 0]:
        raise ValueError(f"the batch axis of {wrong[0]!r} is not a whole number from 0")
    return {name: int(number) for name, number in numbers.items()}


def _read_named_outputs(words: tuple[str, ...]) -> dict[str, str]:
    outputs: dict[str, str] = {}
    for word in words:
        name, _, output = word.partition("=")
        if not name or not output or name in outputs:
            raise ValueError(f"{word!r} is not INPUT=OUTPUT, each input once")
        outputs[name] = output
    return outputs


_NAMED_OUTPUTS = TextForm(_read_named_outputs)
_NAMED_NUMBERS = TextForm(_read_named_numbers)
_NAMED_AXES = TextForm(_read_named_axes)


@dataclass(frozen=True)
class ImageOptions:
    """How samples are read and prepared, as far as a user says it; the rest comes from preset and model.

    Attributes:
        base: what takes the place of the preset where nothing of the preparation is said.

    Example:
        >>> ImageOptions("yolo", size=(640, 640)).resize is None
        True
    """

    preset: str | None = option(
        None,
        "Preset {known}, preprocessor_config.json or file.py:function (a file of Hugging Face's; a function of your "
        "own, from a PIL image to an array).",
        group=IMAGES,
        flag="--preprocess",
        registry="quantkit.datasets.presets:PRESETS",
        is_open=True,
        default_text="imagenet for 3 channels, unit for 1, none for uint8 inputs",
    )
    size: tuple[int, int] | None = option(
        None,
        "Image size, height x width, e.g. 224 or 480x640.",
        group=IMAGES,
        form=_SIZE,
        default_text="the model's input",
    )
    color: ColorOrder | None = option(None, "Channel order.", group=IMAGES)
    resize: Resize | None = option(
        None,
        "Resize mode. stretch: to the size; crop: resize the shorter side, then center crop; letterbox: fit and pad; "
        "height: to the height, the width by aspect, padded on the right (text lines); limit: shrink into the size, "
        "not padded, for models of dynamic height and width.",
        group=IMAGES,
    )
    shorter_side: int | None = option(
        None, "Resize the shorter side to this many pixels before the center crop.", group=IMAGES, unit="pixels"
    )
    interpolation: Interpolation | None = option(None, "Interpolation filter of the resize (Pillow's).", group=IMAGES)
    pad_value: int | None = option(None, "Padding value (0-255).", group=IMAGES)
    scale: float | None = option(
        None, "Factor that pixel values (0-255) are multiplied by, e.g. 1/255.", group=IMAGES, form=_RATIO
    )
    mean: tuple[float, ...] | None = option(
        None,
        "Per-channel mean, subtracted after scaling: one number or one per channel, e.g. 0.5,0.5,0.5.",
        group=IMAGES,
        form=_NUMBERS,
    )
    std: tuple[float, ...] | None = option(
        None,
        "Per-channel standard deviation, divided by after the mean: one number or one per channel.",
        group=IMAGES,
        form=_NUMBERS,
    )
    layout: Layout | None = option(None, "Input layout.", group=IMAGES, default_text="inferred from the model")
    pad_position: PadPosition | None = option(
        None,
        "Position of the image in the padding.",
        group=IMAGES,
        default_text="center for letterbox, top-left for height",
    )
    multiple_of: int | None = option(
        None,
        "limit: round both sides to multiples of this many pixels; letterbox, height: pad to the next multiple instead "
        "of to the size. Needs a model of dynamic height and width.",
        group=IMAGES,
        unit="pixels",
    )
    pixel_max: float | None = option(
        None,
        "Pixel value of white in images of more than 8 bits, e.g. 4095 for 12 bits.",
        group=IMAGES,
        default_text="65535; of float images 255",
    )
    crops: PathLike | None = option(
        None,
        "CSV file of boxes (path, left, top, right, bottom, optionally label): each box is a sample.",
        group=IMAGES,
        form=PATH,
        unit="file",
    )
    loader: str | None = option(
        None,
        "file.py:function that reads --data, in any form, and yields samples: dicts of arrays by input name.",
        flag="--loader,--data-loader-script",
        group=DATA,
        form=TEXT,
        unit="symbol",
    )
    split: Literal["train", "val"] | None = option(
        None, "Split of a YOLO data.yaml.", group=DATA, default_text="train to calibrate, val to evaluate"
    )
    base: Preprocessing | None = None
    batch_axis: Mapping[str, int] | None = option(
        None,
        "INPUT=AXIS: dimension of an input that is the batch, if not the first, e.g. state=1. Repeatable.",
        group=DATA,
        form=_NAMED_AXES,
        repeatable=True,
    )
    constant: Mapping[str, float] | None = option(
        None,
        "INPUT=NUMBER: value of an input that is the same for every sample, e.g. sr=16000. Repeatable.",
        group=DATA,
        form=_NAMED_NUMBERS,
        repeatable=True,
    )
    state: Mapping[str, str] | None = option(
        None,
        "INPUT=OUTPUT: state of a recurrent model, e.g. h=hn. Samples are then sequences, along which the FP32 model "
        "computes the state. Repeatable.",
        group=DATA,
        form=_NAMED_OUTPUTS,
        repeatable=True,
    )

    def __post_init__(self) -> None:
        check_choices(self, DatasetError)

    @property
    def says_how(self) -> bool:
        """Whether anything of the preparation is said."""
        placed: dict[str, None] = dict.fromkeys(("batch_axis", "constant", "state"))
        kept = replace(self, crops=None, loader=None, split=None, base=None, **placed)
        return kept != ImageOptions()


def _read_class_names(text: str) -> tuple[str, ...]:
    if Path(text).exists() and not Path(text).is_file():
        raise ValueError(f"cannot read {text}: it is no file")
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {text}: {error}") from None
    return tuple(name for line in lines if (name := line.strip()))


def _read_named_paths(words: tuple[str, ...]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not name or not path:
            raise ValueError(f"{word!r} is not NAME=PATH")
        if name in paths:
            raise ValueError(f"{name!r} is given twice")
        paths[name] = Path(path)
    return paths


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """Reads "1,8,32": the sizes at which latency is timed, in that order; the first is the one that is compared.

    >>> parse_batch_sizes("1, 8,32")
    (1, 8, 32)

    Raises:
        LimitError: something else than whole numbers from 1 on, or a size twice.
    """
    words = [word.strip() for word in text.split(",")]
    if wrong := [word for word in words if not re.fullmatch("0*[1-9][0-9]{0,8}", word)]:
        raise LimitError(
            f"--batch-sizes {text!r}: {wrong[0]!r} is not a batch size; expected whole numbers from 1, e.g. 1,8,32"
        )
    sizes = tuple(map(int, words))
    if twice := [size for size in sizes if sizes.count(size) > 1]:
        raise LimitError(f"--batch-sizes {text!r}: {twice[0]} is given twice")
    return sizes


CLASS_NAMES = TextForm(_read_class_names)
NAMES = TextForm(lambda text: tuple(name.strip() for name in text.split(",")), ",".join)
NAMED_PATHS = TextForm(_read_named_paths)


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """What every command that reads samples needs to know.

    Attributes:
        preprocess: of images; a preset's name will do. None takes the default for the model's input.
        progress: show progress bars on a terminal.
    """

    preprocess: Preprocessing | ImageOptions | str | None = nested(ImageOptions)
    seed: int = option(0, "Random seed for sample selection.", group=DATA)
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class DataOptions(PreprocessOptions):
    """How data are read."""

    classes: Sequence[str] | None = option(
        None,
        "Text file with the class names, one per line, in the order of the model's outputs.",
        group=DATA,
        form=CLASS_NAMES,
        unit="file",
    )
    workers: int | None = option(None, "Threads that decode images.", group=DATA, default_text="number of CPUs")


@dataclass(frozen=True, kw_only=True)
class StrictDataOptions(DataOptions):
    """How data are read where unreadable samples may be left out."""

    strict: bool = option(False, "Fail on an unreadable image instead of skipping it.", group=DATA)
    min_readable: float = option(
        0.9, "Fail if less than this fraction (0-1) of the samples can be read.", group=DATA, unit="fraction"
    )


@dataclass(frozen=True, kw_only=True)
class ExtensionOptions:
    """Libraries with operators that a runtime lacks."""

    plugins: Sequence[PathLike] = option(
        (),
        "TensorRT plugin library (.so, .dll). Repeatable or comma separated.",
        group=EXPERT,
        form=PATHS,
        repeatable=True,
    )
    ort_extension: Sequence[PathLike] = option(
        (),
        "Library of custom ONNX Runtime operators, for operators that it lacks. Repeatable or comma separated.",
        group=EXPERT,
        form=PATHS,
        repeatable=True,
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where models are run."""

    device: str = option(
        "auto",
        "Device that runs the models on the data: auto (a GPU where ONNX Runtime's CUDA provider and pycuda work), "
        "cpu, cuda, cuda:N; cuda:N,M calibrates on several GPUs.",
        group=EXPERT,
    )

    def __post_init__(self) -> None:
        try:
            parse_device(self.device)
        except ValueError as error:
            raise CalibrationError(str(error)) from None


_ADDRESS = re.compile(r"(ray://)?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(DeviceOptions):
    """Where models are run, if not on this machine alone.

    Attributes:
        ray: Ray cluster that runs the models on the data; the numbers are those of a single machine.
    """

    ray: str | None = option(
        None,
        "Run the models on a Ray cluster: auto (the one of this machine or of RAY_ADDRESS), local (start one here) or "
        "HOST:PORT. Every node needs the model and the data under the same paths.",
        group=EXPERT,
        unit="address",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray is not None and self.ray not in ("auto", "local"):
            found = _ADDRESS.fullmatch(self.ray)
            if found is None or int(found[3]) not in range(1, 1 << 16):
                raise OptionError(
                    f"--ray {self.ray!r} is not auto, local or HOST:PORT, such as 10.0.0.1:6379 or [fd00::1]:6379"
                )


@dataclass(frozen=True, kw_only=True)
class ExcludeOptions:
    """What stays in float.

    Attributes:
        plan: of `tune`, or its path: tensors beside those that the table leaves in float.
    """

    exclude: Sequence[str] = option(
        (), "Node name, name pattern (*) or operator type to exclude from quantization. Repeatable.", repeatable=True
    )
    plan: QuantizationPlan | PathLike | None = option(
        None, "Plan of `quantkit tune`: tensors to leave in float.", form=PATH, unit="file"
    )
    quantize_all: bool = option(
        False,
        "For TensorRT: quantize also operators that INT8 does not speed up (squeeze-and-excitation, single vectors, "
        "few channels, between average pools).",
    )


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """How ranges are chosen from statistics.

    Attributes:
        method_options: the options that this method has of its own, by name; each is a keyword of `calibrate` too.
    """

    method: str = option(
        "auto",
        "Calibration method: how the range of a tensor is chosen. auto: the one that changes the model's output least.",
        registry="quantkit.calibration.methods:METHODS",
    )
    method_options: Mapping[str, float | None] = owned_options("quantkit.calibration.methods:METHODS", "--method")


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(MethodOptions, StrictDataOptions, ExtensionOptions, ClusterOptions):
    """Options of `calibrate`.

    Attributes:
        rounding: of weights, as in `quantize`.
        batch_size: samples run at once; None chooses by memory. Decides numbers only with histogram "tensorrt".
        calibrator: "quantkit", "tensorrt" (8.6 to 10, with a GPU), or "auto": TensorRT's where it can run. With the
            method "auto" its ranges are candidates for each tensor; with "entropy" or "minmax" they are the table.
        reuse_only: raise `StaleTableError` instead of calibrating.
        table_path: where the table is kept: one that is there is reused if it fits, else replaced.
        cache_path: where TensorRT's calibration cache goes, if TensorRT calibrates.
        engine_path: where the engine goes, if TensorRT calibrates: of the table, or as TensorRT built it meanwhile.
        exclude: what that engine leaves in float, as in `quantize`; the table does not depend on it.
    """

    accuracy: Effort | None = option(
        None,
        "Effort for accuracy. fast: ranges from statistics alone; balanced: also tries ranges on the model, rounds "
        "weights with error feedback and leaves in float what INT8 damages; best: the same on more samples.",
        default_text="balanced with --method auto, else fast",
    )
    num_samples: int = option(1024, "Number of calibration samples, balanced over the classes.", group=DATA)
    order: Order = option("shuffled", "Sample order: shuffled (by --seed) or as given.", group=DATA)
    batch_size: int | None = option(None, "Samples per batch.", group=DATA, default_text="chosen by available memory")
    histogram: HistogramRule = option(
        "exact",
        "Histogram rule. exact: independent of sample order and batch size; tensorrt: reproduces TensorRT's own.",
        group=EXPERT,
    )
    all_tensors: bool = option(
        True,
        "Calibrate every activation, as TensorRT's caches (up to 10) and implicit quantization require. Without, no "
        "cache is written.",
        group=EXPERT,
    )
    calibrator: CalibratorName = option(
        "auto",
        "Calibrator. auto: TensorRT's own where it can run (8.6 to 10, with a GPU), which also builds the engine; "
        "otherwise quantkit's. With --method auto, TensorRT's ranges are candidates beside quantkit's.",
        group=EXPERT,
    )
    force: bool = option(False, "Recalibrate even if an up-to-date table exists.", group=REUSE)
    reuse_only: bool = option(False, "Do not calibrate; exit with code 4 if the existing table is stale.", group=REUSE)
    keep_statistics: bool = option(
        False, "Save activation histograms (MODEL.calib.stats) to try other methods or merge shards.", group=REUSE
    )
    resume: bool = option(False, "Continue an interrupted calibration from its last checkpoint.", group=REUSE)
    table_path: PathLike | None = None
    cache_path: PathLike | None = None
    engine_path: PathLike | None = None
    exclude: Sequence[str] = ()
    rounding: Rounding = "feedback"

    @property
    def effort(self) -> Effort:
        """`accuracy`, decided: a range that has to be TensorRT's own, or a method's, is not improved on."""
        if self.histogram == "tensorrt":
            return "fast"
        return self.accuracy or ("balanced" if self.method == "auto" else "fast")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, CalibrationError)
        check_minimum(self, 1, ("num_samples", "batch_size", "workers"), CalibrationError)
        check_fraction(self, ("min_readable",), CalibrationError)
        if self.ray is not None and (self.resume or self.histogram == "tensorrt" or self.calibrator == "tensorrt"):
            raise CalibrationError(
                "--ray excludes --resume, --calibrator tensorrt and --histogram tensorrt, which take one sample after "
                "another"
            )


@dataclass(frozen=True, kw_only=True)
class MergeOptions(MethodOptions):
    """Options of `merge_statistics`.

    Attributes:
        progress: show a progress bar on a terminal.
    """

    keep_statistics: bool = option(
        False, "Save the merged activation histograms next to the table, to try other methods or merge again."
    )
    progress: bool = True


_MOST_THREADS = 4096
_BLOCK_SIZE = "int4: inputs of a weight that share a scale; 64 where 128 does not divide their number."


def check_block_size(block: int | None, precision: str, option: str) -> None:
    """Refuses a size of blocks that TensorRT has no kernels for, or where there are no blocks."""
    blocked = [name for name, scheme in SCHEMES.items() if scheme.blocks]
    if block is not None and precision not in blocked:
        raise ModelError(f"--block-size is for {option} {' and '.join(blocked)}, not for {precision}")
    if block is not None and block not in BLOCK_SIZES:
        raise ModelError(f"--block-size {block}: TensorRT takes {' and '.join(map(str, BLOCK_SIZES))}")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(ExcludeOptions, ExtensionOptions):
    """Options of `quantize`.

    Attributes:
        high_precision: precision of what is not quantized; "fp16" needs opset 19, to which an older model is converted.
            None is FP32 beside INT8, else FP16.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
    """

    target: Target = option("tensorrt", "Deployment target: TensorRT, or the ONNX Runtime CPU provider (x86).")
    format: Format = option(
        "int8",
        "Number format. int8: any GPU; fp8 (E4M3): Ada, Hopper, Blackwell with TensorRT 10.3 or TensorRT-RTX; int4: "
        "weights of MatMul and Gemm alone, TensorRT 10 or TensorRT-RTX; int4+int8: these, and INT8 for the rest.",
    )
    block_size: int | None = option(None, _BLOCK_SIZE, unit="inputs", default_text="128")
    high_precision: HighPrecision | None = option(
        None, "Precision of layers that are not quantized.", default_text="fp32 for int8, else fp16"
    )
    rounding: Rounding = option(
        "feedback",
        "Rounding of weights. feedback: with error feedback, as calibration found it (MODEL.calib.weights); nearest: "
        "each weight to the nearest value.",
    )
    reduce_range: bool | None = option(
        None,
        "Use weights of 7 to 8 bits, whose sums cannot saturate, for --target cpu.",
        group=EXPERT,
        default_text="on where this processor has no VNNI",
    )

    def __post_init__(self) -> None:
        check_choices(self, ModelError)
        if self.target == "cpu" and self.plan is not None:
            raise ModelError("--plan is for the target tensorrt")
        if self.target == "cpu" and not self.scheme.is_plain:
            raise ModelError(f"--format {self.format} is for TensorRT: the target cpu has kernels for int8 alone")
        check_block_size(self.block_size, self.format, "--format")
        if self.plan is not None and not self.scheme.is_plain:
            raise ModelError(f"--plan is for --format int8, for which it was found, not for {self.format}")
        if self.target == "cpu" and self.high_precision == "fp16":
            raise ModelError("the target cpu runs in FP32 around INT8: leave out --high-precision fp16")
        if self.target != "cpu" and self.reduce_range:
            raise ModelError("--reduce-range is for the target cpu: a GPU adds products in 32 bits")

    @property
    def block(self) -> int:
        """`block_size`, decided."""
        return self.block_size or DEFAULT_BLOCK

    @property
    def scheme(self) -> QuantScheme:
        """What `format` stands for."""
        return SCHEMES[self.format]

    @property
    def float_precision(self) -> HighPrecision:
        """`high_precision`, decided: FP8 is computed with FP16 around it."""
        return self.high_precision or ("fp32" if self.scheme.is_plain else "fp16")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(ExcludeOptions, StrictDataOptions, ExtensionOptions, ClusterOptions):
    """Options of `evaluate`.

    Attributes:
        table: calibration for the INT8 variants that are made here; None leaves them out.
        variants: which of "fp32", "fp16", "int8" (as TensorRT takes it) and "int8-cpu" to make; None makes all that
            the table allows. "fp32" is always there; "fp8", "int4" and "int4+int8" are made where they are named.
        models: finished models to compare too, by name; a .engine, .plan or .trt is an engine.
        exclude: what the INT8 variants leave in float, as in `quantize`.
        command: what was typed, for the report.
    """

    table: CalibrationTable | PathLike | None = option(
        None, "Calibration table.", form=PATH, unit="file", default_text="MODEL.calib.json next to the model"
    )
    variants: Sequence[str] | None = option(
        None,
        "Variants to create and compare, separated by commas; fp8, int4 and int4+int8 only if named.",
        registry="quantkit.evaluation.models:VARIANT_NAMES",
        is_open=True,
        form=NAMES,
        unit="names",
        default_text="all",
    )
    models: Mapping[str, PathLike] | None = option(
        None,
        "Existing model to compare too; RUNTIME:PATH where the suffix does not tell the runtime. Repeatable.",
        flag="--variant",
        form=NAMED_PATHS,
        repeatable=True,
        unit="name=path",
    )
    engines: Mapping[str, PathLike] | None = option(
        None,
        "TensorRT engine to run and time on the GPU too. Repeatable.",
        flag="--engine",
        form=NAMED_PATHS,
        repeatable=True,
        unit="name=path",
    )
    num_samples: int | None = option(None, "Number of samples.", group=DATA, default_text="all")
    batch_size: int = option(32, "Samples per batch when measuring accuracy.", group=DATA)
    layer_samples: int = option(64, "Samples for the layer-wise error analysis (0: skip).", group=DATA)
    latency_s: float = option(
        3.0, "Measurement time per variant and batch size (0: skip latency).", group=LATENCY, unit="seconds"
    )
    batch_sizes: Sequence[int] = option(
        (1,),
        "Batch sizes to benchmark, e.g. 1,8,32. The first is used for the summary and gates.",
        group=LATENCY,
        form=TextForm(parse_batch_sizes, lambda sizes: ",".join(map(str, sizes))),
        unit="sizes",
    )
    threads: int = option(0, "ONNX Runtime intra-op threads (0: automatic).", group=LATENCY)
    cuda_graph: bool = option(False, "Run engines through CUDA graphs.", group=LATENCY)
    with_paths: bool = option(False, "Keep absolute paths in the report, instead of relative ones.")
    thumbnails: bool = option(True, "Show small pictures of changed samples in the report.")
    command: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 0, ("latency_s", "layer_samples", "threads"), EvaluationError)
        _check_threads(self.threads)
        check_fraction(self, ("min_readable",), EvaluationError)
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise EvaluationError(f"--batch-sizes {','.join(map(str, sizes))} must be different sizes of at least 1")


@dataclass(frozen=True, kw_only=True)
class EngineOptions(ExcludeOptions):
    """What `build` builds from, and in which precision; how TensorRT builds it is in `BuildOptions`.

    Attributes:
        precision: "fp32", "fp16", or a format as in `quantize`; "best" is for `build_best`.
        calibration_cache: instead of a table: TensorRT's own cache, for implicit INT8 with the version that wrote it.
        mode: how INT8 comes about: "explicit" puts Q/DQ into the model; "implicit" (TensorRT up to 10) gives
            TensorRT the ranges and lets it choose; "auto" is explicit except for a DLA.
        high_precision: of what is not quantized; None is FP16, or what a model with Q/DQ says.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        device: GPU that TensorRT builds for: "auto" (the first, or that of `using_device`), "cuda" or "cuda:N".
        verbose: report every message of TensorRT.
        progress: show a progress bar on a terminal.
    """

    precision: EnginePrecision = option(
        "fp32", "Precision of the engine. best: FP16 or INT8, whichever is measured to be faster on this GPU."
    )
    table: CalibrationTable | PathLike | None = option(
        None,
        "Calibration table, for INT8 and other formats.",
        form=PATH,
        unit="file",
        default_text="MODEL.calib.json next to the model",
    )
    calibration_cache: PathLike | None = option(
        None,
        "TensorRT calibration cache to use instead of a table, for implicit INT8.",
        group=PRECISION,
        flag="--calib",
        form=PATH,
        unit="file",
    )
    data: PathLike | None = option(
        None,
        "For --precision fp16 without a table: images or arrays, a few of which show where FP16 overflows.",
        group=PRECISION,
        form=DATA_PATH,
        unit="path",
    )
    batch_axis: Mapping[str, int] | None = option(
        None,
        "INPUT=AXIS: dimension of an input that is the batch, if not the first, e.g. state=1. Repeatable.",
        group=PRECISION,
        form=_NAMED_AXES,
        repeatable=True,
    )
    constant: Mapping[str, float] | None = option(
        None,
        "INPUT=NUMBER: with --data: an input that is the same for every sample, e.g. sr=16000. Repeatable.",
        group=PRECISION,
        form=_NAMED_NUMBERS,
        repeatable=True,
    )
    min_coverage: float | None = option(
        None,
        "With --calib: fail if the cache has scales for a smaller share of the activations, e.g. 0.95.",
        group=PRECISION,
        default_text="none: a warning names the layers that fall back to float",
    )
    library: EngineLibrary = option(
        "auto", "Library to build with. auto: TensorRT if it is installed and no --target is given, else TensorRT-RTX."
    )
    mode: Literal["auto", "implicit", "explicit"] = option(
        "auto",
        "INT8 quantization mode. explicit: Q/DQ in the model; implicit: separate dynamic ranges (TensorRT up to 10).",
        group=PRECISION,
    )
    high_precision: HighPrecision | None = option(
        None, "Precision of layers that are not quantized.", group=PRECISION, default_text="fp16"
    )
    device: str = option(
        "auto", "GPU to build for, and to time on: cuda, or cuda:N of several (auto: the first).", group=EXPERT
    )
    block_size: int | None = option(None, _BLOCK_SIZE, group=PRECISION, unit="inputs", default_text="128")
    force: bool = option(False, "Rebuild even if an up-to-date engine exists.")
    verbose: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_choices(self, BackendError)
        check_block_size(self.block_size, self.precision, "--precision")
        if self.plan is not None and self.precision in SCHEMES and not SCHEMES[self.precision].is_plain:
            raise ModelError(f"--plan is for --precision int8, for which it was found, not for {self.precision}")
        if self.min_coverage is not None and not 0 <= self.min_coverage <= 1:
            raise BackendError(f"--min-coverage {self.min_coverage:g} is not a share from 0 to 1")
        if self.min_coverage is not None and self.calibration_cache is None:
            raise BackendError("--min-coverage is for a cache that --calib names")
        if self.constant and self.data is None:
            raise BackendError("--constant is for the samples of --data")
        try:
            found = parse_device(self.device)
        except ValueError as error:
            raise BackendError(str(error)) from None
        if found != "auto" and len(found) != 1:
            raise BackendError(f"--device {self.device}: an engine is built for one GPU: cuda or cuda:N")

    @property
    def gpu(self) -> int | None:
        """Index of the GPU that was asked for."""
        return first_gpu(self.device)

    @property
    def single_precision(self) -> Precision:
        """`precision` of one engine.

        Raises:
            BackendError: it is "best", for which several are built.
        """
        if self.precision == "best":
            raise BackendError("--precision best times several engines: call build_best")
        return self.precision

    @property
    def placed(self) -> ImageOptions | None:
        """Batch axes and constants as data sets take them; None where neither is said."""
        said = ImageOptions(batch_axis=self.batch_axis, constant=self.constant)
        return None if said == ImageOptions() else said


@dataclass(frozen=True, kw_only=True)
class TimedBuildOptions:
    """How many engines are built to be timed, and how long.

    Attributes:
        max_builds: engines that are built at most: FP16 and INT8, then INT8 with operators in float.
    """

    max_builds: int = option(8, "Maximum number of engines to build and time.", group=LATENCY)
    latency_s: float = option(3.0, "Measurement time per engine.", group=LATENCY, unit="seconds")

    def __post_init__(self) -> None:
        if self.max_builds < 2:
            raise OptionError(f"--max-builds {self.max_builds} must be at least 2: FP16 and INT8")
        if not (math.isfinite(self.latency_s) and self.latency_s > 0):
            raise OptionError(f"--latency-s {self.latency_s} must be a number of seconds above 0")


@dataclass(frozen=True, kw_only=True)
class SelftestOptions:
    """Options of `selftest`."""

    library: EngineLibrary = option("auto", "Library to test. auto: TensorRT if it is installed, else TensorRT-RTX.")
    num_samples: int = option(64, "Number of samples to calibrate with.", group=DATA)
    latency_s: float = option(1.0, "Measurement time per engine (0: skip latency).", group=LATENCY, unit="seconds")

    def __post_init__(self) -> None:
        check_choices(self, BackendError)
        check_minimum(self, 1, ("num_samples",), OptionError)
        check_minimum(self, 0, ("latency_s",), OptionError)


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """Options of `export triton`.

    Attributes:
        engine: becomes model.plan; without one, the ONNX model is exported for ONNX Runtime.
    """

    engine: PathLike | None = option(
        None, "TensorRT engine of the model, for model.plan.", form=PATH, unit="file", default_text="the ONNX model"
    )
    name: str | None = option(None, "Name in the repository.", form=TEXT, default_text="the model's file name")
    max_batch: int | None = option(None, "Largest batch.", default_text="that of the engine, else 32")

    def __post_init__(self) -> None:
        check_minimum(self, 1, ("max_batch",), OptionError)


@dataclass(frozen=True, kw_only=True)
class DeepStreamOptions:
    """Options of `export deepstream`."""

    table: PathLike | None = option(
        None, "Calibration table, with its cache beside it.", form=PATH, unit="file", default_text="MODEL.calib.json"
    )
    precision: Precision = option("int8", "Precision of the engine.")
    batch_size: int = option(1, "Batch size of the engine.")

    def __post_init__(self) -> None:
        check_minimum(self, 1, ("batch_size",), OptionError)


@dataclass(frozen=True, kw_only=True)
class TrtexecOptions:
    """Options of `export trtexec` beside those of a build."""

    precision: Precision | None = option(None, "Precision of the engine.", default_text="the model's own")
    calibration_cache: PathLike | None = option(
        None,
        "Calibration cache, for implicit INT8.",
        flag="--calib",
        form=PATH,
        unit="file",
        default_text="MODEL.calib",
    )
    tensorrt_version: str | None = option(
        None, "TensorRT version on the device.", form=TEXT, default_text="the installed one, else 10.16.1"
    )


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DataOptions, DeviceOptions):
    """Options of `check_data`."""

    against: PathLike | None = option(
        None, "Other data that must share no sample with this: the validation set.", form=DATA_PATH, unit="path"
    )
    probe_samples: int = option(256, "Samples run with each alternative preprocessing (0: skip).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 0, ["probe_samples"], EvaluationError)


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(DataOptions, ExtensionOptions, ClusterOptions):
    """Options of `sensitivity`.

    Attributes:
        num_samples: samples for the errors of tensors; the damage to the output is measured on as many of them as it
            takes.
    """

    table: CalibrationTable | PathLike | None = option(
        None,
        "Calibration table.",
        form=PATH,
        unit="file",
        default_text="MODEL.calib.json next to the model if it fits, else calibrated with --accuracy fast",
    )
    num_samples: int = option(
        256, "Samples of --data for the ranking, and to calibrate with where there is no table.", group=DATA
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, ["num_samples"], OptionError)


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SensitivityOptions, TimedBuildOptions):
    """Options of `tune`.

    Attributes:
        objective: what decides which tensors go back to INT8 first, among those that keep the budget: "work" (the
            multiply-adds behind them), or "latency" (the time, measured with TensorRT on this machine's GPU; what
            INT8 does not clearly speed up stays in float).
        runs: folder where finished evaluations are kept, so that an interrupted search goes on; None keeps none.
        table_path: where the table is kept if there is none yet.
    """

    table: CalibrationTable | PathLike | None = option(
        None,
        "Calibration table.",
        form=PATH,
        unit="file",
        default_text="MODEL.calib.json next to the model if it fits, else a new one next to the plan",
    )
    formats: Sequence[str] = option(
        ("int8",),
        "Formats that a tensor may have: int8, or int8,fp8: what INT8 damages is tried in FP8 before float.",
        form=NAMES,
        unit="names",
    )
    max_drop: str = option("0.5pt", "Maximum drop of the score below FP32's: 0.5pt (or 0.5) in points, 1% relative.")
    objective: Literal["work", "latency"] = option(
        "work",
        "Cost of a tensor in float. work: its multiply-adds; latency: time, measured with TensorRT on this GPU.",
    )
    num_val_samples: int | None = option(None, "Number of validation samples.", group=DATA, default_text="all")
    batch_size: int = option(32, "Samples per batch when measuring accuracy.", group=DATA)
    runs: PathLike | None = None
    table_path: PathLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        TimedBuildOptions.__post_init__(self)
        check_choices(self, OptionError)
        check_minimum(self, 1, ("num_val_samples", "batch_size"), OptionError)
        if sorted(name.lower() for name in self.formats) not in (["int8"], ["fp8", "int8"]):
            raise OptionError(f"--formats {','.join(self.formats)}: choose int8, or int8,fp8")

    @property
    def tries_others(self) -> bool:
        """Whether a tensor may have another format than INT8."""
        return "fp8" in {name.lower() for name in self.formats}


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(PreprocessOptions):
    """Options of `verify_cache`.

    Attributes:
        old_model: the model that the cache was made for, where names changed: the mapping comes from both graphs.
    """

    data: PathLike | None = option(None, "Data to check the ranges on, as for calibrate.", form=DATA_PATH, unit="path")
    tensorrt_version: str | None = option(
        None,
        "TensorRT version that would load the file.",
        default_text="the installed one",
    )
    old_model: PathLike | None = option(
        None, "Model that the ranges were made for, if tensors were renamed since.", form=PATH, unit="file"
    )
    max_clipped: float = option(0.05, "Maximum tolerated fraction of clipped values per tensor (0-1).")
    num_samples: int = option(128, "Number of samples.", group=DATA)

    def __post_init__(self) -> None:
        if not 0 <= self.max_clipped <= 1:
            raise CalibrationError(f"--max-clipped {self.max_clipped} must be a fraction from 0 to 1")
        check_minimum(self, 1, ["num_samples"], OptionError)


def _read_percentiles(text: str) -> tuple[float, ...]:
    numbers = _parse_numbers(text)
    if not numbers or not all(0 < number <= 100 for number in numbers):
        raise ValueError(f"invalid percentiles {text!r}, expected numbers above 0 up to 100, e.g. 90,95,99")
    return numbers


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How models are timed without data; names and defaults are trtexec's.

    Attributes:
        shapes: of the inputs, as trtexec takes them; None completes the model's own with `batch_size`.
        progress: show a progress bar on a terminal.
    """

    shapes: str | None = option(
        None, "Shapes of the inputs, e.g. input:8x3x224x224,mask:8x1.", unit="shapes", default_text="the model's"
    )
    batch_size: int = option(1, "Size of a dynamic first dimension.")
    warm_up_ms: int = option(200, "Duration of untimed calls before the measurement, in milliseconds.")
    duration: float = option(3.0, "Minimum measurement time of each model.", unit="seconds")
    iterations: int = option(10, "Minimum number of timed calls of each model.")
    percentile: tuple[float, ...] = option(
        (90.0, 95.0, 99.0),
        "Percentiles to report.",
        form=TextForm(_read_percentiles, lambda values: ",".join(f"{value:g}" for value in values)),
        unit="list",
    )
    threads: int = option(0, "ONNX Runtime intra-op threads (0: automatic).")
    progress: bool = True

    def __post_init__(self) -> None:
        check_minimum(self, 1, ["batch_size", "iterations"], EvaluationError)
        check_minimum(self, 0, ["warm_up_ms", "duration", "threads"], EvaluationError)
        _check_threads(self.threads)


def _check_threads(threads: int) -> None:
    """Refuses what ONNX Runtime would make a thread each of, or could not read."""
    if threads > _MOST_THREADS:
        raise EvaluationError(f"--threads {threads} must be at most {_MOST_THREADS}")


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """What is printed beside results, and where."""

    quiet: bool = option(
        False,
        "Print only errors, warnings, verdicts and the paths of what was written.",
        group=MESSAGES,
        flag="--quiet,-q",
    )
    verbose: bool = option(
        False, "Also print durations, what was loaded and TensorRT's own messages.", group=MESSAGES, flag="--verbose,-v"
    )
    log_file: Path | None = option(None, "Append all messages, with time, to this file.", group=MESSAGES, unit="file")
