"""The command `build`: an engine for TensorRT or TensorRT-RTX, its options named as in trtexec and Polygraphy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.backends.tensorrt.build.build_options import BuildOptions, ShapeOptions
from quantkit.backends.tensorrt.build.profiles import parse_profiles
from quantkit.caches.files import CalibrationFiles
from quantkit.cli.arguments import ModelArgument
from quantkit.cli.as_json import echo_json
from quantkit.cli.forecast import RunOptions, print_forecast
from quantkit.cli.generate import with_options
from quantkit.cli.output import make_printer, megabytes, output_path
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.build import build as build_engine
from quantkit.commands.build_best import build_best
from quantkit.commands.planned_build import default_engine_path
from quantkit.commands.table_forecasts import forecast_build
from quantkit.errors import BackendError
from quantkit.notices import Notice
from quantkit.types import SCHEMES
from quantkit.types.options import EngineOptions, TimedBuildOptions

if TYPE_CHECKING:
    from quantkit.commands.build import BuiltEngine
    from quantkit.commands.build_best import BestEngine


@with_options
def build(
    model: ModelArgument,
    engine: EngineOptions,
    shapes: ShapeOptions,
    options: BuildOptions,
    messages: RunOptions,
    search: TimedBuildOptions | None = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Engine or folder (default: MODEL.PRECISION.engine next to the model)."),
    ] = None,
) -> None:
    """Build an engine for TensorRT 8.6 to 11, or for TensorRT-RTX, which needs no GPU to build.

    Writes MODEL.PRECISION.engine and a manifest (.json) next to it. An up-to-date engine is reused.

    --precision best builds FP16, INT8 and INT8 with operators in float, times them in turns on this machine's GPU, and
    keeps INT8 where it is at least 1.02 times as fast and the table's plan keeps its budget.
    """
    notify = make_printer(messages.quiet)
    if output is not None:
        output = output_path(output, default_engine_path(model, engine.precision), ".plan", ".trt")
    options = replace(options, profiles=parse_profiles(shapes.min_shapes, shapes.opt_shapes, shapes.max_shapes))
    beside = CalibrationFiles.of_model(model).table
    table = engine.table
    from_table = engine.precision in (*SCHEMES, "best") or (engine.precision == "fp16" and engine.data is None)
    if from_table and table is None and engine.calibration_cache is None and beside.is_file():
        notify(Notice("info", "ranges", f"calibration: {beside}"))
        table = beside
    engine = replace(engine, table=table, verbose=messages.verbose, progress=not messages.quiet)
    if engine.precision != "best" and search is not None:
        raise BackendError("--max-builds and --latency-s are for --precision best")
    if messages.dry_run:
        print_forecast(forecast_build(model, options, engine, output), as_json=messages.as_json)
        return
    if engine.precision == "best":
        best = build_best(model, options, engine=engine, search=search, output=output, notify=notify)
        if messages.as_json:
            echo_json(best)
        elif not messages.quiet:
            _print_trials(best)
        built = best.built
    else:
        built = build_engine(model, options, engine=engine, output=output, notify=notify)
        if messages.as_json:
            echo_json(built)
    _print_engine(model, built, to_stderr=messages.as_json)


def _print_trials(best: BestEngine) -> None:
    """The engines that were tried, and the choice."""
    rows = [
        (
            trial.name,
            trial.in_float,
            megabytes(trial.size_bytes),
            f"{trial.compute_ms:.4g}",
            f"{trial.speedup:.3f}x",
            "" if trial.interval is None else f"{trial.interval[0]:.3f} to {trial.interval[1]:.3f}",
            "chosen" if trial.name == best.chosen else "",
        )
        for trial in best.trials
    ]
    headings = ("engine", "in float", "size", "ms", "speed-up", "95% interval", "")
    console = make_console()
    print_table(console, headings, rows, right=(2, 3, 4))
    print_line(console, best.reason)


def _print_engine(model: Path, built: BuiltEngine, *, to_stderr: bool) -> None:
    """What the engine is, and the paths."""
    manifest = built.manifest
    rows = [("built with", f"{manifest.library} {manifest.library_version}"), ("precision", _precision(built))]
    if "targets" in manifest.options:
        rows.append(("for", ", ".join(manifest.options["targets"])))
    elif manifest.gpu is not None or manifest.library == "tensorrt-rtx":
        rows.append(("for", manifest.gpu or "sm80 and newer"))
    for profile in manifest.options.get("profiles", []):
        rows += [(f"shapes of {name}", shape) for name, shape in profile.items()]
    rows.append(("size", f"{megabytes(model.stat().st_size)} ONNX → {megabytes(manifest.engine_size_bytes)} engine"))
    for label, value in rows:
        typer.echo(f"  {label:24}{value}", err=to_stderr)
    word = "kept " if built.reused else "wrote"
    typer.echo(f"{word} {built.path}  engine", err=to_stderr)
    typer.echo(f"{word} {built.manifest_path}  manifest", err=to_stderr)


def _precision(built: BuiltEngine) -> str:
    manifest = built.manifest
    if manifest.precision not in SCHEMES:
        return manifest.precision
    beside = "" if manifest.high_precision is None else f", other layers {manifest.high_precision}"
    count = "" if built.num_quantized is None else f", {built.num_quantized} operators"
    return f"{manifest.precision} ({manifest.mode}{count}{beside})"
