"""From a table to an INT8 model, and to TensorRT's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.tensorrt.library import version_of_caches
from quantkit.caches.formats.tensorrt_cache import cache_text
from quantkit.caches.ranges import NOT_LISTED
from quantkit.calibration.methods import cache_algorithm
from quantkit.calibration.table import TABLE_KEY, open_table, table_checksum
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import check_model, save_model
from quantkit.graph.passes.fp16 import FP16_OPSET, to_fp16
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.graph.placement.tensorrt import exclude_tensors, plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.graph.quantize_cpu import cpu_tensors, quantize_for_cpu
from quantkit.notices import Notice, Notify, accepts_tell, announcing, join_names
from quantkit.processor import products_saturate
from quantkit.storage import check_no_source, write_text
from quantkit.types import OLDEST_QDQ_OPSET, CalibrationTable, PathLike, QdqPlan, QuantizedModel
from quantkit.types.options import HighPrecision, Target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["HighPrecision", "Target", "check_quantizable", "quantize", "quantize_graph", "write_tensorrt_cache"]


@accepts_tell
def quantize(
    model: PathLike | FloatModel,
    table: CalibrationTable | PathLike,
    output: PathLike,
    *,
    target: Target = "tensorrt",
    high_precision: HighPrecision = "fp32",
    exclude: Sequence[str] = (),
    reduce_range: bool | None = None,
    notify: Notify | None = None,
) -> QuantizedModel:
    """Writes the INT8 model: `model` with Q/DQ and INT8 weights, from the table alone.

    Args:
        model: the ONNX model that the table was made from.
        table: a calibration table, or its path.
        output: path of the INT8 model.
        target: "tensorrt" (symmetric INT8 at the inputs of weighted operators), or "cpu": ONNX Runtime on x86.
        high_precision: of what stays in float; "fp16" needs opset 19, to which an older model is converted.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        reduce_range: for target "cpu": weights of 7 bits, which x86 processors without VNNI need; None asks this one.
        notify: called with each `Notice`; without it, notices are only logged.

    Returns:
        Where it is, and what stayed in float, with the reason.

    Raises:
        StaleTableError: the table belongs to another model.
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    notify = announcing(notify)
    model = FloatModel.open(model)
    table_given, table = table, open_table(table)
    if reduce_range is None:
        reduce_range = target == "cpu" and products_saturate()
        if reduce_range:
            notify(
                Notice(
                    "info",
                    "weights",
                    "Weights have 7 bits: this CPU lacks VNNI and would saturate. Pass --no-reduce-range for 8 bits.",
                )
            )
    graph, plan = quantize_graph(
        model, table, target=target, high_precision=high_precision, exclude=exclude, reduce_range=reduce_range
    )
    graph.metadata_props[TABLE_KEY] = table_checksum(table)
    check_model(graph, Path(output).name)
    given = () if isinstance(table_given, CalibrationTable) else (table_given,)
    check_no_source(output, (*model.source_files, *given))
    model.check_unchanged()
    written = save_model(graph, output)
    weighted = weighted_nodes(graph)
    if excluded := [name for name in plan.skipped if name in plan.excluded]:
        notify(Notice("info", "excluded", f"Excluded from quantization: {join_names(excluded)}"))
    return QuantizedModel(
        path=Path(output),
        num_quantized=len(weighted & {edge.node for edge in plan.activations}),
        num_weighted=len(weighted),
        skipped=plan.skipped,
        size_bytes=sum(path.stat().st_size for path in written),
    )


def write_tensorrt_cache(
    model: PathLike | FloatModel, table: CalibrationTable, output: PathLike, *, tensorrt_version: str | None = None
) -> Path:
    """Writes the table as TensorRT's calibration cache, with the ranges that TensorRT inherits filled in.

    Args:
        model: the model that the table was made from.
        table: its calibration.
        output: where to.
        tensorrt_version: of the library that will read it; None as in `version_of_caches`.

    Returns:
        `output`.
    """
    graph = _prepared(FloatModel.open(model), table)
    amax = propagate_to_copies(graph, {name: r.amax for name, r in table.tensors.items()})
    version, algorithm = version_of_caches(tensorrt_version), cache_algorithm(table.method)
    write_text(output, cache_text(amax, tensorrt_version=version, algorithm=algorithm))
    return Path(output)


def check_quantizable(
    model: PathLike | FloatModel,
    *,
    exclude: Sequence[str] = (),
    target: Target = "tensorrt",
    high_precision: HighPrecision = "fp32",
    reduce_range: bool | None = None,
) -> None:
    """Raises now what `quantize` would raise after minutes of calibration: wrong options, model or exclusions."""
    _check_choices(target, high_precision, reduce_range)
    model = FloatModel.open(model)
    model.check_float()
    graph = model.prepared()
    if target == "cpu":
        cpu_tensors(graph, exclude=exclude)
    else:
        plan_tensorrt(graph, exclude=exclude)


def quantize_graph(
    model: PathLike | FloatModel,
    table: CalibrationTable,
    *,
    target: Target,
    high_precision: HighPrecision,
    exclude: Sequence[str],
    reduce_range: bool = False,
) -> tuple[ir.Model, QdqPlan]:
    """The INT8 graph and its plan."""
    _check_choices(target, high_precision, reduce_range)
    model = FloatModel.open(model)
    half = high_precision == "fp16"
    if target == "cpu":
        # What is skipped counts as always zero there; what a cache did not list is not.
        return quantize_for_cpu(
            _prepared(model, table),
            table.tensors,
            exclude=exclude,
            skipped={name: reason for name, reason in table.skipped.items() if reason != NOT_LISTED},
            reduce_range=reduce_range,
        )
    graph = _prepared(model, table, opset=FP16_OPSET if half else OLDEST_QDQ_OPSET)
    plan = exclude_tensors(plan_tensorrt(graph, exclude=exclude), table.skipped)
    insert_qdq(graph, plan, activation_params(plan, table.tensors), fp16_scales=half)
    return (to_fp16(graph) if half else graph), plan


def _check_choices(target: str, high_precision: str, reduce_range: bool | None = None) -> None:
    if high_precision not in ("fp32", "fp16"):
        raise ModelError(f"there is no high precision {high_precision!r}: choose fp32 or fp16")
    if target not in ("tensorrt", "cpu"):
        raise ModelError(f"there is no target {target!r}: choose tensorrt or cpu")
    if target == "cpu" and high_precision == "fp16":
        raise ModelError("the target cpu runs in FP32 around INT8: leave out --high-precision fp16")
    if target != "cpu" and reduce_range:
        raise ModelError("--reduce-range is for the target cpu: a GPU adds products in 32 bits")


def _prepared(model: FloatModel, table: CalibrationTable, *, opset: int = OLDEST_QDQ_OPSET) -> ir.Model:
    """The model of a table, prepared; refuses another one."""
    table.check_model(model.hash, model.name)
    model.check_float()
    return model.prepared(opset)
