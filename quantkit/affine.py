"""Affine quantization of arrays: the one place in quantkit that rounds.

Rounding is half to even and saturating, as ONNX QuantizeLinear defines it
(https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.types import QuantParams

__all__ = ["dequantize", "quantize", "weight_params"]

_SMALLEST_SCALE = np.float32(2.0**-100)


def quantize(x: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.integer]:
    """Quantizes `x` to `params.dtype`: ``saturate(round_half_even(x / scale) + zero_point)``.

    Args:
        x: any shape; for per-axis parameters, `x.shape[axis]` equals the number of scales.
        params: scale, zero point, axis, dtype and the narrowest code (-127 for weights).

    Returns:
        An array of `x.shape` and `params.dtype`.
    """
    info = np.iinfo(params.dtype)
    scale, zero_point = _broadcast(params, x.ndim), params.zero_point
    # In place and in float32, which holds every code: a large weight is copied once, not four times.
    codes = np.asarray(x, np.float32) / scale
    codes = np.asarray(np.rint(codes, out=codes if codes.ndim else None))
    codes += np.float32(zero_point)
    low = max(info.min, -info.max) if params.narrow else info.min
    return np.asarray(np.clip(codes, low, info.max), params.dtype)


def dequantize(q: npt.NDArray[np.integer], params: QuantParams) -> npt.NDArray[np.float32]:
    """Inverse of `quantize` up to rounding: ``(q - zero_point) * scale``, float32, shape of `q`."""
    scale, zero_point = _broadcast(params, q.ndim), params.zero_point
    return np.asarray((q.astype(np.int32) - np.int32(zero_point)) * scale, np.float32)


def weight_params(weight: npt.NDArray[np.floating], axis: int | None, *, levels: int = 127) -> QuantParams:
    """Symmetric INT8 parameters of a weight: amax / levels per slice of `axis`, or of the whole tensor.

    A slice of zeros gets the mean scale of the others, because TensorRT refuses a scale that is not positive
    and a tiny one would make the products underflow in FP16.

    Args:
        weight: float array.
        axis: output-channel axis, None for one scale.
        levels: the largest code; 63 leaves a bit to processors that add two products in 16 bits.

    Returns:
        Parameters with `scale` of shape [weight.shape[axis]] or [].
    """
    magnitude = np.abs(np.asarray(weight, np.float32))
    if axis is None:
        amax = magnitude.max() if magnitude.size else np.float32(0)
        scale = np.asarray(amax / np.float32(levels), np.float32)
        return QuantParams(scale=np.where(scale > _SMALLEST_SCALE, scale, np.float32(1)), narrow=True)
    others = tuple(i for i in range(magnitude.ndim) if i != axis)
    scale = np.asarray(magnitude.max(axis=others) / np.float32(levels), np.float32)
    used = scale > _SMALLEST_SCALE
    fill = np.float32(scale[used].mean()) if used.any() else np.float32(1)
    return QuantParams(scale=np.where(used, scale, fill).astype(np.float32), axis=axis, narrow=True)


def _broadcast(params: QuantParams, ndim: int) -> npt.NDArray[np.float32]:
    if params.axis is None:
        return params.scale
    shape = [1] * ndim
    shape[params.axis] = -1
    return params.scale.reshape(shape)
