"""From a table to a quantized model, and to TensorRT's cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu
from quantkit.backends.tensorrt.library import version_of_caches
from quantkit.caches.complete import check_complete, ranges_for_cache
from quantkit.caches.formats.tensorrt_cache import cache_text, library_version
from quantkit.calibration.methods import cache_algorithm
from quantkit.calibration.plan_file import apply_plan
from quantkit.calibration.table import TABLE_KEY, open_table, table_checksum
from quantkit.commands.extensions import with_extensions
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.commands.format_plan import plan_blocks, prepared_for
from quantkit.commands.format_rounding import check_rounds, keep_rounding
from quantkit.commands.quantized_graph import quantize_graph
from quantkit.errors import BackendError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import check_model, save_model, share_weights
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quantize_cpu import cpu_tensors
from quantkit.graph.share import float_weights, quantized_share
from quantkit.notices import Notice, Notify, accepts_tell, announcing, join_names
from quantkit.processor import products_saturate
from quantkit.storage import check_no_source, write_text
from quantkit.types import (
    CalibrationTable,
    PathLike,
    QuantizedModel,
)
from quantkit.types.option import make_options
from quantkit.types.options import ImageOptions, QuantizeOptions

if TYPE_CHECKING:
    import onnx_ir as ir

_WORTH_FP16_BYTES = 1_000_000
"""From so many bytes of FP32 weights on, FP16 is suggested."""


@accepts_tell
def quantize(
    model: PathLike | FloatModel,
    table: CalibrationTable | PathLike,
    output: PathLike,
    options: QuantizeOptions | None = None,
    *,
    data: PathLike | None = None,
    preprocess: ImageOptions | None = None,
    notify: Notify | None = None,
    **keywords: Any,
) -> QuantizedModel:
    """Writes the quantized model: `model` with Q/DQ and quantized weights, from the table alone.

    Args:
        model: the ONNX model that the table was made from.
        table: a calibration table, or its path. Rounded weights (MODEL.calib.weights) are taken from beside it.
        output: path of the quantized model.
        options: settings; None takes the defaults of `QuantizeOptions`.
        data: samples on which the weights of another format than INT8 are rounded with error feedback; kept beside the
            table where that is a path. Without, those that are kept are taken, and others rounded to nearest.
        preprocess: of images in `data`; None as for the table.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `QuantizeOptions`, instead of those in `options`.

    Returns:
        Where it is, and what stayed in float, with the reason.

    Raises:
        StaleTableError: the table belongs to another model.
        ModelError: no node can be quantized, an exclusion matches nothing, or `data` would round nothing.
    """
    options = make_options(QuantizeOptions, options, keywords)
    if data is not None and not options.scheme.is_plain:
        check_rounds(options)
    with with_extensions(options):
        return _quantize(FloatModel.open(model), table, output, options, data, preprocess, announcing(notify))


def _quantize(
    model: FloatModel,
    table: CalibrationTable | PathLike,
    output: PathLike,
    options: QuantizeOptions,
    data: PathLike | None,
    preprocess: ImageOptions | None,
    notify: Notify,
) -> QuantizedModel:
    table_given, table = table, open_table(table)
    model = fix_as_calibrated(model, table)
    if options.reduce_range is None and options.target == "cpu" and products_saturate():
        options = replace(options, reduce_range=True)
        text = "Weights use 7 to 8 bits, so that no sum saturates: this CPU lacks VNNI. Pass --no-reduce-range for 8."
        notify(Notice("info", "weights", text))
    if data is not None and not options.scheme.is_plain:
        table = keep_rounding(model, table_given, options, data, preprocess, notify)
    planned = apply_plan(table, options.plan)
    graph, plan = quantize_graph(model, planned, options, notify)
    graph.metadata_props[TABLE_KEY] = table_checksum(table)
    _check_valid(graph, Path(output).name, model, notify)
    given = () if isinstance(table_given, CalibrationTable) else (table_given,)
    check_no_source(output, (*model.source_files, *given))
    model.check_unchanged()
    written = save_model(graph, output)
    share = quantized_share(model.prepared(), plan)
    size = sum(path.stat().st_size for path in written)
    if options.target == "tensorrt":
        _suggest_fp16(float_weights(graph), size, notify)
    if excluded := [name for name in plan.skipped if name in plan.excluded]:
        notify(Notice("info", "excluded", f"Excluded from quantization: {join_names(excluded)}"))
    return QuantizedModel(
        path=Path(output),
        num_quantized=share.num_quantized,
        num_weighted=share.num_products,
        skipped=plan.skipped,
        size_bytes=size,
        weight_share=share.of_weights,
        work_share=share.of_work,
        format=options.format,
    )


def _suggest_fp16(weights: Mapping[str, int], size: int, notify: Notify) -> None:
    """Names what stays FP32 by its size, where FP16 around INT8 would make the file a third smaller."""
    total = sum(weights.values())
    if total < _WORTH_FP16_BYTES or total < size * 2 / 3:
        return
    named = join_names([f"{name} ({count / 1e6:.1f} MB)" for name, count in weights.items() if count >= 0.01 * total])
    what = f"{total / 1e6:.1f} of {size / 1e6:.1f} MB are FP32 weights"
    text = f"{what}: quantize --high-precision fp16 halves them: {named}"
    notify(Notice("info", "weights", text))


def _check_valid(graph: ir.Model, name: str, model: FloatModel, notify: Notify) -> None:
    """Refuses a quantized model that is not valid, unless the float model is not valid either, and both run."""
    graph.graph.name = graph.graph.name or "main_graph"
    try:
        return check_model(graph, name)
    except ModelError as error:
        broken = error
    try:
        check_model(model.graph, model.path.name)
    except ModelError as error:
        try:
            with using_gpu(None):
                OnnxRuntimeRunner(share_weights(graph), name=name).close()
        except BackendError:
            raise error from None
        notify(Notice("warning", "model", f"{error}; {name} neither: ONNX Runtime runs them, other tools may not"))
        return None
    raise broken


def write_tensorrt_cache(
    model: PathLike | FloatModel, table: CalibrationTable, output: PathLike, *, tensorrt_version: str | None = None
) -> Path:
    """Writes the table as TensorRT's calibration cache: every activation, with inherited ranges filled in.

    Args:
        model: the model that the table was made from.
        table: its calibration.
        output: where to.
        tensorrt_version: of the library that will read it; None as in `version_of_caches`.

    Returns:
        `output`.

    Raises:
        IncompleteCacheError: activations have no range.
    """
    graph = prepared_for(fix_as_calibrated(FloatModel.open(model), table), table)
    version, algorithm = version_of_caches(tensorrt_version), cache_algorithm(table.method)
    known = {name: r.amax for name, r in table.tensors.items()}
    amax = ranges_for_cache(graph, known, version=library_version(version), always_zero=table.always_zero)
    check_complete(graph, amax, table.skipped)
    write_text(output, cache_text(amax, tensorrt_version=version, algorithm=algorithm))
    return Path(output)


def check_quantizable(model: PathLike | FloatModel, options: QuantizeOptions) -> None:
    """Raises now what `quantize` would raise after minutes of calibration: a wrong model or exclusions."""
    model = FloatModel.open(model)
    model.check_float()
    graph = model.prepared()
    fmt = options.scheme.activations
    if options.target == "cpu":
        cpu_tensors(graph, exclude=options.exclude, name=model.name)
    elif fmt is not None:
        plan_tensorrt(graph, exclude=options.exclude, quantize_all=options.quantize_all, fmt=fmt)
    else:
        plan_blocks(graph, options, model.name)
