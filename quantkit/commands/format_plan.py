"""What a format quantizes of a model: pairs at activations, and weights in blocks alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from quantkit.caches.reuse import check_table
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.passes.prepare import FP16_OPSET, WEIGHTED_OPS, is_standard
from quantkit.graph.placement.cost_rule import Unprofitable, find_unprofitable, tell_unprofitable
from quantkit.graph.placement.format_rules import too_large_for_half
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.placement.weight_only import plan_weight_only
from quantkit.graph.quantize_tensorrt import RefinedPlan, plan_refined
from quantkit.notices import Notice, Notify, announcing, join_names, plural
from quantkit.types import (
    FP8,
    OLDEST_QDQ_OPSET,
    SCHEMES,
    CalibrationTable,
    QdqEdge,
    QdqPlan,
    QuantScheme,
    Refinement,
)
from quantkit.types.options import QuantizeOptions

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FormatPlan:
    """What is quantized, and the graph as it is before Q/DQ.

    Attributes:
        graph: prepared; channels are shifted and scaled already.
        pairs: what has Q/DQ at activations; None where nothing has.
        blocks: weights that alone are quantized.
        others: what a plan quantizes to another format than the pairs; None where it is nothing.
        refinement: of the pairs.
        refinement_of_others: of the others.
    """

    graph: ir.Model
    pairs: RefinedPlan | None
    blocks: QdqPlan
    refinement: Refinement
    others: RefinedPlan | None = None
    refinement_of_others: Refinement = field(default_factory=Refinement)

    def rounded_apart(self, scheme: QuantScheme) -> tuple[QdqEdge, ...]:
        """Weights that calibration for INT8 does not round."""
        return self.blocks.weights if scheme.blocks or self.pairs is None else self.pairs.qdq.weights

    @property
    def joined(self) -> QdqPlan:
        """Both plans as one."""
        plans = [self.blocks] if self.blocks.weights or self.pairs is None else []
        plans += [found.qdq for found in (self.others, self.pairs) if found is not None]
        weights = tuple(edge for plan in reversed(plans) for edge in plan.weights)
        activations = tuple(edge for plan in reversed(plans) for edge in plan.activations)
        done = {name for edge in (*weights, *activations) for name in (edge.node, edge.tensor)}
        skipped = {name: reason for plan in plans for name, reason in plan.skipped.items() if name not in done}
        if len(plans) == 1:
            return plans[0]
        return replace(plans[-1], weights=weights, activations=activations, skipped=skipped)


def plan_format(model: FloatModel, table: CalibrationTable, options: QuantizeOptions, notify: Notify) -> FormatPlan:
    """Plans Q/DQ at activations and weights, and shifts and scales channels of the graph."""
    half, scheme = options.float_precision == "fp16", options.scheme
    opset = max([scheme.oldest_opset, *(SCHEMES[name].oldest_opset for name in table.formats.values())])
    graph = prepared_for(model, table, opset=max(FP16_OPSET if half else OLDEST_QDQ_OPSET, opset))
    blocks = plan_blocks(graph, options, model.name, notify) if scheme.blocks else QdqPlan((), ())
    float8, table = table.for_scheme(SCHEMES["fp8"]), table.for_scheme(scheme)
    found = _refinement(table, options)
    if scheme.activations is None:
        return FormatPlan(graph, None, blocks, found)
    unprofitable = Unprofitable({}, {}) if options.quantize_all else find_unprofitable(graph)
    apart = {edge.node for edge in blocks.weights}
    otherwise = _readers(graph, table.formats) - apart if scheme.is_plain else frozenset()
    keywords: dict[str, Any] = {"exclude": options.exclude, "quantize_all": options.quantize_all}
    in_float, fmt = table.in_float, scheme.activations
    amax = {name: found.amax for name, found in table.tensors.items()}
    large = too_large_for_half(graph, amax, fmt) if half else {}
    in_float = {**in_float, **large}
    no_pairs = {**in_float, **({name: f"its products are in {form}" for name, form in table.formats.items()})}
    pairs = plan_refined(
        graph,
        table.tensors,
        found,
        in_float=no_pairs if otherwise else in_float,
        fmt=fmt,
        apart=apart | otherwise,
        **keywords,
    )
    if left := [f"{name} ({why})" for name, why in large.items() if pairs.qdq.skipped.get(name) == why]:
        notify(Notice("warning", "ranges", f"{plural(len(left), 'activation')} left in float: {join_names(left)}"))
    tell_unprofitable(unprofitable, {edge.node for edge in pairs.qdq.weights}, fmt.name.upper(), notify)
    blocks = follow_edits(blocks, graph) if scheme.blocks else blocks
    if not otherwise:
        return FormatPlan(graph, pairs, blocks, found)
    rest = {name_of(node) for node in graph.graph} - otherwise
    of_others = _refinement(float8, options)
    others = plan_refined(graph, float8.tensors, of_others, in_float=in_float, fmt=FP8, apart=rest, **keywords)
    needs = SCHEMES["fp8"]
    text = f"{len({edge.node for edge in others.qdq.weights})} operators are in FP8, as planned: they need TensorRT "
    text += f"{'.'.join(map(str, needs.oldest_tensorrt))} or later, and GPUs from sm{needs.oldest_gpu} on"
    notify(Notice("info", "ranges", text))
    return FormatPlan(graph, pairs, blocks, found, others, of_others)


def _refinement(table: CalibrationTable, options: QuantizeOptions) -> Refinement:
    """The refinement of a table, without rounded weights and biases where weights are rounded to nearest."""
    found = table.refinement or Refinement()
    return replace(found, weights={}, biases={}) if options.rounding == "nearest" else found


def _readers(graph: ir.Model, tensors: Collection[str]) -> frozenset[str]:
    """Names of the products that read any of these."""
    products = [node for node in graph.graph if is_standard(node, *WEIGHTED_OPS)]
    return frozenset(
        name_of(node) for node in products if any(value is not None and value.name in tensors for value in node.inputs)
    )


def float8_nodes(model: FloatModel) -> frozenset[str]:
    """Operators that FP8 is for: what else a plan puts in FP8 stays in float."""
    return frozenset(edge.node for edge in plan_tensorrt(model.prepared(), fmt=FP8).activations)


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
