"""Quantization for TensorRT: plan, scale channels, correct biases, insert Q/DQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from quantkit.graph.layer_constants import add_biases
from quantkit.graph.passes.channel_scale import apply_channel_scales, scalable_tensors
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.passes.shift import apply_shifts
from quantkit.graph.placement.tensorrt import exclude_tensors, plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.types import QdqPlan, Refinement, TensorRange

__all__ = ["insert_refined_qdq", "plan_refined"]


def plan_refined(
    model: ir.Model,
    ranges: Mapping[str, TensorRange],
    refinement: Refinement,
    *,
    exclude: Sequence[str] = (),
    in_float: Mapping[str, str] | None = None,
) -> tuple[QdqPlan, dict[str, TensorRange]]:
    """Plans Q/DQ, and shifts and scales the channels of activations in place.

    Args:
        model: prepared, of which the ranges are; it computes the same afterwards.
        ranges: by activation.
        refinement: with the shifts and channel scales.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        in_float: activations whose readers stay in float, with the reason.

    Returns:
        The plan of the edited model, and the ranges of what it quantizes.

    Raises:
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    plan = exclude_tensors(plan_tensorrt(model, exclude=exclude), in_float or {})
    known = dict(ranges)
    sites = scalable_tensors(model, plan)
    shifts = {name: offset for name, offset in refinement.shifts.items() if name in sites}
    moved = apply_shifts(model, plan, shifts)
    plan = follow_edits(plan, model)
    scales = {moved.get(name, name): s for name, s in refinement.channel_scales.items() if name in sites}
    scaled = apply_channel_scales(model, plan, scales)
    plan = follow_edits(plan, model)
    for name in {**shifts, **refinement.channel_scales}.keys() & sites.keys():
        behind = moved.get(name, name)
        known[scaled.get(behind, behind)] = replace(ranges[name], amax=refinement.amax[name])
    return plan, known


def insert_refined_qdq(
    model: ir.Model,
    plan: QdqPlan,
    ranges: Mapping[str, TensorRange],
    refinement: Refinement,
    *,
    fp16_scales: bool = False,
) -> ir.Model:
    """Inserts the plan's Q/DQ in place, with rounded weights and corrected biases where there are any.

    Args:
        model: as `plan_refined` left it.
        plan: from there.
        ranges: from there.
        refinement: the same.
        fp16_scales: round every scale to FP16, for a model that is converted to FP16 afterwards.
    """
    quantized = {edge.node for edge in plan.weights}
    add_biases(model, {node: bias for node, bias in refinement.biases.items() if node in quantized})
    params = activation_params(plan, ranges)
    return insert_qdq(model, plan, params, weights=refinement.weights, fp16_scales=fp16_scales)
