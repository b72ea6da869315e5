"""Quantization for TensorRT: plan, scale channels, correct biases, insert Q/DQ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.layer_constants import add_biases, constant_array
from quantkit.graph.passes.channel_scale import apply_channel_scales, scalable_tensors
from quantkit.graph.passes.edits import Names, name_of, replace_constant
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.passes.shift import apply_shifts, constant_product
from quantkit.graph.placement.tensorrt import exclude_tensors, plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.numerics import QuantParams, dequantize_array, least_error_params, quantize_array
from quantkit.types import INT8, QdqPlan, QuantFormat, Refinement, TensorRange


@dataclass(frozen=True)
class RefinedPlan:
    """A plan for a model whose activations were shifted and scaled.

    Attributes:
        qdq: the plan.
        ranges: of what it quantizes.
        offsets: by weighted node: what was subtracted from its activation, [C], in the unit of what is quantized.
        folded: by activation: factors that nothing but constants holds, in a shape that broadcasts against it.
    """

    qdq: QdqPlan
    ranges: Mapping[str, TensorRange]
    offsets: Mapping[str, npt.NDArray[np.floating]]
    folded: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def plan_refined(
    model: ir.Model,
    ranges: Mapping[str, TensorRange],
    refinement: Refinement,
    *,
    exclude: Sequence[str] = (),
    in_float: Mapping[str, str] | None = None,
    quantize_all: bool = False,
    fmt: QuantFormat = INT8,
    apart: Collection[str] = (),
) -> RefinedPlan:
    """Plans Q/DQ, and shifts and scales the channels of activations in place.

    Args:
        model: prepared, of which the ranges are; it computes the same afterwards.
        ranges: by activation.
        refinement: with the shifts and channel scales.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        in_float: activations whose readers stay in float, with the reason.
        quantize_all: also what INT8 does not speed up.
        fmt: of activations.
        apart: nodes that are planned otherwise.

    Raises:
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    plan = plan_tensorrt(model, exclude=exclude, quantize_all=quantize_all, fmt=fmt, apart=apart)
    plan = exclude_tensors(plan, in_float or {})
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
    offsets = {
        reader: offset * scales.get(moved[name], np.float32(1))
        for name, offset in shifts.items()
        for reader in sites[name].readers
    }
    folded = {
        name: np.asarray(sites[name].broadcast(factors), np.float32)
        for name, factors in refinement.channel_scales.items()
        if name in sites and scaled[moved.get(name, name)] == moved.get(name, name)
    }
    return RefinedPlan(plan, known, offsets, folded)


def insert_refined_qdq(
    model: ir.Model, plan: RefinedPlan, refinement: Refinement, *, fp16_scales: bool = False
) -> ir.Model:
    """Inserts the plan's Q/DQ in place, with rounded weights and corrected biases where there are any.

    Args:
        model: as `plan_refined` left it.
        plan: from there.
        refinement: the same.
        fp16_scales: round every scale to FP16, for a model that is converted to FP16 afterwards.
    """
    _correct_biases(model, plan, refinement)
    params = activation_params(plan.qdq, plan.ranges)
    return insert_qdq(model, plan.qdq, params, weights=refinement.weights, fp16_scales=fp16_scales)


def on_weight_grid(model: ir.Model, plan: RefinedPlan, refinement: Refinement) -> ir.Model:
    """Gives a float model, in place, the weights and biases that it would have behind Q/DQ.

    TensorRT's implicit quantization scales a weight by its largest magnitude. The largest code of each scale is 127, so
    that it finds the same codes again.

    Args:
        model: as `plan_refined` left it.
        plan: from there.
        refinement: the same.
    """
    _correct_biases(model, plan, refinement)
    names, nodes = Names(model), {name_of(node): node for node in model.graph}
    for edge in plan.qdq.weights:
        rounded = refinement.weights.get(edge.tensor)
        if rounded is not None and rounded.axis == edge.axis:
            params = QuantParams(scale=rounded.scale, axis=edge.axis, format=edge.format)
            array = dequantize_array(rounded.codes, params)
            replace_constant(names, nodes[edge.node], edge.index, array, name=edge.tensor)
    return model


def _correct_biases(model: ir.Model, plan: RefinedPlan, refinement: Refinement) -> None:
    """Adds what calibration found, and to others behind a shift what their rounded weights make of it.

    A shift is taken back by W m in the bias. With the quantized weight in its place, the error of the weight meets the
    activation as it was, and not its distance from m.
    """
    biases = {edge.node: refinement.biases[edge.node] for edge in plan.qdq.weights if edge.node in refinement.biases}
    nodes = {name_of(node): node for node in model.graph}
    for edge in plan.qdq.weights:
        if edge.node in plan.offsets and edge.node not in biases and edge.tensor not in refinement.weights:
            weight = constant_array(model, edge.tensor)
            params = least_error_params(weight, edge.axis, edge.format)
            error = dequantize_array(quantize_array(weight, params), params) - np.asarray(weight, np.float32)
            delta = constant_product(nodes[edge.node], error, plan.offsets[edge.node])
            biases[edge.node] = np.asarray(delta, np.float32)
    add_biases(model, biases)
