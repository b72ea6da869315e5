"""The commands `calibrate` and `quantize`: from images and a model to a table, a cache and an INT8 model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.formats.tensorrt_cache import library_version
from quantkit.caches.table_choice import find_table_of
from quantkit.calibration.table import load_table
from quantkit.cli.arguments import PARSES_DATA, DataOption, ModelArgument
from quantkit.cli.forecast import RunOptions, print_forecast
from quantkit.cli.generate import with_options
from quantkit.cli.output import make_printer, output_path, print_calibration, print_quantized
from quantkit.commands.calibrate import calibrate as calibrate_model
from quantkit.commands.fixed_inputs import fix_inputs
from quantkit.commands.forecasts import forecast_calibration
from quantkit.commands.format_rounding import check_rounds, is_rounded
from quantkit.commands.quantize import check_quantizable, write_tensorrt_cache
from quantkit.commands.quantize import quantize as quantize_model
from quantkit.commands.table_forecasts import forecast_quantization
from quantkit.errors import IncompleteCacheError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice
from quantkit.storage import check_no_source, check_writable, exclusive
from quantkit.types import PathLike
from quantkit.types.options import CalibrationOptions, ImageOptions, QuantizeOptions


@with_options
def calibrate(
    model: ModelArgument,
    data: DataOption,
    options: CalibrationOptions,
    quantization: QuantizeOptions,
    messages: RunOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder, INT8 model (.onnx) or table (.json) to write (default: next to the model).",
        ),
    ] = None,
    tensorrt_version: Annotated[
        str | None,
        typer.Option(
            "--tensorrt-version",
            help="TensorRT version that will load the calibration cache. TensorRT ignores caches of other versions.",
            rich_help_panel="Expert",
        ),
    ] = None,
) -> None:
    """Calibrate a model on images: writes a calibration table, a TensorRT cache and the INT8 model.

    Writes MODEL.calib.json (the calibration table: records its model, data and settings, and is reused), MODEL.calib
    (TensorRT's calibration cache) and MODEL.int8.onnx (with Q/DQ, for TensorRT 8.6 to 11, TensorRT-RTX and ONNX
    Runtime), or the model in another --format.
    """
    beside = CalibrationFiles.of_model(model).quantized_model(quantization.target, quantization.format)
    quantized_path = output_path(output, beside, ".json", data=[data])
    folder = quantized_path.parent
    if quantized_path.suffix == ".json":
        files = CalibrationFiles(quantized_path)
        quantized_path = files.quantized_model(quantization.target, quantization.format)
    else:
        files = CalibrationFiles.of_model(model, folder)
    outputs = (files.table, files.refinement, files.rounding(quantization.format), files.tensorrt_cache, quantized_path)
    if tensorrt_version is not None:
        library_version(tensorrt_version)
    opened = fix_inputs(FloatModel(model), options.preprocess)
    check_quantizable(opened, quantization)
    for path in outputs:
        check_no_source(path, (*opened.source_files, data))
    options = replace(
        options,
        table_path=files.table,
        cache_path=files.tensorrt_cache,
        engine_path=files.engine,
        exclude=quantization.exclude,
        rounding=quantization.rounding,
        progress=not messages.quiet,
    )
    if messages.dry_run:
        written = [path for path in outputs if path not in _never_written(files, quantization)]
        print_forecast(forecast_calibration(opened, data, options, written), as_json=messages.as_json)
        return
    check_writable(*outputs, *([files.statistics] if options.keep_statistics else []))
    notify = make_printer(messages.quiet)
    waiting = Notice("info", "lock", f"Waiting for another run that writes to {folder}.")
    with exclusive(files.lock, on_wait=lambda: notify(waiting)):
        before = _times(outputs)
        table = calibrate_model(opened, data, options, notify=notify)
        if quantization.format != "int8":
            text = f"{files.tensorrt_cache.name} is not written: a calibration cache is for implicit INT8, and "
            notify(Notice("info", "ranges", f"{text}{quantization.format.upper()} is always explicit (Q/DQ)."))
            if _times([files.table]).items() - before.items():  # a cache that is there is of an earlier table
                files.tensorrt_cache.unlink(missing_ok=True)
        elif table.settings.get("calibrator", "quantkit") == "quantkit" or not files.tensorrt_cache.exists():
            try:
                write_tensorrt_cache(opened, table, files.tensorrt_cache, tensorrt_version=tensorrt_version)
            except IncompleteCacheError as error:
                notify(Notice("warning", "ranges", f"{files.tensorrt_cache.name} is not written: {error}."))
                files.tensorrt_cache.unlink(missing_ok=True)
        samples = _to_round_on(opened, files, data, options, quantization)
        made_of = table if quantization.scheme.is_plain else files.table  # what is rounded is kept beside it
        quantized = quantize_model(opened, made_of, quantized_path, quantization, notify=notify, **samples)
        kept = {path for path, time in _times(outputs).items() if before.get(path) == time}
    shown = {"quiet": messages.quiet, "as_json": messages.as_json}
    print_calibration(opened, table, quantized, quantization, files=files, kept=kept, **shown)


def _to_round_on(
    model: FloatModel,
    files: CalibrationFiles,
    data: PathLike,
    options: CalibrationOptions,
    quantization: QuantizeOptions,
) -> dict[str, Any]:
    """The data, unless calibration rounded all weights or their rounding for this format was kept."""
    if quantization.scheme.is_plain or quantization.rounding == "nearest":
        return {}
    if not options.force and is_rounded(model, load_table(files.table), quantization):
        return {}
    return {"data": data, "preprocess": options.preprocess if isinstance(options.preprocess, ImageOptions) else None}


def _never_written(files: CalibrationFiles, quantization: QuantizeOptions) -> set[Path]:
    """What a calibration for this format has no use for."""
    cache = {files.tensorrt_cache} if quantization.format != "int8" else set()
    return cache | ({files.rounding(quantization.format)} if quantization.rounding == "nearest" else set())


def _times(files: Iterable[Path]) -> dict[Path, int]:
    """When each was written, of those that are there."""
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


@with_options
def quantize(
    model: ModelArgument,
    options: QuantizeOptions,
    messages: RunOptions,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            help="Calibration table of this model (default: MODEL.calib.json next to model, plan or output).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Quantized model (.onnx) or folder (default: MODEL.FORMAT.onnx)."),
    ] = None,
    data: Annotated[
        os.PathLike[str] | None,
        typer.Option(
            "--data",
            help="For formats other than int8: images or arrays on which weights are rounded with error feedback. What "
            "is found is saved next to the table.",
            **PARSES_DATA,
        ),
    ] = None,
    list_float: Annotated[
        bool, typer.Option("--list-float", help="List every tensor that stays in float, with the reason.")
    ] = False,
) -> None:
    """Create a quantized model from an existing calibration table."""
    if data is not None:
        check_rounds(options)
    beside = CalibrationFiles.of_model(model).quantized_model(options.target, options.format)
    path = output_path(output, beside, data=[data])
    notify, opened = make_printer(messages.quiet), FloatModel(model)
    table = table or find_table_of(opened, options.plan, path, notify)
    if messages.dry_run:
        found = forecast_quantization(opened, table, path, options, data, notify)
        print_forecast(found, as_json=messages.as_json)
        return
    check_writable(path, *([] if data is None else [CalibrationFiles(table).rounding(options.format)]))
    quantized = quantize_model(opened, table, path, options, data=data, notify=notify)
    shown = {"list_float": list_float, "quiet": messages.quiet, "as_json": messages.as_json}
    print_quantized(opened, quantized, load_table(table), options, **shown)
