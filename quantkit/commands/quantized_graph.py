"""From a table to a graph with Q/DQ: ranges, formats, and weights rounded on samples."""

from __future__ import annotations

from dataclasses import replace
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
from quantkit.notices import Notice, Notify, announcing
from quantkit.refinement.rounding import round_weights_alone
from quantkit.refinement.samples import SampleBatches, affordable_samples
from quantkit.types import INT8, OLDEST_QDQ_OPSET, CalibrationTable, Dataset, PathLike, QdqPlan, Refinement
from quantkit.types.options import ImageOptions, QuantizeOptions

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["prepared_for", "quantize_graph", "samples_of"]

_BATCH = 16
_MOST_SAMPLES = 256

_NO_BLOCKS = QdqPlan((), ())


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
    model: FloatModel,
    table: CalibrationTable,
    options: QuantizeOptions,
    notify: Notify | None = None,
    *,
    samples: SampleBatches | None = None,
) -> tuple[ir.Model, QdqPlan]:
    """The quantized graph and its plan. Without `reduce_range`, weights for the target "cpu" have 8 bits.

    Args:
        model: the float model.
        table: of that model.
        options: how.
        notify: hears what FP16 cannot hold.
        samples: on which weights in blocks are rounded with error feedback; without, they are rounded to nearest.
    """
    half, scheme = options.float_precision == "fp16", options.scheme
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
    graph = prepared_for(model, table, opset=max(FP16_OPSET if half else OLDEST_QDQ_OPSET, scheme.oldest_opset))
    blocks = plan_weight_only(graph, options.block_size, exclude=options.exclude) if scheme.blocks else _NO_BLOCKS
    if scheme.activations is None and not blocks.weights:
        raise ModelError(f"{model.name} has no MatMul or Gemm whose weight can be INT4")
    plan, magnitudes, table = blocks, table.magnitudes, table.for_scheme(scheme)
    if scheme.activations is not None:  # before weights are rounded: scales of channels go into them
        refined = _plan_pairs(graph, table, options, {edge.node for edge in blocks.weights}, announcing(notify))
        blocks = follow_edits(blocks, graph)
    rounded = _round_blocks(graph, blocks, options, samples, announcing(notify))
    if scheme.activations is not None:
        insert_refined_qdq(graph, refined, _refinement(table, options), fp16_scales=half)
        magnitudes = {**{name: r.amax for name, r in refined.ranges.items()}, **magnitudes}
        plan = _joined(refined.qdq, blocks) if scheme.blocks else refined.qdq
    if scheme.blocks:
        add_biases(graph, rounded.biases)
        insert_qdq(graph, blocks, {}, weights=rounded.weights, fp16_scales=half)
    if half:
        keep = overflowing_nodes(graph, magnitudes)
        tell_overflow(keep, announcing(notify))
        to_fp16(graph, keep=keep)
    return graph, plan


def _refinement(table: CalibrationTable, options: QuantizeOptions) -> Refinement:
    found = table.refinement or Refinement()
    return replace(found, weights={}, biases={}) if options.rounding == "nearest" else found


def _plan_pairs(
    graph: ir.Model, table: CalibrationTable, options: QuantizeOptions, apart: set[str], notify: Notify
) -> RefinedPlan:
    """Plans Q/DQ at activations and weights, and shifts and scales channels in place."""
    if not options.quantize_all:
        tell_unprofitable(graph, notify)
    return plan_refined(
        graph,
        table.tensors,
        _refinement(table, options),
        exclude=options.exclude,
        in_float=table.in_float,
        quantize_all=options.quantize_all,
        fmt=options.scheme.activations or INT8,
        apart=apart,
    )


def _round_blocks(
    graph: ir.Model, plan: QdqPlan, options: QuantizeOptions, samples: SampleBatches | None, notify: Notify
) -> Refinement:
    """Weights in blocks with error feedback; nothing without samples."""
    if not plan.weights or options.rounding == "nearest":
        return Refinement()
    if samples is None:
        text = f"{len(plan.weights)} weights are rounded to nearest: error feedback needs samples (--data)"
        notify(Notice("info", "weights", text))
        return Refinement()
    rounded, layers = round_weights_alone(graph, plan, samples, progress=False)
    saved = sum(layer.error for layer in layers) / max(sum(layer.nearest_error for layer in layers), 1e-30)
    text = f"{len(layers)} weights rounded with error feedback: {saved:.0%} of the squared error of nearest"
    if saved >= 1:
        text = f"{len(layers)} weights rounded to nearest: error feedback did not help on these samples"
    notify(Notice("info", "weights", text))
    return rounded


def _joined(plan: QdqPlan, blocks: QdqPlan) -> QdqPlan:
    """Both plans of one graph as one."""
    weights = plan.weights + blocks.weights
    done = {name for edge in weights for name in (edge.node, edge.tensor)}
    skipped = {name: reason for name, reason in {**blocks.skipped, **plan.skipped}.items() if name not in done}
    return replace(plan, weights=weights, skipped=skipped)


def prepared_for(model: FloatModel, table: CalibrationTable, *, opset: int = OLDEST_QDQ_OPSET) -> ir.Model:
    """The model of a table, prepared; refuses another one."""
    check_table(table, model)
    model.check_float()
    return model.prepared(opset)
