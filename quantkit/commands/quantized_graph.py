"""From a table to a graph with Q/DQ: ranges, formats, and weights rounded on samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.commands.format_plan import plan_format, prepared_for
from quantkit.commands.format_rounding import kept_rounding, tell_lost, tell_nearest
from quantkit.graph.float_model import FloatModel
from quantkit.graph.layer_constants import add_biases
from quantkit.graph.moved_activations import remember_folded
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.fp16_overflow import overflowing_nodes, tell_overflow
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.quantize_cpu import quantize_for_cpu
from quantkit.graph.quantize_tensorrt import insert_refined_qdq
from quantkit.notices import Notify, announcing
from quantkit.types import INT8, CalibrationTable, QdqPlan
from quantkit.types.options import QuantizeOptions

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_graph(
    model: FloatModel, table: CalibrationTable, options: QuantizeOptions, notify: Notify | None = None
) -> tuple[ir.Model, QdqPlan]:
    """The quantized graph and its plan. Without `reduce_range`, weights for the target "cpu" have 8 bits.

    Args:
        model: the float model.
        table: of that model, with the weights that were rounded for the format: see `round_for_format`.
        options: how.
        notify: hears what FP16 cannot hold, and which weights are rounded to nearest.
    """
    notify = announcing(notify)
    if options.target == "cpu":
        graph = prepared_for(model, table)
        return quantize_for_cpu(
            graph,
            table.tensors,
            exclude=options.exclude,
            always_zero=table.always_zero,
            reduce_range=bool(options.reduce_range),
            name=model.name,
        )
    scheme, half = options.scheme, options.float_precision == "fp16"
    if scheme.activations == INT8:
        tell_lost(table, notify)
    planned = plan_format(model, table, options, notify)
    graph, magnitudes, found = planned.graph, table.magnitudes, planned.refinement
    rounded = kept_rounding(table, options)
    if not scheme.is_plain:
        tell_nearest(model, planned, table, options, notify)
    if planned.pairs is not None:
        insert_refined_qdq(graph, planned.pairs, found, fp16_scales=half)
        remember_folded(graph, planned.pairs.folded)
        magnitudes = {**{name: r.amax for name, r in planned.pairs.ranges.items()}, **magnitudes}
    if planned.others is not None:
        insert_refined_qdq(graph, planned.others, planned.refinement_of_others, fp16_scales=half)
    if planned.blocks.weights:
        nodes = {edge.node for edge in planned.blocks.weights}
        add_biases(graph, {node: bias for node, bias in rounded.biases.items() if node in nodes})
        insert_qdq(graph, planned.blocks, {}, weights=rounded.weights, fp16_scales=half)
    if half:
        keep = overflowing_nodes(graph, magnitudes)
        tell_overflow(keep, notify)
        to_fp16(graph, keep=keep)
    return graph, planned.joined
