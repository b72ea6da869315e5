"""Which operators a number format is not for, beyond what holds for all of them.

FP8 has fewer kernels than INT8. Convolutions with more than 32 positions in their kernel, and transposed ones, TensorRT
and TensorRT-RTX compute in FP16 whatever Q/DQ say; for grouped ones there is no optimized kernel (release notes of
TensorRT 10.16.1, limitations). With 16 channels or fewer on one side FP8 is slower than FP16, which NVIDIA ModelOpt
leaves such convolutions in (0.47, onnx/quantization/graph_utils.py). Weights of matrix products have one scale: scales
for each channel came with TensorRT 10.6 (its release notes), on Hopper alone, and a floating-point format needs them
less.

INT4 needs blocks of 64 or 128 weights, all of the same size (TensorRT documentation, "Quantization Schemes":
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import WEIGHTED_OPS, constant_of, is_standard
from quantkit.numerics import LARGEST_HALF, value_bounds
from quantkit.types import BLOCK_SIZES, QuantFormat

_LARGEST_KERNEL = 32
"""Positions."""

_FEW_CHANNELS = 16
"""On either side of a convolution."""


def format_obstacle(node: ir.Node, fmt: QuantFormat, *, quantize_all: bool = False) -> str:
    """Why a Conv, ConvTranspose, Gemm or MatMul stays in float with this format of activations; "" if it does not.

    Args:
        node: with constant weights, as far as it is a convolution.
        fmt: of activations.
        quantize_all: also what the format does not speed up.
    """
    if fmt.kind != "float":
        return ""
    if is_standard(node, "ConvTranspose"):
        return "TensorRT has no FP8 kernels for transposed convolutions"
    weight = constant_of(node.inputs[1]) if is_standard(node, "Conv") else None
    if weight is None:
        return ""
    outputs, inputs, *kernel = weight.shape.numpy()
    positions = math.prod(kernel)
    if positions > _LARGEST_KERNEL:
        return f"TensorRT has no FP8 kernels for {positions} positions (at most {_LARGEST_KERNEL})"
    if quantize_all:
        return ""
    if node.attributes.get_int("group", 1) > 1:
        return "grouped convolution: TensorRT has no optimized FP8 kernels for it"
    if min(inputs, outputs) <= _FEW_CHANNELS:
        return f"{inputs} to {outputs} channels: with {_FEW_CHANNELS} or fewer FP8 is not faster than FP16"
    return ""


def largest_magnitude(value: ir.Value | None) -> float:
    """Largest magnitude in a constant; 0 for anything else."""
    tensor = constant_of(value)
    return 0.0 if tensor is None else float(np.abs(tensor.numpy().astype(np.float64)).max(initial=0.0))


def too_large_for_half(model: ir.Model, amax: Mapping[str, float], fmt: QuantFormat) -> dict[str, str]:
    """Activations that stay in float where scales are FP16, with the reason: their own scale, or that of a weight.

    Args:
        model: prepared.
        amax: of activations, by name.
        fmt: of activations; that of weights has numbers as large.
    """
    largest = float(LARGEST_HALF) * value_bounds(fmt)[1]
    text = "too large for a scale in FP16: up to {:.3g}"
    found: dict[str, str] = {}
    for node in model.graph:
        first, second = node.inputs[:2] if is_standard(node, *WEIGHTED_OPS) else (None, None)
        for data, weight in ((first, second), (second, first)):
            if (reach := largest_magnitude(weight)) > largest:
                found[name_of(data)] = f"read with {name_of(weight)}, which is {text.format(reach)}"
    return {**{name: text.format(reach) for name, reach in amax.items() if reach > largest}, **found}


def weight_granularity(node: ir.Node, axis: int | None, fmt: QuantFormat) -> int | None:
    """Axis of the scales of a weight, beside activations of this format; None for one scale.

    Args:
        node: that reads the weight.
        axis: of the output channels.
        fmt: of activations.
    """
    return axis if fmt.kind != "float" or is_standard(node, "Conv") else None


def block_size(width: int, wanted: int) -> int | None:
    """The largest size of blocks, up to what is wanted, that K inputs divide into; None if there is none.

    Example:
        >>> [block_size(width, 128) for width in (768, 192, 101, 200)]
        [128, 64, None, None]
    """
    return max((size for size in BLOCK_SIZES if size <= wanted and width % size == 0), default=None)
