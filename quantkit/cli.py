"""The command line: parses, calls the pipeline, prints. No quantization logic, and no heavy import before a command runs."""

from __future__ import annotations

import sys
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from quantkit._version import __version__
from quantkit.errors import QuantKitError

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantkit",
    help="INT8 post-training quantization for TensorRT and ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": lambda word: word.replace("_", "-")},
)

_DATA = "Data"
_IMAGES = "Images"
_SHOWN_REASONS = 8


class _Method(str, Enum):
    entropy = "entropy"
    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"


class _Histogram(str, Enum):
    exact = "exact"
    tensorrt = "tensorrt"


class _Order(str, Enum):
    shuffled = "shuffled"
    given = "given"


class _Target(str, Enum):
    tensorrt = "tensorrt"
    cpu = "cpu"


class _HighPrecision(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"


class _Color(str, Enum):
    rgb = "RGB"
    bgr = "BGR"
    grey = "L"


class _Resize(str, Enum):
    stretch = "stretch"
    crop = "crop"
    letterbox = "letterbox"


class _Interpolation(str, Enum):
    nearest = "nearest"
    box = "box"
    bilinear = "bilinear"
    hamming = "hamming"
    bicubic = "bicubic"
    lanczos = "lanczos"


class _Layout(str, Enum):
    nchw = "NCHW"
    nhwc = "NHWC"


ModelArgument = Annotated[Path, typer.Argument(help="ONNX model in FP32, opset 11 to 24.", show_default=False)]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder of images (sub-folders are classes), list of images (.txt, .csv, .jsonl), or arrays (.npy, .npz).",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the choice of samples.", rich_help_panel=_DATA)]
ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes", help="Text file with the class names in the order of the model's outputs.", rich_help_panel=_DATA
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Fail on an unreadable image instead of leaving it out.", rich_help_panel=_DATA)
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Decoding threads (default: CPUs).", rich_help_panel=_DATA)
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="Preset: imagenet (default for 3 channels), unit (0 to 1; default for 1 channel), yolo, tf, clip, caffe, none.",
        rich_help_panel=_IMAGES,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size", help="Height x width, such as 224 or 480x640 (default: the model's input).", rich_help_panel=_IMAGES
    ),
]
ColorOption = Annotated[_Color | None, typer.Option("--color", help="Channel order.", rich_help_panel=_IMAGES)]
ResizeOption = Annotated[
    _Resize | None,
    typer.Option(
        "--resize", help="How an image gets to that size; crop: shorter side, then centre.", rich_help_panel=_IMAGES
    ),
]
ShorterSideOption = Annotated[
    int | None, typer.Option("--shorter-side", help="Pixels before the crop.", rich_help_panel=_IMAGES)
]
InterpolationOption = Annotated[
    _Interpolation | None, typer.Option("--interpolation", help="Pillow's filter.", rich_help_panel=_IMAGES)
]
PadOption = Annotated[
    int | None, typer.Option("--pad-value", help="0 to 255, for letterbox.", rich_help_panel=_IMAGES)
]
ScaleOption = Annotated[
    str | None, typer.Option("--scale", help="Factor on pixels 0 to 255, such as 1/255.", rich_help_panel=_IMAGES)
]
MeanOption = Annotated[
    str | None,
    typer.Option("--mean", help="Subtracted after scaling: one number, or one per channel: 0.5,0.5,0.5.", rich_help_panel=_IMAGES),
]
StdOption = Annotated[str | None, typer.Option("--std", help="Divisor, likewise.", rich_help_panel=_IMAGES)]
LayoutOption = Annotated[
    _Layout | None, typer.Option("--layout", help="Default: from the model's input.", rich_help_panel=_IMAGES)
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Node name, pattern (*), or operator type to leave in float. Repeatable."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and results.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"quantkit {__version__}")
        raise typer.Exit


@app.command()
def calibrate(
    model: ModelArgument,
    data: DataOption,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for what is written (default: next to the model).")
    ] = None,
    method: Annotated[_Method, typer.Option("--method", help="How a tensor's range is chosen.")] = _Method.entropy,
    percentile: Annotated[
        float | None, typer.Option("--percentile", help="For that method, in percent (default: 99.99).")
    ] = None,
    histogram: Annotated[
        _Histogram,
        typer.Option("--histogram", help="exact: same result for any order and split; tensorrt: TensorRT's own rule."),
    ] = _Histogram.exact,
    all_tensors: Annotated[
        bool, typer.Option("--all-tensors", help="Every activation, as TensorRT's implicit INT8 (up to 10) wants.")
    ] = False,
    exclude: ExcludeOption = None,
    target: Annotated[
        _Target, typer.Option("--target", help="Whom the INT8 model is for; cpu: ONNX Runtime on x86.")
    ] = _Target.tensorrt,
    high_precision: Annotated[
        _HighPrecision, typer.Option("--high-precision", help="Of what stays in float.")
    ] = _HighPrecision.fp32,
    tensorrt_version: Annotated[
        str | None,
        typer.Option("--tensorrt-version", help="That will read the calibration cache: it ignores any other's."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Calibrate even if the table that is there fits.")] = False,
    reuse_only: Annotated[
        bool, typer.Option("--reuse-only", help="Fail (exit 4) if the table that is there does not fit.")
    ] = False,
    num_samples: Annotated[
        int, typer.Option("--num-samples", help="Samples, evenly over the classes.", rich_help_panel=_DATA)
    ] = 512,
    seed: SeedOption = 0,
    order: Annotated[_Order, typer.Option("--order", help="Of the samples.", rich_help_panel=_DATA)] = _Order.shuffled,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Samples run at once (default: by memory).", rich_help_panel=_DATA)
    ] = None,
    classes: ClassesOption = None,
    strict: StrictOption = False,
    workers: WorkersOption = None,
    preprocess: PresetOption = None,
    size: SizeOption = None,
    color: ColorOption = None,
    resize: ResizeOption = None,
    shorter_side: ShorterSideOption = None,
    interpolation: InterpolationOption = None,
    pad_value: PadOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    layout: LayoutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turns images and a model into a calibration table, a TensorRT cache and an INT8 model.

    Writes MODEL.calib.json (the table: reusable, knows what it belongs to), MODEL.calib (TensorRT's calibration cache)
    and MODEL.int8.onnx (with Q/DQ, for TensorRT 8.6 to 11, TensorRT-RTX and ONNX Runtime).
    """
    from quantkit import pipeline
    from quantkit.calibration.tensorrt_cache import library_version
    from quantkit.storage import check_writable

    folder = output or model.parent
    table_path, cache_path = folder / f"{model.stem}.calib.json", folder / f"{model.stem}.calib"
    int8_path = folder / f"{model.stem}.{'int8' if target is _Target.tensorrt else 'int8-cpu'}.onnx"
    images = _image_options(
        preprocess, size, color, resize, shorter_side, interpolation, pad_value, scale, mean, std, layout
    )
    if tensorrt_version is not None:
        library_version(tensorrt_version)
    pipeline.check_quantizable(model, exclude=exclude or (), target=target.value, high_precision=high_precision.value)
    check_writable(folder)
    say = _printer(quiet)
    table = pipeline.calibrate(
        model,
        data,
        table_path=table_path,
        method=method.value,
        percentile=percentile,
        histogram=histogram.value,
        num_samples=num_samples,
        seed=seed,
        order=order.value,
        batch_size=batch_size,
        preprocessing=images,
        classes=_read_classes(classes),
        all_tensors=all_tensors,
        strict=strict,
        force=force,
        reuse_only=reuse_only,
        workers=workers,
        progress=not quiet,
        tell=say,
    )
    pipeline.write_tensorrt_cache(model, table, cache_path, tensorrt_version=tensorrt_version)
    quantized = pipeline.quantize(
        model,
        table,
        int8_path,
        target=target.value,
        high_precision=high_precision.value,
        exclude=exclude or (),
        tell=say,
    )
    _print_calibration(model, table, quantized, cache_path, table_path)


@app.command()
def quantize(
    model: ModelArgument,
    table: Annotated[
        Path, typer.Option("--table", help="Calibration table of this model (MODEL.calib.json).", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The INT8 model (default: MODEL.int8.onnx next to the model).")
    ] = None,
    target: Annotated[
        _Target, typer.Option("--target", help="Whom the INT8 model is for; cpu: ONNX Runtime on x86.")
    ] = _Target.tensorrt,
    high_precision: Annotated[
        _HighPrecision, typer.Option("--high-precision", help="Of what stays in float.")
    ] = _HighPrecision.fp32,
    exclude: ExcludeOption = None,
    list_float: Annotated[
        bool, typer.Option("--list-float", help="List every tensor that stays in float, with the reason.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Makes the INT8 model again from a calibration table alone: no data needed."""
    from quantkit import pipeline

    suffix = "int8" if target is _Target.tensorrt else "int8-cpu"
    path = output or model.with_name(f"{model.stem}.{suffix}.onnx")
    quantized = pipeline.quantize(
        model,
        table,
        path,
        target=target.value,
        high_precision=high_precision.value,
        exclude=exclude or (),
        tell=_printer(quiet),
    )
    _print_quantized(model, quantized, list_float=list_float)


@app.command()
def evaluate(
    model: ModelArgument,
    data: DataOption,
    table: Annotated[
        Path | None, typer.Option("--table", help="Calibration table (default: MODEL.calib.json next to the model).")
    ] = None,
    variants: Annotated[
        str | None, typer.Option("--variants", help="To make and compare: fp32,fp16,int8,int8-cpu (default: all).")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="A finished model to compare too: NAME=PATH. Repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the report (default: MODEL.report next to the model).")
    ] = None,
    exclude: ExcludeOption = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="Samples (default: all).", rich_help_panel=_DATA)
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Samples run at once for accuracy.", rich_help_panel=_DATA)
    ] = 32,
    classes: ClassesOption = None,
    strict: StrictOption = False,
    workers: WorkersOption = None,
    latency_s: Annotated[float, typer.Option("--latency-s", help="Timed seconds per variant; 0 skips.")] = 3.0,
    latency_batch_size: Annotated[int, typer.Option("--latency-batch-size", help="Samples per timed call.")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="Of ONNX Runtime within a call; 0: it chooses.")] = 0,
    preprocess: PresetOption = None,
    size: SizeOption = None,
    color: ColorOption = None,
    resize: ResizeOption = None,
    shorter_side: ShorterSideOption = None,
    interpolation: InterpolationOption = None,
    pad_value: PadOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    layout: LayoutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Shows FP32, FP16 and INT8 side by side: accuracy, agreement, latency, size, in one report.

    Images are prepared as for calibration unless options say otherwise. Writes report.html, report.md and report.json.
    """
    from rich.console import Console

    from quantkit import pipeline
    from quantkit.reporting import print_report, write_report
    from quantkit.storage import check_writable

    images = _image_options(
        preprocess, size, color, resize, shorter_side, interpolation, pad_value, scale, mean, std, layout
    )
    folder = output or model.with_name(f"{model.stem}.report")
    check_writable(folder)
    say = _printer(quiet)
    report = pipeline.evaluate(
        model,
        data,
        table=_find_table(model, table, say),
        variants=None if variants is None else [name.strip() for name in variants.split(",")],
        models=_parse_variants(variant or []),
        num_samples=num_samples,
        seed=seed,
        batch_size=batch_size,
        preprocessing=images,
        classes=_read_classes(classes),
        exclude=exclude or (),
        latency_s=latency_s,
        latency_batch_size=latency_batch_size,
        threads=threads,
        strict=strict,
        workers=workers,
        progress=not quiet,
        tell=say,
    )
    paths = write_report(report, folder)
    console = Console()
    print_report(report, console)
    for path in paths.values():
        typer.echo(f"wrote {path}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. An error that quantkit raises on purpose is one line on stderr and its class's exit code."""
    try:
        app(args=arguments, prog_name="quantkit")
    except QuantKitError as error:
        typer.echo(f"quantkit: error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("quantkit: interrupted: files that were there are as they were", err=True)
        sys.exit(130)


def _printer(quiet: bool) -> Any:
    return (lambda line: None) if quiet else (lambda line: typer.echo(line, err=True))


def _image_options(
    preset: str | None,
    size: str | None,
    color: _Color | None,
    resize: _Resize | None,
    shorter_side: int | None,
    interpolation: _Interpolation | None,
    pad_value: int | None,
    scale: str | None,
    mean: str | None,
    std: str | None,
    layout: _Layout | None,
) -> Any:
    """The options as given, or None where none was given."""
    from quantkit.pipeline import ImageOptions

    options = ImageOptions(
        preset=preset,
        size=_parse_size(size),
        color=color and color.value,
        resize=resize and resize.value,
        shorter_side=shorter_side,
        interpolation=interpolation and interpolation.value,
        pad_value=pad_value,
        scale=_parse_scale(scale),
        mean=_parse_numbers("--mean", mean),
        std=_parse_numbers("--std", std),
        layout=layout and layout.value,
    )
    return None if options == ImageOptions() else options


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is no size such as 224 or 480x640", param_hint="--size")
    return int(parts[0]), int(parts[-1])


def _parse_scale(text: str | None) -> float | None:
    if text is None:
        return None
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number such as 0.0039 or 1/255", param_hint="--scale") from None


def _parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number, nor numbers such as 0.5,0.5,0.5", param_hint=option) from None


def _read_classes(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}", param_hint="--classes") from None
    return [name for name in names if name]


def _parse_variants(words: list[str]) -> dict[str, Path]:
    models = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not name or not path:
            raise typer.BadParameter(f"{word!r} is not NAME=PATH", param_hint="--variant")
        models[name] = Path(path)
    return models


def _find_table(model: Path, table: Path | None, say: Any) -> Path | None:
    beside = model.with_name(f"{model.stem}.calib.json")
    if table is not None:
        return table
    if beside.is_file():
        say(f"calibration: {beside}")
        return beside
    say(f"no calibration table {beside}: INT8 is left out; run quantkit calibrate first, or give --table")
    return None


def _print_calibration(model: Path, table: Any, quantized: Any, cache_path: Path, table_path: Path) -> None:
    method = table.method if table.settings.get("percentile") is None else f"percentile {table.settings['percentile']}"
    rows = [
        ("samples", str(table.num_samples)),
        ("method", f"{method}, {table.settings['histogram']} histogram"),
        ("tensors with a range", str(len(table.tensors))),
    ]
    for label, value in rows + _quantized_rows(model, quantized):
        typer.echo(f"  {label:24}{value}")
    cache = cache_path.read_text(encoding="utf-8").partition("\n")[0]
    typer.echo(f"wrote {table_path}  calibration table")
    typer.echo(f"wrote {cache_path}  TensorRT calibration cache ({cache})")
    typer.echo(f"wrote {quantized.path}  INT8 model")


def _print_quantized(model: Path, quantized: Any, *, list_float: bool) -> None:
    for label, value in _quantized_rows(model, quantized):
        typer.echo(f"  {label:24}{value}")
    if list_float:
        for name, reason in quantized.skipped.items():
            typer.echo(f"  {name}: {reason}")
    else:
        counts = Counter(quantized.skipped.values()).most_common()
        for reason, count in counts[:_SHOWN_REASONS]:
            typer.echo(f"  {count:6} left in float: {reason}")
        if len(counts) > _SHOWN_REASONS:
            typer.echo(f"         and {sum(c for _, c in counts[_SHOWN_REASONS:])} more: --list-float names each")
    typer.echo(f"wrote {quantized.path}")


def _quantized_rows(model: Path, quantized: Any) -> list[tuple[str, str]]:
    from quantkit.graph.model import size_bytes

    before, after = size_bytes(model), size_bytes(quantized.path)
    return [
        ("operators in INT8", str(quantized.num_quantized)),
        ("model size", f"{_megabytes(before)} → {_megabytes(after)} ({before / after:.1f}x smaller)"),
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"
