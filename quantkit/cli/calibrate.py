"""The commands `calibrate` and `quantize`: from images and a model to a table, a cache and an INT8 model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from quantkit.backends.tensorrt.calibrators.choice import CalibratorName
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.formats.tensorrt_cache import library_version
from quantkit.cli.generate import with_options
from quantkit.cli.method_options import MethodChoice, with_method_options
from quantkit.cli.options import (
    DATA_PANEL,
    ClassesOption,
    DataOption,
    ExcludeOption,
    ModelArgument,
    QuietOption,
    ReduceRangeOption,
    SeedOption,
    StrictOption,
    WorkersOption,
    read_classes,
)
from quantkit.cli.output import make_printer, print_calibration, print_quantized
from quantkit.commands.calibrate import calibrate as calibrate_model
from quantkit.commands.quantize import HighPrecision, Target, check_quantizable, write_tensorrt_cache
from quantkit.commands.quantize import quantize as quantize_model
from quantkit.datasets.open import Order
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice
from quantkit.storage import check_writable, exclusive
from quantkit.types import HistogramRule
from quantkit.types.options import ImageOptions

__all__ = ["calibrate", "quantize"]


@with_options
@with_method_options
def calibrate(
    model: ModelArgument,
    data: DataOption,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for what is written (default: next to the model).")
    ] = None,
    method: MethodChoice = "entropy",
    method_options: Mapping[str, float | None] | None = None,
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
    keep_statistics: Annotated[
        bool,
        typer.Option("--keep-statistics", help="Leave MODEL.calib.stats: for another method, or to merge."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run from its last checkpoint.")
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
    images: ImageOptions | None = None,
    quiet: QuietOption = False,
) -> None:
    """Calibrate a model on images: writes a calibration table, a TensorRT cache and the INT8 model.

    Writes MODEL.calib.json (the table: reusable, knows what it belongs to), MODEL.calib (TensorRT's calibration cache)
    and MODEL.int8.onnx (with Q/DQ, for TensorRT 8.6 to 11, TensorRT-RTX and ONNX Runtime).
    """
    folder = output or model.parent
    if folder.suffix in (".onnx", ".json", ".calib") and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is the name of a file: give a folder", param_hint="--output")
    files = CalibrationFiles.of_model(model, folder)
    table_path, cache_path, int8_path = files.table, files.tensorrt_cache, files.quantized_model(target)
    if tensorrt_version is not None:
        library_version(tensorrt_version)
    opened = FloatModel(model)
    check_quantizable(
        opened, exclude=exclude or (), target=target, high_precision=high_precision, reduce_range=reduce_range
    )
    check_writable(folder, (table_path, cache_path, int8_path))
    notify = make_printer(quiet)
    with exclusive(
        files.lock,
        on_wait=lambda: notify(Notice("info", "lock", f"Waiting for another run that writes to {folder}.")),
    ):
        table = calibrate_model(
            opened,
            data,
            table_path=table_path,
            method=method,
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
            keep_statistics=keep_statistics,
            resume=resume,
            calibrator=calibrator,
            cache_path=cache_path,
            engine_path=files.engine,
            exclude=exclude or (),
            workers=workers,
            progress=not quiet,
            notify=notify,
            **(method_options or {}),
        )
        if table.settings.get("calibrator", "quantkit") == "quantkit" or not cache_path.exists():
            write_tensorrt_cache(opened, table, cache_path, tensorrt_version=tensorrt_version)
        quantized = quantize_model(
            opened,
            table,
            int8_path,
            target=target,
            high_precision=high_precision,
            exclude=exclude or (),
            reduce_range=reduce_range,
            notify=notify,
        )
    print_calibration(opened, table, quantized, cache_path=cache_path, table_path=table_path)


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
    """Create the INT8 model from an existing calibration table."""
    path = output or CalibrationFiles.of_model(model).quantized_model(target)
    opened = FloatModel(model)
    quantized = quantize_model(
        opened,
        table,
        path,
        target=target,
        high_precision=high_precision,
        exclude=exclude or (),
        reduce_range=reduce_range,
        notify=make_printer(quiet),
    )
    print_quantized(opened, quantized, list_float=list_float)
