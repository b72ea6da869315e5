"""The command line: parses, calls the pipeline, prints. No quantization logic, and no heavy import before a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quantkit._version import __version__
from quantkit.cli.building import build
from quantkit.cli.inspection import doctor, inspect
from quantkit.cli.options import (
    DATA_PANEL,
    ClassesOption,
    ColorOption,
    DataOption,
    ExcludeOption,
    InterpolationOption,
    LayoutOption,
    MeanOption,
    MethodName,
    ModelArgument,
    PadOption,
    PresetOption,
    QuietOption,
    ReduceRangeOption,
    ResizeOption,
    ScaleOption,
    SeedOption,
    ShorterSideOption,
    SizeOption,
    StdOption,
    StrictOption,
    WorkersOption,
    image_options,
    parse_variants,
    read_classes,
)
from quantkit.cli.output import print_calibration, print_quantized
from quantkit.cli.text import visible
from quantkit.errors import QuantKitError
from quantkit.pipeline import CalibratorName, HighPrecision, Order, Target, Tell
from quantkit.types import HistogramRule

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantkit",
    help="INT8 post-training quantization for TensorRT and ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda word: word.replace("_", "-"),
    },
)


_INTERRUPTED = 130
_SUFFIXES = {"tensorrt": "int8", "cpu": "int8-cpu"}


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
    method: Annotated[MethodName, typer.Option("--method", help="How a tensor's range is chosen.")] = "entropy",
    percentile: Annotated[
        float | None, typer.Option("--percentile", help="For that method, in percent (default: 99.99).")
    ] = None,
    histogram: Annotated[
        HistogramRule,
        typer.Option("--histogram", help="exact: same result for any order and split; tensorrt: TensorRT's own rule."),
    ] = "exact",
    all_tensors: Annotated[
        bool, typer.Option("--all-tensors", help="Every activation, as TensorRT's implicit INT8 (up to 10) wants.")
    ] = False,
    exclude: ExcludeOption = None,
    target: Annotated[
        Target, typer.Option("--target", help="Whom the INT8 model is for; cpu: ONNX Runtime on x86.")
    ] = "tensorrt",
    high_precision: Annotated[HighPrecision, typer.Option("--high-precision", help="Of what stays in float.")] = "fp32",
    reduce_range: ReduceRangeOption = None,
    tensorrt_version: Annotated[
        str | None,
        typer.Option("--tensorrt-version", help="That will read the calibration cache: it ignores any other's."),
    ] = None,
    calibrator: Annotated[
        CalibratorName,
        typer.Option("--calibrator", help="auto: TensorRT's own (8.6 to 10, with a GPU), which builds the engine too."),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Calibrate even if the table that is there fits.")] = False,
    reuse_only: Annotated[
        bool, typer.Option("--reuse-only", help="Fail (exit 4) if the table that is there does not fit.")
    ] = False,
    num_samples: Annotated[
        int, typer.Option("--num-samples", help="Samples, evenly over the classes.", rich_help_panel=DATA_PANEL)
    ] = 512,
    seed: SeedOption = 0,
    order: Annotated[Order, typer.Option("--order", help="Of the samples.", rich_help_panel=DATA_PANEL)] = "shuffled",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Samples run at once (default: by memory).", rich_help_panel=DATA_PANEL),
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
    if folder.suffix in (".onnx", ".json", ".calib") and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is the name of a file: give a folder", param_hint="--output")
    table_path, cache_path = folder / f"{model.stem}.calib.json", folder / f"{model.stem}.calib"
    int8_path = folder / f"{model.stem}.{'int8' if target == 'tensorrt' else 'int8-cpu'}.onnx"
    images = image_options(
        preprocess, size, color, resize, shorter_side, interpolation, pad_value, scale, mean, std, layout
    )
    if tensorrt_version is not None:
        library_version(tensorrt_version)
    pipeline.check_quantizable(model, exclude=exclude or (), target=target, high_precision=high_precision)
    check_writable(folder)
    say = _printer(quiet)
    table = pipeline.calibrate(
        model,
        data,
        table_path=table_path,
        method=method,
        percentile=percentile,
        histogram=histogram,
        num_samples=num_samples,
        seed=seed,
        order=order,
        batch_size=batch_size,
        preprocessing=images,
        classes=read_classes(classes),
        all_tensors=all_tensors,
        strict=strict,
        force=force,
        reuse_only=reuse_only,
        calibrator=calibrator,
        cache_path=cache_path,
        engine_path=folder / f"{model.stem}.int8.engine",
        workers=workers,
        progress=not quiet,
        tell=say,
    )
    if table.settings["calibrator"] == "quantkit" or not cache_path.exists():
        pipeline.write_tensorrt_cache(model, table, cache_path, tensorrt_version=tensorrt_version)
    quantized = pipeline.quantize(
        model,
        table,
        int8_path,
        target=target,
        high_precision=high_precision,
        exclude=exclude or (),
        reduce_range=reduce_range,
        tell=say,
    )
    print_calibration(model, table, quantized, cache_path=cache_path, table_path=table_path)


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
        Target, typer.Option("--target", help="Whom the INT8 model is for; cpu: ONNX Runtime on x86.")
    ] = "tensorrt",
    high_precision: Annotated[HighPrecision, typer.Option("--high-precision", help="Of what stays in float.")] = "fp32",
    exclude: ExcludeOption = None,
    reduce_range: ReduceRangeOption = None,
    list_float: Annotated[
        bool, typer.Option("--list-float", help="List every tensor that stays in float, with the reason.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Makes the INT8 model again from a calibration table alone: no data needed."""
    from quantkit import pipeline

    path = output or model.with_name(f"{model.stem}.{_SUFFIXES[target]}.onnx")
    quantized = pipeline.quantize(
        model,
        table,
        path,
        target=target,
        high_precision=high_precision,
        exclude=exclude or (),
        reduce_range=reduce_range,
        tell=_printer(quiet),
    )
    print_quantized(model, quantized, list_float=list_float)


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
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="A TensorRT engine to run and time on the GPU too: NAME=PATH. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the report (default: MODEL.report next to the model)."),
    ] = None,
    exclude: ExcludeOption = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="Samples (default: all).", rich_help_panel=DATA_PANEL)
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Samples run at once for accuracy.", rich_help_panel=DATA_PANEL)
    ] = 32,
    classes: ClassesOption = None,
    strict: StrictOption = False,
    workers: WorkersOption = None,
    latency_s: Annotated[float, typer.Option("--latency-s", help="Timed seconds per variant; 0 skips.")] = 3.0,
    latency_batch_size: Annotated[int, typer.Option("--latency-batch-size", help="Samples per timed call.")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="Of ONNX Runtime within a call; 0: it chooses.")] = 0,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay the engines from CUDA graphs.")] = False,
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

    images = image_options(
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
        models=parse_variants(variant or []),
        engines=parse_variants(engine or [], option="--engine"),
        num_samples=num_samples,
        seed=seed,
        batch_size=batch_size,
        preprocessing=images,
        classes=read_classes(classes),
        exclude=exclude or (),
        latency_s=latency_s,
        latency_batch_size=latency_batch_size,
        threads=threads,
        cuda_graph=cuda_graph,
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


app.command()(build)
app.command()(inspect)
app.command()(doctor)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. What quantkit raises on purpose is one line on stderr and its class's exit code."""
    try:
        app(args=arguments, prog_name="quantkit")
    except QuantKitError as error:
        typer.echo(f"quantkit: error: {visible(str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # what concerns a file of the user's is an OutputError by now
        typer.echo(f"quantkit: error: cannot print: {error.strerror or error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            raise
        typer.echo("quantkit: interrupted: files that were there are as they were", err=True)
        sys.exit(_INTERRUPTED)


def _printer(quiet: bool) -> Tell:
    """Prints a line to stderr; if quiet, warnings only."""

    def say(line: str) -> None:
        if not quiet or line.startswith("warning:"):
            typer.echo(visible(line), err=True)

    return say


def _find_table(model: Path, table: Path | None, say: Tell) -> Path | None:
    beside = model.with_name(f"{model.stem}.calib.json")
    if table is not None:
        return table
    if beside.is_file():
        say(f"calibration: {beside}")
        return beside
    say(f"no calibration table {beside}: INT8 is left out; run quantkit calibrate first, or give --table")
    return None
