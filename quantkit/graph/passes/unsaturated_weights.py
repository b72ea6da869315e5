"""Weights for x86 processors without VNNI, which add two products of UINT8 and INT8 in 16 bits, with saturation.

Two codes of one sign that add up to at most 128 cannot saturate, whatever the activations are: 255 * 128 < 2^15. Half
of the range, 7 bits, always does; a channel whose largest weight stands alone is given more of it. What that costs is
mostly a shift of the mean, since many small weights are rounded alike: they are rounded so that their sums stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.passes.prepare import constant_of
from quantkit.numerics import SMALLEST_SCALE
from quantkit.types import QdqPlan, RoundedWeight

_LARGEST_CODE = 127
_LARGEST_SUM = 128
"""Largest sum of two codes of one sign that cannot saturate, whatever the activations are."""
_ROUNDED_UP = 2
"""What rounding adds to such a sum at most."""

_Floats = npt.NDArray[np.float64]


def unsaturated_weights(model: ir.Model, plan: QdqPlan) -> dict[str, RoundedWeight]:
    """Weights of a plan that have a scale for each output channel, by name; other weights are left to 7 bits.

    Args:
        model: of which the plan was made.
        plan: for ONNX Runtime's CPU kernels.
    """
    nodes = {node.name: node for node in model.graph}
    made = {}
    for edge in plan.weights:
        tensor = constant_of(nodes[edge.node].inputs[edge.index])
        array = None if tensor is None else np.asarray(tensor.numpy(), np.float64)
        if edge.axis is None or array is None or not array.size or not np.isfinite(array).all():
            continue
        channels = np.moveaxis(array, edge.axis, 0)
        scale = unsaturated_scales(channels.reshape(len(channels), -1))
        kernels = channels.reshape(*channels.shape[:2], -1) / scale[:, None, None].astype(np.float64)
        codes = round_keeping_sums(kernels).astype(np.int8).reshape(channels.shape)
        codes = np.ascontiguousarray(np.moveaxis(codes, 0, edge.axis))
        made[edge.tensor] = RoundedWeight(codes, scale, edge.axis)
    return made


def unsaturated_scales(weights: _Floats) -> npt.NDArray[np.float32]:
    """The smallest scale of each channel [C, K] with which no two products of one sign saturate, 8 bits at most.

    >>> scales = unsaturated_scales(np.array([[1.27, 0.0], [1.26, 1.26], [0.63, -1.26]]))
    >>> [round(float(scale), 4) for scale in scales]
    [0.0101, 0.02, 0.01]
    """
    largest = np.zeros((len(weights), 2))
    for place, sign in enumerate((1, -1)):
        ordered = np.sort(np.maximum(sign * weights, 0), axis=1)
        largest[:, place] = ordered[:, -2:].sum(axis=1)
    by_sum = largest.max(axis=1) / (_LARGEST_SUM - _ROUNDED_UP)
    scale = np.maximum(by_sum, np.abs(weights).max(axis=1) / _LARGEST_CODE)
    used = scale > SMALLEST_SCALE
    return np.where(used, scale, scale[used].mean() if used.any() else 1.0).astype(np.float32)


def round_keeping_sums(kernels: _Floats) -> _Floats:
    """Rounds [C, I, K] up or down so that the error of each kernel of K and of each channel of I x K sums up to little.

    Inputs are much alike within a kernel, and have a mean that is not 0: what rounding adds to a sum of weights
    shifts the output. Errors of a kernel add up to at most 1, those of a channel to at most 1/2. Source: Guo et al.
    (2022), SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation.

    >>> round_keeping_sums(np.array([[[0.4, 0.4, 0.4, 0.4]]])).tolist()
    [[[1.0, 1.0, 0.0, 0.0]]]
    """
    codes = np.rint(kernels)
    error = codes - kernels
    # Within each kernel: as many as their sum says go to their other neighbor, those that are farthest from it first.
    total = error.sum(axis=2, keepdims=True)
    _flip(codes, error, np.sign(total) * error, total)
    # Then among the kernels of a channel whose sum has the sign of the channel's: in each of them one at most.
    kernel_sums = error.sum(axis=2)
    total = kernel_sums.sum(axis=1, keepdims=True)
    toward = np.where((np.sign(total) * kernel_sums > 0)[..., None], np.sign(total)[..., None] * error, 0)
    best = toward.argmax(axis=2)[..., None]
    chosen_error = np.take_along_axis(error, best, 2)[..., 0]
    chosen_codes = np.take_along_axis(codes, best, 2)[..., 0]
    _flip(chosen_codes, chosen_error, np.take_along_axis(toward, best, 2)[..., 0], total)
    np.put_along_axis(codes, best, chosen_codes[..., None], 2)
    return codes


def _flip(codes: _Floats, error: _Floats, toward: _Floats, total: _Floats) -> None:
    """Moves the `|total|` elements of each row with the largest `toward` by one against the sign of the total."""
    rank = np.argsort(np.argsort(-toward, axis=-1, kind="stable"), axis=-1, kind="stable")
    step = np.sign(total) * ((rank < np.rint(np.abs(total))) & (toward > 0))
    codes -= step
    error -= step
