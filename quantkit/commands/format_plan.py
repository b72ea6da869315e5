"""What a format quantizes of a model: pairs at activations, and weights in blocks alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantkit.caches.reuse import check_table
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.fp16 import FP16_OPSET
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.placement.cost_rule import tell_unprofitable
from quantkit.graph.placement.weight_only import plan_weight_only
from quantkit.graph.quantize_tensorrt import RefinedPlan, plan_refined
from quantkit.notices import Notice, Notify, announcing, join_names
from quantkit.types import OLDEST_QDQ_OPSET, CalibrationTable, QdqEdge, QdqPlan, QuantScheme, Refinement
from quantkit.types.options import QuantizeOptions

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FormatPlan", "plan_blocks", "plan_format", "prepared_for"]


@dataclass(frozen=True)
class FormatPlan:
    """What is quantized, and the graph as it is before Q/DQ.

    Attributes:
        graph: prepared; channels are shifted and scaled already.
        pairs: what has Q/DQ at activations; None where nothing has.
        blocks: weights that alone are quantized.
        refinement: of the pairs, as INT8 has it.
    """

    graph: ir.Model
    pairs: RefinedPlan | None
    blocks: QdqPlan
    refinement: Refinement

    def rounded_apart(self, scheme: QuantScheme) -> tuple[QdqEdge, ...]:
        """Weights that calibration for INT8 does not round."""
        return self.blocks.weights if scheme.blocks or self.pairs is None else self.pairs.qdq.weights

    @property
    def joined(self) -> QdqPlan:
        """Both plans as one."""
        if self.pairs is None or not self.blocks.weights:
            return self.blocks if self.pairs is None else self.pairs.qdq
        plan, blocks = self.pairs.qdq, self.blocks
        weights = plan.weights + blocks.weights
        done = {name for edge in weights for name in (edge.node, edge.tensor)}
        skipped = {name: reason for name, reason in {**blocks.skipped, **plan.skipped}.items() if name not in done}
        return replace(plan, weights=weights, skipped=skipped)


def plan_format(model: FloatModel, table: CalibrationTable, options: QuantizeOptions, notify: Notify) -> FormatPlan:
    """Plans Q/DQ at activations and weights, and shifts and scales channels of the graph."""
    half, scheme = options.float_precision == "fp16", options.scheme
    graph = prepared_for(model, table, opset=max(FP16_OPSET if half else OLDEST_QDQ_OPSET, scheme.oldest_opset))
    blocks = plan_blocks(graph, options, model.name, notify) if scheme.blocks else QdqPlan((), ())
    table = table.for_scheme(scheme)
    found = table.refinement or Refinement()
    found = replace(found, weights={}, biases={}) if options.rounding == "nearest" else found
    if scheme.activations is None:
        return FormatPlan(graph, None, blocks, found)
    if not options.quantize_all:
        tell_unprofitable(graph, notify)
    pairs = plan_refined(
        graph,
        table.tensors,
        found,
        exclude=options.exclude,
        in_float=table.in_float,
        quantize_all=options.quantize_all,
        fmt=scheme.activations,
        apart={edge.node for edge in blocks.weights},
    )
    return FormatPlan(graph, pairs, follow_edits(blocks, graph) if scheme.blocks else blocks, found)


def plan_blocks(graph: ir.Model, options: QuantizeOptions, name: str, notify: Notify | None = None) -> QdqPlan:
    """Plans INT4 weights.

    Args:
        graph: prepared.
        options: with the size of the blocks.
        name: of the model.
        notify: hears that there are none, where INT8 is beside them.

    Raises:
        ModelError: there are none, and nothing else would be quantized.
    """
    plan = plan_weight_only(graph, options.block, exclude=options.exclude)
    if not plan.weights:
        text = f"{name} has no MatMul or Gemm whose weight can be INT4"
        reasons = [f"{reason} ({join_names(names)})" for reason, names in _by_reason(plan.skipped).items()]
        text += "".join(f"{': ' if i == 0 else '; '}{reason}" for i, reason in enumerate(reasons))
        if options.scheme.activations is None:
            raise ModelError(text)
        announcing(notify)(Notice("warning", "weights", f"{text}: everything is INT8"))
    return plan


def _by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        found.setdefault(reason, []).append(name)
    return found


def prepared_for(model: FloatModel, table: CalibrationTable, *, opset: int = OLDEST_QDQ_OPSET) -> ir.Model:
    """The model of a table, prepared; refuses another one."""
    check_table(table, model)
    model.check_float()
    return model.prepared(opset)
