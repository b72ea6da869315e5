"""From a table to a quantized model, and to TensorRT's cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.backends.tensorrt.library import version_of_caches
from quantkit.caches.complete import check_complete, ranges_for_cache
from quantkit.caches.formats.tensorrt_cache import cache_text, library_version
from quantkit.caches.reuse import check_table
from quantkit.calibration.methods import cache_algorithm
from quantkit.calibration.plan_file import apply_plan
from quantkit.calibration.table import TABLE_KEY, open_table, table_checksum
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import check_model, save_model
from quantkit.graph.passes.fp16 import FP16_OPSET, to_fp16
from quantkit.graph.passes.fp16_overflow import overflowing_nodes, tell_overflow
from quantkit.graph.placement.cost_rule import tell_unprofitable
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quantize_cpu import cpu_tensors, quantize_for_cpu
from quantkit.graph.quantize_tensorrt import insert_refined_qdq, plan_refined
from quantkit.graph.share import quantized_share
from quantkit.notices import Notice, Notify, accepts_tell, announcing, join_names
from quantkit.processor import products_saturate
from quantkit.storage import check_no_source, write_text
from quantkit.types import (
    INT8,
    OLDEST_QDQ_OPSET,
    CalibrationTable,
    PathLike,
    QdqPlan,
    QuantizedModel,
    Refinement,
)
from quantkit.types.option import make_options
from quantkit.types.options import HighPrecision, QuantizeOptions, Target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["HighPrecision", "Target", "check_quantizable", "quantize", "quantize_graph", "write_tensorrt_cache"]


@accepts_tell
def quantize(
    model: PathLike | FloatModel,
    table: CalibrationTable | PathLike,
    output: PathLike,
    options: QuantizeOptions | None = None,
    *,
    notify: Notify | None = None,
    **keywords: Any,
) -> QuantizedModel:
    """Writes the quantized model: `model` with Q/DQ and quantized weights, from the table alone.

    Args:
        model: the ONNX model that the table was made from.
        table: a calibration table, or its path. Rounded weights (MODEL.calib.weights) are taken from beside it.
        output: path of the quantized model.
        options: settings; None takes the defaults of `QuantizeOptions`.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `QuantizeOptions`, instead of those in `options`.

    Returns:
        Where it is, and what stayed in float, with the reason.

    Raises:
        StaleTableError: the table belongs to another model.
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    options = make_options(QuantizeOptions, options, keywords)
    notify = announcing(notify)
    table_given, table = table, open_table(table)
    model = fix_as_calibrated(FloatModel.open(model), table)
    if options.reduce_range is None and options.target == "cpu" and products_saturate():
        options = replace(options, reduce_range=True)
        text = "Weights use 7 to 8 bits, so that no sum saturates: this CPU lacks VNNI. Pass --no-reduce-range for 8."
        notify(Notice("info", "weights", text))
    needs_refinement = options.target == "tensorrt" and options.scheme.activations == INT8
    if needs_refinement and "rounding" in table.settings and table.refinement is None:
        text = "What calibrate found beyond ranges (MODEL.calib.weights) is not beside the table: weights are rounded "
        text += "to nearest, and the output is less accurate than the table says."
        notify(Notice("warning", "weights", text))
    graph, plan = quantize_graph(model, apply_plan(table, options.plan), options, notify)
    graph.metadata_props[TABLE_KEY] = table_checksum(table)
    check_model(graph, Path(output).name)
    given = () if isinstance(table_given, CalibrationTable) else (table_given,)
    check_no_source(output, (*model.source_files, *given))
    model.check_unchanged()
    written = save_model(graph, output)
    share = quantized_share(model.prepared(), plan)
    if excluded := [name for name in plan.skipped if name in plan.excluded]:
        notify(Notice("info", "excluded", f"Excluded from quantization: {join_names(excluded)}"))
    return QuantizedModel(
        path=Path(output),
        num_quantized=share.num_quantized,
        num_weighted=share.num_products,
        skipped=plan.skipped,
        size_bytes=sum(path.stat().st_size for path in written),
        weight_share=share.of_weights,
        work_share=share.of_work,
        format=options.format,
    )


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
    graph = _prepared(fix_as_calibrated(FloatModel.open(model), table), table)
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
    if options.target == "cpu":
        cpu_tensors(graph, exclude=options.exclude, name=model.name)
    else:
        plan_tensorrt(
            graph, exclude=options.exclude, quantize_all=options.quantize_all, fmt=options.scheme.activations or INT8
        )


def quantize_graph(
    model: FloatModel, table: CalibrationTable, options: QuantizeOptions, notify: Notify | None = None
) -> tuple[ir.Model, QdqPlan]:
    """The quantized graph and its plan. Without `reduce_range`, weights for the target "cpu" have 8 bits.

    Args:
        model: the float model.
        table: of that model.
        options: how.
        notify: hears what FP16 cannot hold.
    """
    half, scheme = options.float_precision == "fp16", options.scheme
    if options.target == "cpu":
        graph = _prepared(model, table)
        return quantize_for_cpu(
            graph,
            table.tensors,
            exclude=options.exclude,
            always_zero=table.always_zero,
            reduce_range=bool(options.reduce_range),
            name=model.name,
        )
    graph = _prepared(model, table, opset=max(FP16_OPSET if half else OLDEST_QDQ_OPSET, scheme.oldest_opset))
    table = table.for_scheme(scheme)
    refinement = table.refinement or Refinement()
    if options.rounding == "nearest":
        refinement = replace(refinement, weights={}, biases={})
    if not options.quantize_all:
        tell_unprofitable(graph, announcing(notify))
    plan = plan_refined(
        graph,
        table.tensors,
        refinement,
        exclude=options.exclude,
        in_float=table.in_float,
        quantize_all=options.quantize_all,
        fmt=scheme.activations or INT8,
    )
    insert_refined_qdq(graph, plan, refinement, fp16_scales=half)
    if half:
        seen = {**{name: r.amax for name, r in plan.ranges.items()}, **table.magnitudes}
        keep = overflowing_nodes(graph, seen)
        tell_overflow(keep, announcing(notify))
        to_fp16(graph, keep=keep)
    return graph, plan.qdq


def _prepared(model: FloatModel, table: CalibrationTable, *, opset: int = OLDEST_QDQ_OPSET) -> ir.Model:
    """The model of a table, prepared; refuses another one."""
    check_table(table, model)
    model.check_float()
    return model.prepared(opset)
