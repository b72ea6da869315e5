"""The graph that TensorRT gets for an engine: as given, in FP16, with Q/DQ, or with ranges beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from quantkit.commands.quantized_graph import quantize_graph
from quantkit.graph.model import serialize_model
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.fp16_overflow import overflowing_nodes, tell_overflow
from quantkit.graph.passes.prepare import FP16_OPSET
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.graph.placement.tensorrt import match_nodes, plan_tensorrt
from quantkit.graph.quantize_tensorrt import on_weight_grid, plan_refined
from quantkit.notices import Notify, announcing
from quantkit.types import SCHEMES, Refinement
from quantkit.types.options import HighPrecision, QuantizeOptions
from quantkit.types.quantization import Format

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.backends.tensorrt.build.precision import Typing
    from quantkit.commands.build_inputs import BuildInputs


@dataclass(frozen=True)
class EngineGraph:
    """What TensorRT gets: ONNX, and what implicit INT8 needs beside it."""

    content: bytes | Path
    node_titles: tuple[str, ...]
    ranges: Mapping[str, float] | None = None
    float_nodes: tuple[str, ...] = ()
    num_quantized: int | None = None
    fp32_nodes: tuple[str, ...] = ()


def make_graph(source: BuildInputs, typing: Typing, folder: Path, notify: Notify | None = None) -> EngineGraph:
    """The graph that TensorRT gets: as given, in FP16, with Q/DQ, or with ranges beside it.

    Args:
        source: checked.
        typing: how precisions are decided.
        folder: for the weights of a large model, until the engine is built.
        notify: hears what FP16 cannot hold.
    """
    if source.precision in SCHEMES and not source.model.is_quantized:
        if source.table is None or typing.mode == "implicit":
            made = _with_ranges(source, folder)
            return replace(made, fp32_nodes=_fp32_nodes(source.model.prepared(), source, typing, notify))
        # Where flags decide (TensorRT 8.6), Q/DQ have FP32 scales and the FP16 flag does the rest.
        around: HighPrecision = (source.high_precision or "fp16") if typing.strong else "fp32"
        options = QuantizeOptions(
            format=cast(Format, source.precision),
            high_precision=around,
            exclude=source.exclude,
            quantize_all=source.quantize_all,
            block_size=source.block_size,
        )
        graph, plan = quantize_graph(source.model, source.table, options, notify)
        quantized = len({edge.node for edge in plan.weights})
        kept = _fp32_nodes(graph, source, typing, notify)
        return EngineGraph(serialize_model(graph, folder), _titles(graph), num_quantized=quantized, fp32_nodes=kept)
    if source.precision == "fp16" and typing.strong and not source.is_half:
        graph = source.model.prepared(FP16_OPSET)
        keep = overflowing_nodes(graph, source.magnitudes)
        tell_overflow(keep, announcing(notify))
        to_fp16(graph, keep=keep)
        return EngineGraph(serialize_model(graph, folder), _titles(graph))
    if source.precision == "fp16" and not source.is_half:
        graph = source.model.prepared()
        if kept := _fp32_nodes(graph, source, typing, notify):
            return EngineGraph(serialize_model(graph, folder), _titles(graph), fp32_nodes=kept)
    return EngineGraph(source.model.serialized(folder), _titles(source.model.graph))


def _fp32_nodes(graph: ir.Model, source: BuildInputs, typing: Typing, notify: Notify | None) -> tuple[str, ...]:
    """Nodes that a flag would put into FP16, where they overflow."""
    keep = overflowing_nodes(graph, source.magnitudes) if "FP16" in typing.flags else {}
    tell_overflow(keep, announcing(notify))
    return tuple(keep)


def _with_ranges(source: BuildInputs, folder: Path) -> EngineGraph:
    graph, table = source.model.prepared(), source.table
    in_float = tuple(match_nodes(graph, source.exclude))
    if table is None:
        return EngineGraph(serialize_model(graph, folder), _titles(graph), None, in_float)
    amax = {name: r.amax for name, r in table.tensors.items()}
    if table.refinement or table.float_tensors:
        refinement = table.refinement or Refinement()
        before = plan_tensorrt(graph, exclude=source.exclude)
        plan = plan_refined(graph, table.tensors, refinement, exclude=source.exclude, in_float=table.in_float)
        on_weight_grid(graph, plan, refinement)
        amax = {name: r.amax for name, r in plan.ranges.items()}
        left = {edge.node for edge in before.weights} - {edge.node for edge in plan.qdq.weights}
        in_float = tuple(dict.fromkeys((*in_float, *sorted(left))))
    ranges = propagate_to_copies(graph, amax)
    return EngineGraph(serialize_model(graph, folder), _titles(graph), ranges, in_float)


def _titles(graph: ir.Model) -> tuple[str, ...]:
    return tuple(f"{node.name!r} ({node.op_type})" for node in graph.graph)
