"""Quantization for ONNX Runtime's CPU kernels: rewrite, plan, insert Q/DQ, fix up. Each step is a module."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.passes.qdq_fixups_cpu import align_channels, keep_float_weights, pad_quantized, quantize_biases
from quantkit.graph.passes.rewrites_cpu import rewrite_for_cpu
from quantkit.graph.passes.unsaturated_weights import unsaturated_weights
from quantkit.graph.placement.activation_bounds import activation_bounds, bounded_tensors
from quantkit.graph.placement.onnxruntime_cpu import plan_cpu
from quantkit.graph.quant_params import cpu_params, shared_ranges
from quantkit.numerics import QuantParams
from quantkit.types import QdqPlan, TensorRange


def quantize_for_cpu(
    model: ir.Model,
    ranges: Mapping[str, TensorRange],
    *,
    exclude: Sequence[str] = (),
    always_zero: Collection[str] = (),
    reduce_range: bool = False,
    name: str = "the model",
) -> tuple[ir.Model, QdqPlan]:
    """Quantizes a prepared `model`, in place.

    Args:
        model: prepared, in FP32.
        ranges: calibrated range by tensor name.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        always_zero: tensors that were zero on every sample; they are quantized with the range of 0 to 1.
        reduce_range: weights of 7 to 8 bits whose sums cannot saturate, for x86 processors without VNNI: these add two
            products of UINT8 and INT8 in 16 bits
            (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
        name: of the model, for errors.

    Returns:
        The model and its plan, which lists what stays in float, with the reason.

    Raises:
        ModelError: no node can be quantized, or an exclusion matches nothing.
        CalibrationError: naming the tensors that have no range.
    """
    plan = plan_cpu(rewrite_for_cpu(model), exclude=exclude, weight_bits=7 if reduce_range else 8, name=name)
    known = {tensor: TensorRange(amax=1.0, minimum=0.0, maximum=0.0) for tensor in always_zero} | dict(ranges)
    for tensor in bounded_tensors(model) & known.keys():
        seen = known[tensor]
        known[tensor] = replace(seen, amax=max(abs(seen.low), abs(seen.high), seen.amax))
    bounds = activation_bounds(model, plan)
    params: dict[str, QuantParams] = {}
    for tensor, value_range in shared_ranges(plan, known).items():
        low, high = bounds.get(tensor, (-np.inf, np.inf))
        params[tensor] = cpu_params(value_range, low=low, high=high)
    insert_qdq(model, plan, params, weights=unsaturated_weights(model, plan) if reduce_range else None)
    for fix_up in (quantize_biases, keep_float_weights, pad_quantized, align_channels):
        fix_up(model)
    return model, plan


def cpu_tensors(model: ir.Model, *, exclude: Sequence[str] = (), name: str = "the model") -> tuple[str, ...]:
    """Tensors of a prepared `model` that `quantize_for_cpu` needs ranges of; the model stays as it is."""
    return plan_cpu(rewrite_for_cpu(model.clone()), exclude=exclude, name=name).tensors
