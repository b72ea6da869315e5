"""The command `build`: an engine for TensorRT or TensorRT-RTX, its options named as in trtexec and Polygraphy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.backends.tensorrt.build.build_options import BuildOptions, parse_size
from quantkit.backends.tensorrt.build.profiles import parse_profiles
from quantkit.caches.files import CalibrationFiles
from quantkit.cli.options import ExcludeOption, ModelArgument, QuietOption
from quantkit.cli.output import make_printer, megabytes
from quantkit.commands.build import build as build_engine
from quantkit.commands.quantize import HighPrecision
from quantkit.notices import Notice

if TYPE_CHECKING:
    from quantkit.commands.build import BuiltEngine

__all__ = ["build"]

_SHAPES = "Shapes"
_ENGINE = "Engine"
_PRECISION = "Precision"

_SHAPE_WORDS = "input:1x3x224x224 or input:[1,3,224,224], several inputs comma separated. Repeat for more profiles."


def build(
    model: ModelArgument,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"], typer.Option("--precision", help="Of the engine.", rich_help_panel=_PRECISION)
    ] = "fp32",
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            help="For INT8: calibration table (default: MODEL.calib.json next to the model).",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            "--calib",
            help="For implicit INT8, instead of a table: TensorRT's own calibration cache.",
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The engine (default: MODEL.PRECISION.engine next to the model)."),
    ] = None,
    library: Annotated[
        Literal["auto", "tensorrt", "rtx"],
        typer.Option("--library", help="auto: TensorRT if it is installed and no --target given, else TensorRT-RTX."),
    ] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="TensorRT-RTX: GPU to build for without having it: sm86, sm89, sm120. Repeatable or comma separated.",
        ),
    ] = None,
    mode: Annotated[
        Literal["auto", "implicit", "explicit"],
        typer.Option(
            "--mode",
            help="INT8 by Q/DQ in the model (explicit), or by ranges beside it (implicit, TensorRT up to 10).",
            rich_help_panel=_PRECISION,
        ),
    ] = "auto",
    high_precision: Annotated[
        HighPrecision | None,
        typer.Option("--high-precision", help="Of what stays in float (default: fp16).", rich_help_panel=_PRECISION),
    ] = None,
    exclude: ExcludeOption = None,
    precision_constraints: Annotated[
        Literal["obey", "prefer"],
        typer.Option(
            "--precision-constraints",
            help="Implicit INT8: fail, or go on, where an excluded layer cannot stay in float.",
            rich_help_panel=_PRECISION,
        ),
    ] = "obey",
    tf32: Annotated[
        bool | None,
        typer.Option(
            "--tf32/--no-tf32",
            help="FP32 products with 10 bits of mantissa (TensorRT's default: yes).",
            show_default=False,
            rich_help_panel=_PRECISION,
        ),
    ] = None,
    min_shapes: Annotated[
        list[str] | None, typer.Option("--min-shapes", help=f"Smallest: {_SHAPE_WORDS}", rich_help_panel=_SHAPES)
    ] = None,
    opt_shapes: Annotated[
        list[str] | None, typer.Option("--opt-shapes", help="What it is tuned for.", rich_help_panel=_SHAPES)
    ] = None,
    max_shapes: Annotated[
        list[str] | None, typer.Option("--max-shapes", help="Largest.", rich_help_panel=_SHAPES)
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", help="Most scratch memory: 512 (MiB), 512M, 4G.", rich_help_panel=_ENGINE),
    ] = None,
    builder_optimization_level: Annotated[
        int | None,
        typer.Option(
            "--builder-optimization-level", help="0: fast build, 5: fast engine (default: 3).", rich_help_panel=_ENGINE
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", help="File with measured kernels: read, and merged.", rich_help_panel=_ENGINE),
    ] = None,
    hardware_compatibility: Annotated[
        Literal["none", "ampere-plus", "same-compute-capability"],
        typer.Option("--hardware-compatibility", help="Other GPUs that must run it.", rich_help_panel=_ENGINE),
    ] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Later TensorRT of this major runs it.", rich_help_panel=_ENGINE),
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be replaced.", rich_help_panel=_ENGINE)] = False,
    strip_weights: Annotated[
        bool,
        typer.Option("--strip-weights", help="Without weights: refit before use.", rich_help_panel=_ENGINE),
    ] = False,
    dla_core: Annotated[int | None, typer.Option("--dla-core", help="Jetson's DLA.", rich_help_panel=_ENGINE)] = None,
    allow_gpu_fallback: Annotated[
        bool, typer.Option("--allow-gpu-fallback", help="What the DLA cannot, the GPU does.", rich_help_panel=_ENGINE)
    ] = False,
    sparsity: Annotated[
        bool, typer.Option("--sparsity", help="Use 2:4 sparse weights.", rich_help_panel=_ENGINE)
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even if the engine there is up to date.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print all that TensorRT says.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Builds an engine for TensorRT 8.6 to 11, or for TensorRT-RTX, which needs no GPU to build.

    Writes MODEL.PRECISION.engine and its manifest .json next to it. An engine that is up to date is reused.
    """
    notify = make_printer(quiet)
    options = BuildOptions(
        profiles=parse_profiles(min_shapes or (), opt_shapes or (), max_shapes or ()),
        workspace_bytes=None if workspace is None else parse_size(workspace),
        builder_optimization_level=builder_optimization_level,
        timing_cache=timing_cache,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        refit=refit,
        strip_weights=strip_weights,
        dla_core=dla_core,
        allow_gpu_fallback=allow_gpu_fallback,
        sparsity=sparsity,
        tf32=tf32,
        targets=tuple(word for words in target or () for word in words.split(",")),
        precision_constraints=precision_constraints,
    )
    beside = CalibrationFiles.of_model(model).table
    if precision == "int8" and table is None and calib is None and beside.is_file():
        notify(Notice("info", "ranges", f"calibration: {beside}"))
        table = beside
    built = build_engine(
        model,
        precision=precision,
        table=table,
        calibration_cache=calib,
        output=output,
        library=library,
        mode=mode,
        high_precision=high_precision,
        exclude=exclude or (),
        options=options,
        force=force,
        verbose=verbose,
        progress=not quiet,
        notify=notify,
    )
    _print_engine(model, built)


def _print_engine(model: Path, built: BuiltEngine) -> None:
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
        typer.echo(f"  {label:24}{value}")
    word = "kept " if built.reused else "wrote"
    typer.echo(f"{word} {built.path}  engine")
    typer.echo(f"{word} {built.manifest_path}  what it was made of")


def _precision(built: BuiltEngine) -> str:
    manifest = built.manifest
    if manifest.precision != "int8":
        return manifest.precision
    beside = "" if manifest.high_precision is None else f", {manifest.high_precision} beside it"
    count = "" if built.num_quantized is None else f", {built.num_quantized} operators"
    return f"int8 ({manifest.mode}{count}{beside})"
