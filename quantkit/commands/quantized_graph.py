"""From a table to a graph with Q/DQ: ranges, formats, and weights rounded on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantkit.caches.reuse import check_table
from quantkit.commands.on_device import runnable
from quantkit.datasets.batching import batch_axes, make_batches
from quantkit.datasets.open import open_samples, prepared_as
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.layer_constants import add_biases
from quantkit.graph.passes.fp16 import FP16_OPSET, to_fp16
from quantkit.graph.passes.fp16_overflow import overflowing_nodes, tell_overflow
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.cost_rule import tell_unprofitable
from quantkit.graph.placement.weight_only import plan_weight_only
from quantkit.graph.quantize_cpu import quantize_for_cpu
from quantkit.graph.quantize_tensorrt import RefinedPlan, insert_refined_qdq, plan_refined
from quantkit.notices import Notice, Notify, announcing, join_names
from quantkit.refinement.rounding import round_weights, round_weights_alone
from quantkit.refinement.samples import SampleBatches, affordable_samples
from quantkit.types import (
    INT8,
    OLDEST_QDQ_OPSET,
    CalibrationTable,
    Dataset,
    PathLike,
    QdqEdge,
    QdqPlan,
    QuantScheme,
    Refinement,
)
from quantkit.types.options import ImageOptions, QuantizeOptions

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["is_rounded", "plan_blocks", "prepared_for", "quantize_graph", "round_for_format", "samples_of"]

_BATCH = 16
_MOST_SAMPLES = 256


def samples_of(
    model: FloatModel, table: CalibrationTable, data: PathLike, preprocess: ImageOptions | None = None
) -> SampleBatches:
    """Samples that weights are rounded on, prepared as for the table where nothing else is said: some of `data`."""
    prepared = prepared_as(table, preprocess, data)

    def choose(count: int) -> Dataset:
        return open_samples(runnable(model), data, prepared, None, num_samples=count, seed=0, order="shuffled")

    dataset = choose(min(affordable_samples(model, choose(_BATCH), effort="balanced"), _MOST_SAMPLES))
    batches = make_batches(dataset, _BATCH, strict=False, workers=None, skipped={})
    return SampleBatches(tuple(batch.inputs for batch in batches), batch_axes(dataset))


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
    planned, scheme, half = _plan(model, table, options, notify), options.scheme, options.float_precision == "fp16"
    graph, magnitudes, found = planned.graph, table.magnitudes, planned.refinement
    if not scheme.is_plain:
        rounded = _kept(table, options)
        _tell_nearest(planned, rounded, options, notify)
        found = rounded if scheme.activations != INT8 else found
    if planned.pairs is not None:
        insert_refined_qdq(graph, planned.pairs, found, fp16_scales=half)
        magnitudes = {**{name: r.amax for name, r in planned.pairs.ranges.items()}, **magnitudes}
    if planned.blocks.weights:
        nodes = {edge.node for edge in planned.blocks.weights}
        add_biases(graph, {node: bias for node, bias in rounded.biases.items() if node in nodes})
        insert_qdq(graph, planned.blocks, {}, weights=rounded.weights, fp16_scales=half)
    if half:
        keep = overflowing_nodes(graph, magnitudes)
        tell_overflow(keep, notify)
        to_fp16(graph, keep=keep)
    return graph, planned.joined


def round_for_format(
    model: FloatModel,
    table: CalibrationTable,
    options: QuantizeOptions,
    samples: SampleBatches,
    notify: Notify | None = None,
    *,
    progress: bool = False,
) -> CalibrationTable:
    """The table with the weights of a format that is not INT8 alone rounded with error feedback.

    Args:
        model: the float model.
        table: of that model.
        options: with the format.
        samples: to round on.
        notify: hears what the rounding saved.
        progress: show a progress bar.
    """
    planned = _plan(model, table, options, announcing(notify))
    if options.scheme.blocks:
        found, layers = round_weights_alone(planned.graph, planned.blocks, samples, progress=progress)
    else:
        assert planned.pairs is not None  # a format without blocks quantizes activations
        known = planned.pairs.qdq, planned.pairs.ranges
        found, layers = round_weights(planned.graph, *known, samples, progress=progress)
    saved = sum(layer.error for layer in layers) / max(sum(layer.nearest_error for layer in layers), 1e-30)
    text = f"{len(layers)} weights rounded with error feedback: {saved:.0%} of the squared error of nearest"
    if saved >= 1:
        text = f"{len(layers)} weights rounded to nearest: error feedback did not help on these samples"
    announcing(notify)(Notice("info", "weights", text))
    return replace(table, roundings={**table.roundings, options.format: found})


def is_rounded(model: FloatModel, table: CalibrationTable, options: QuantizeOptions) -> bool:
    """Whether the table has every weight that would be rounded for the format."""
    planned = _plan(model, table, options, announcing(None))
    return not _to_nearest(planned.rounded_apart(options.scheme), _kept(table, options))


@dataclass(frozen=True)
class _Planned:
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


def _plan(model: FloatModel, table: CalibrationTable, options: QuantizeOptions, notify: Notify) -> _Planned:
    """Plans Q/DQ at activations and weights, and shifts and scales channels of the graph."""
    half, scheme = options.float_precision == "fp16", options.scheme
    graph = prepared_for(model, table, opset=max(FP16_OPSET if half else OLDEST_QDQ_OPSET, scheme.oldest_opset))
    blocks = plan_blocks(graph, options, model.name, notify) if scheme.blocks else QdqPlan((), ())
    table = table.for_scheme(scheme)
    found = table.refinement or Refinement()
    found = replace(found, weights={}, biases={}) if options.rounding == "nearest" else found
    if scheme.activations is None:
        return _Planned(graph, None, blocks, found)
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
    return _Planned(graph, pairs, follow_edits(blocks, graph) if scheme.blocks else blocks, found)


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
    plan = plan_weight_only(graph, options.block_size, exclude=options.exclude)
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


def _kept(table: CalibrationTable, options: QuantizeOptions) -> Refinement:
    """What was rounded for the format."""
    found = table.roundings.get(options.format) if options.rounding == "feedback" else None
    return found or Refinement()


def _to_nearest(edges: Sequence[QdqEdge], rounded: Refinement) -> list[QdqEdge]:
    """The edges of weights for which nothing was kept in their format."""
    found = rounded.weights
    return [e for e in edges if e.tensor not in found or not found[e.tensor].fits(e.axis, e.format)]


def _tell_nearest(planned: _Planned, rounded: Refinement, options: QuantizeOptions, notify: Notify) -> None:
    edges = planned.rounded_apart(options.scheme)
    left = _to_nearest(edges, rounded)
    if not left or options.rounding == "nearest":
        return
    form = f"{options.format} --block-size {options.block_size}" if options.scheme.blocks else options.format
    text = f"{len(left)} of {len(edges)} weights are rounded to nearest: nothing better is kept beside the table; "
    text += f"`quantkit quantize MODEL --table TABLE --format {form} --data DATA` rounds them with error feedback"
    notify(Notice("info", "weights", f"{text}, and keeps them there"))


def prepared_for(model: FloatModel, table: CalibrationTable, *, opset: int = OLDEST_QDQ_OPSET) -> ir.Model:
    """The model of a table, prepared; refuses another one."""
    check_table(table, model)
    model.check_float()
    return model.prepared(opset)
