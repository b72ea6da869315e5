"""The quantized model on samples: computed in float as ONNX defines Q/DQ, the same on every processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.model import share_weights
from quantkit.graph.passes.expose import expose
from quantkit.graph.quantize_tensorrt import RefinedPlan, insert_refined_qdq
from quantkit.types import Array, Refinement

if TYPE_CHECKING:
    import onnx_ir as ir

QuantizedGraph = tuple["ir.Model", RefinedPlan, Refinement]
"""A prepared float model as `plan_refined` left it, the plan, and the refinement."""


def run_quantized(
    quantized: QuantizedGraph,
    batches: Sequence[Mapping[str, Array]],
    *,
    outputs: Sequence[str],
    with_weights: bool = True,
) -> list[dict[str, Array]]:
    """Outputs of the quantized model for every batch.

    Args:
        quantized: what to quantize, and how; its graph is edited.
        batches: inputs.
        outputs: which tensors.
        with_weights: False leaves the weights in float.
    """
    return run_model(with_qdq(quantized, with_weights=with_weights), batches, outputs=outputs)


def with_qdq(quantized: QuantizedGraph, *, with_weights: bool) -> ir.Model:
    """The graph with its Q/DQ inserted, those of the weights only where asked for."""
    graph, plan, refinement = quantized
    if plan.qdq.activations:
        plan = plan if with_weights else replace(plan, qdq=replace(plan.qdq, weights=()))
        insert_refined_qdq(graph, plan, refinement)
    return graph


def run_model(
    graph: ir.Model, batches: Sequence[Mapping[str, Array]], *, outputs: Sequence[str]
) -> list[dict[str, Array]]:
    """Some tensors of a prepared model, which become its outputs, for every batch."""
    expose(graph, outputs)
    with OnnxRuntimeRunner(share_weights(graph), spinning=False, fuse_qdq=False) as runner:
        names = {spec.name for spec in runner.inputs}
        results = [{**b, **runner.run({n: v for n, v in b.items() if n in names})} for b in batches]
    return [{name: result[name] for name in outputs} for result in results]
