"""Quantization of arrays, the one place in quantkit that rounds; and image geometry: where pixels lie.

Rounding is half to even and saturating, as ONNX defines QuantizeLinear
(https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html), also for FP8: what lies beyond 448, infinity too, becomes
448, and NaN stays NaN. The encodings of FP8 and INT4 are those of ml_dtypes, which onnx computes with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError, DatasetError
from quantkit.types import INT8, Array, Preprocessing, QuantFormat, weight_format

SMALLEST_SCALE = np.float32(2.0**-100)
"""Scales below it count as 0: their reciprocals and products would overflow or underflow."""

SMALLEST_HALF = np.float32(2.0**-24)
"""Smallest positive FP16 number: a scale below it would become 0, which TensorRT rejects."""

LARGEST_HALF = np.float32(65504)
"""Largest finite FP16 number."""

_CHUNK = 32768
"""Values handled at once: intermediate arrays stay in the second-level cache."""

_STORAGE: dict[tuple[str, int], np.dtype] = {
    ("int", 4): np.dtype(ml_dtypes.int4),
    ("int", 8): np.dtype(np.int8),
    ("uint", 8): np.dtype(np.uint8),
    ("float", 8): np.dtype(ml_dtypes.float8_e4m3fn),
}
"""Array type that stores the values of a format: kind and bits. A new kind is added here and to `value_bounds`."""

_LARGEST_FP8 = 448
_FP8_HEADROOM = 4  # times what was seen: two of the 15 octaves of E4M3, which cost nothing


@functools.cache
def value_bounds(fmt: QuantFormat) -> tuple[int, int]:
    """Smallest and largest quantized value of a format.

    Example:
        >>> from quantkit.types import FP8, INT8, UINT8, block_format, weight_format
        >>> [value_bounds(fmt) for fmt in (INT8, UINT8, weight_format(0), weight_format(0, bits=7))]
        [(-128, 127), (0, 255), (-127, 127), (-63, 63)]
        >>> [value_bounds(fmt) for fmt in (FP8, block_format(128))]
        [(-448, 448), (-8, 7)]
    """
    if fmt.kind == "float":
        return -_LARGEST_FP8, _LARGEST_FP8
    if fmt.kind == "uint":
        return int(fmt.narrow_range), 2**fmt.bits - 1
    high = int(2 ** (fmt.bits - 1)) - 1
    return -high if fmt.narrow_range else -high - 1, high


def decibels(signal: float, noise: float) -> float:
    """Signal-to-noise ratio in dB of two sums of squares: inf without noise, -inf without signal.

    >>> decibels(100.0, 1.0)
    20.0
    """
    if noise == 0:
        return math.inf
    return -math.inf if signal == 0 or math.isinf(noise) else 10 * (math.log10(signal) - math.log10(noise))


@dataclass(frozen=True)
class QuantParams:
    """Scale, zero point and format of quantization: ``q = saturate(round(x / scale) + zero_point)``.

    Attributes:
        scale: float32, shape [] (per-tensor), [C] (per-channel along `axis`), or that of the array with one value for
            each block along `axis`, the last of which may be shorter.
        zero_point: quantized value of 0.0; 0 for symmetric quantization, the only one that TensorRT takes.
        axis: dimension that the scales belong to; None if and only if `scale` is one number.
        format: of the quantized values.

    Raises:
        CalibrationError: a scale is not positive and finite, the zero point is not a value of the format, or the
            number of scales contradicts the axis or the granularity.
    """

    scale: npt.NDArray[np.float32]
    zero_point: int = 0
    axis: int | None = None
    format: QuantFormat = INT8

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.asarray(self.scale, np.float32))
        granularity = self.format.granularity
        if self.format.bits > 8 or _storage_key(self.format) not in _STORAGE:
            raise CalibrationError(f"quantkit cannot compute with {self.format}")
        rank = {"tensor": 0, "channel": 1, "block": max(self.scale.ndim, 1)}[granularity]
        if self.scale.ndim != rank or (self.axis is None) != (rank == 0):
            raise CalibrationError(f"scale of shape {self.scale.shape} with axis {self.axis} and {self.format}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError("every scale must be positive and finite")
        low, high = value_bounds(self.format)
        if self.format.kind == "float":
            low = high = 0
        if not low <= self.zero_point <= high:
            raise CalibrationError(f"zero point {self.zero_point} is outside {low} to {high}")

    @property
    def dtype(self) -> np.dtype:
        """Array type that stores the quantized values."""
        return storage_type(self.format)

    @classmethod
    def from_amax(cls, amax: float, fmt: QuantFormat = INT8) -> QuantParams:
        """Symmetric parameters with one scale for an activation within [-amax, amax]; FP8 has room for larger values.

        Example:
            >>> float(QuantParams.from_amax(254.0).scale)
            2.0
        """
        largest = value_bounds(fmt)[1] / (_FP8_HEADROOM if fmt.kind == "float" else 1)
        # Divided in float64: a scale read from a cache as 127 * scale comes back bit for bit.
        return cls(scale=np.asarray(float(amax) / largest, np.float32), format=fmt)


def quantize_array(x: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[Any]:
    """Quantizes `x`: ``saturate(round_half_even(x / scale) + zero_point)``.

    Args:
        x: float array of any shape; for per-channel parameters, `x.shape[axis]` equals the number of scales.
        params: scale, zero point and format.

    Returns:
        An array of `x.shape` and `params.dtype`.

    Example:
        >>> quantize_array(np.array([-2.0, 0.1, 0.5], np.float32), QuantParams.from_amax(1.27)).tolist()
        [-128, 10, 50]
    """
    # In place and in float32, which holds every quantized value: a large weight is copied once, not four times.
    values = np.asarray(np.asarray(x, np.float32) / _broadcast(params, x.shape))
    if params.format.kind != "float":
        np.rint(values, out=values)
        values += np.float32(params.zero_point)
    np.clip(values, *value_bounds(params.format), out=values)
    return values.astype(params.dtype)


def dequantize_array(q: npt.NDArray[Any], params: QuantParams) -> npt.NDArray[np.float32]:
    """Inverse of `quantize_array` up to rounding: ``(q - zero_point) * scale``, float32, shape of `q`."""
    scale = _broadcast(params, q.shape)
    if params.format.kind == "float":
        return np.asarray(q.astype(np.float32) * scale, np.float32)
    return np.asarray((q.astype(np.int32) - np.int32(params.zero_point)) * scale, np.float32)


def fake_quantize(x: Array, scale: float | npt.NDArray[np.float32], fmt: QuantFormat = INT8) -> Array:
    """What is left of `x` behind symmetric Q/DQ, in the type of `x`.

    Args:
        x: float array of any shape.
        scale: one for all, or an array that broadcasts against `x`.
        fmt: of the quantized values; only its kind and bits count.

    Example:
        >>> fake_quantize(np.array([-2.0, 0.104], np.float32), 0.01).tolist()
        [-1.2799999713897705, 0.09999999403953552]
    """
    if isinstance(scale, np.ndarray):
        values = np.asarray(np.asarray(x, np.float32) / scale)
        return np.asarray(round_values(values, fmt) * scale, x.dtype)
    result = np.empty(x.shape, x.dtype)
    flat, out = np.ascontiguousarray(x).reshape(-1), result.reshape(-1)
    step = np.float32(scale)
    for start in range(0, flat.size, _CHUNK):
        values = round_values(flat[start : start + _CHUNK].astype(np.float32) / step, fmt)
        np.multiply(values, step, out=out[start : start + _CHUNK], casting="same_kind")
    return result


def round_values(values: npt.NDArray[Any], fmt: QuantFormat) -> npt.NDArray[Any]:
    """The quantized values of a symmetric format nearest to `values`, which are overwritten.

    >>> round_values(np.array([0.3, 17.2, 500.0]), QuantFormat("float", 8)).tolist()
    [0.3125, 18.0, 448.0]
    """
    if fmt.kind != "float":
        np.rint(values, out=values)
    low, high = value_bounds(fmt)
    np.minimum(np.maximum(values, low, out=values), high, out=values)  # np.clip takes longer than both on few values
    if fmt.kind == "float":
        values[...] = values.astype(storage_type(fmt))
    return values


def weight_params(weight: npt.NDArray[np.floating], axis: int | None, fmt: QuantFormat | None = None) -> QuantParams:
    """Symmetric parameters of a weight: amax / largest quantized value, per slice of `axis` or of the whole tensor.

    A slice of zeros gets the mean scale of the others, because TensorRT rejects a scale that is not positive, and with
    a tiny one the products would underflow in FP16.

    Args:
        weight: float array.
        axis: output-channel axis, or that of the blocks; None for one scale.
        fmt: default: `weight_format(axis)`, 8 bits.

    Returns:
        Parameters with `scale` of shape [weight.shape[axis]] or [], or of a value for each block.
    """
    fmt = fmt or weight_format(axis)
    largest = np.float32(value_bounds(fmt)[1])
    magnitude = np.abs(np.asarray(weight, np.float32))
    if fmt.block is not None and axis is not None:
        starts = np.arange(0, magnitude.shape[axis], fmt.block)
        scale = np.asarray(np.maximum.reduceat(magnitude, starts, axis=axis) / largest, np.float32)
    else:
        others = None if axis is None else tuple(i for i in range(magnitude.ndim) if i != axis)
        scale = np.asarray(magnitude.max(axis=others, initial=np.float32(0)) / largest, np.float32)
    used = scale > SMALLEST_SCALE
    fill = np.float32(scale[used].mean()) if used.any() else np.float32(1)
    return QuantParams(scale=np.where(used, scale, fill), axis=axis, format=fmt)


def half_scale(scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scales that are exact in FP16, rounded up so that no more values are clipped.

    >>> half_scale(np.array([1.0, 1.0001], np.float32)).tolist()
    [1.0, 1.0009765625]
    """
    wide = np.maximum(scale, SMALLEST_HALF)
    half = wide.astype(np.float16)
    half = np.where(half.astype(np.float32) < wide, np.nextafter(half, np.float16(np.inf)), half)
    return half.astype(np.float32)


_RATIOS: dict[str, tuple[float, ...]] = {
    "int": (1.0, 0.95, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6),
    "float": tuple(2.0 ** (k / 16) for k in range(16)),
}
"""Multiples of the scale that clips nothing. With 7/8 the largest weight of a block is -8 steps, if it is negative. The
numbers of FP8 are spaced alike in every octave, so that the scales of one octave are all there are."""


def least_error_params(
    weight: npt.NDArray[np.floating], axis: int | None, fmt: QuantFormat, *, importance: npt.ArrayLike = 1.0
) -> QuantParams:
    """Parameters of a weight that make the squared error least, with scales that are exact in FP16 where it has them.

    Blocks are clipped where that is better. Scales of FP8 clip nothing: they decide how the weights lie between its
    numbers. Those of INT8 are the ones of `weight_params`, which TensorRT's implicit quantization computes as well.

    Args:
        weight: float array.
        axis: output-channel axis, or that of the blocks; None for one scale.
        fmt: of the quantized values.
        importance: what the squared errors are multiplied with, broadcast against `weight`.
    """
    widest = weight_params(weight, axis, fmt)
    if fmt.kind != "float" and fmt.block is None:
        return widest
    best, least = widest.scale, np.full(widest.scale.shape, np.inf)
    for ratio in _RATIOS[fmt.kind]:
        wanted = np.maximum(widest.scale * np.float32(ratio), SMALLEST_HALF)
        scale = np.where(wanted > LARGEST_HALF, wanted, np.minimum(wanted, LARGEST_HALF).astype(np.float16))
        params = QuantParams(scale=scale, axis=axis, format=fmt)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite errors choose nothing
            error = np.square(dequantize_array(quantize_array(weight, params), params) - weight)
            error = error * np.asarray(importance)
            found = _sum_for_scales(error, axis, fmt)
        best, least = np.where(found < least, params.scale, best), np.minimum(found, least)
    return QuantParams(scale=best, axis=axis, format=fmt)


def _sum_for_scales(values: npt.NDArray[Any], axis: int | None, fmt: QuantFormat) -> npt.NDArray[Any]:
    """Sums of the values that share a scale; shaped as the scales."""
    if fmt.block is not None and axis is not None:
        return np.add.reduceat(values, np.arange(0, values.shape[axis], fmt.block), axis=axis)
    return np.asarray(values.sum(axis=tuple(i for i in range(values.ndim) if i != axis)))


def storage_type(fmt: QuantFormat) -> np.dtype:
    """Array type that stores the quantized values of a format in a model."""
    return _STORAGE[_storage_key(fmt)]


def code_type(fmt: QuantFormat) -> np.dtype:
    """Array type of the same values in memory and in files of weights: int8 for integers of any number of bits."""
    return storage_type(fmt) if fmt.kind == "float" else np.dtype(np.int8)


def _storage_key(fmt: QuantFormat) -> tuple[str, int]:
    return fmt.kind, 4 if fmt.bits <= 4 else 8


def _broadcast(params: QuantParams, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """The scales, as they broadcast against an array of `shape`."""
    if params.axis is None:
        return params.scale
    if params.format.block is not None:
        width = shape[params.axis]
        return np.repeat(params.scale, params.format.block, axis=params.axis).take(range(width), axis=params.axis)
    ones = [1] * len(shape)
    ones[params.axis] = -1
    return params.scale.reshape(ones)


@dataclass(frozen=True)
class ImageTransform:
    """How an image is fitted into a model's input: resized, then moved; all pairs are (height, width) or (down, right).

    Attributes:
        image_size: of the image, upright, in pixels.
        resized: what the image is resized to.
        offset: where its top left corner comes to lie in the input: positive is padding, negative is cut off.
        input_size: of the model's input.
    """

    image_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    input_size: tuple[int, int]

    def image_from_input(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Boxes [M, 4] (left, top, right, bottom) in pixels of the input → the same in pixels of the image, clipped."""
        (height, width), (top, left) = self.image_size, self.offset
        down, right = (new / old for new, old in zip(self.resized, self.image_size, strict=True))
        offset, scale = (np.array([x, y, x, y], np.float64) for x, y in ((left, top), (right, down)))
        moved: npt.NDArray[np.float64] = (corners - offset) / scale
        return np.clip(moved, 0, np.array([width, height, width, height], np.float64))


def fit_image(image_size: tuple[int, int], preprocessing: Preprocessing) -> ImageTransform:
    """How `preprocessing` fits an image of (height, width) pixels.

    Rounding is torchvision's for "crop" (Resize, CenterCrop), Ultralytics' for "letterbox" (an odd pixel of padding
    goes right and below), and PaddleOCR's for "height" (RecResizeImg) and "limit" (DetResizeForTest, limit_type max).

    Raises:
        DatasetError: a user's function prepares the images.
    """
    if preprocessing.function is not None:
        raise DatasetError(
            f"{preprocessing.function} prepares the images: where their pixels lie in the model's input, which boxes "
            "and masks need, is not known"
        )
    size, step = preprocessing.size, preprocessing.multiple_of or 1
    if preprocessing.resize == "stretch":
        return ImageTransform(image_size, size, (0, 0), size)
    if preprocessing.resize == "crop":
        return _fit_crop(image_size, preprocessing)
    ratios = tuple(want / have for want, have in zip(size, image_size, strict=True))
    if preprocessing.resize == "limit":
        height, width = (max(step, round(have * min(1.0, *ratios) / step) * step) for have in image_size)
        return ImageTransform(image_size, (height, width), (0, 0), (height, width))
    if preprocessing.resize == "height":
        height, width = size[0], min(size[1], math.ceil(image_size[1] * size[0] / image_size[0]))
    else:
        height, width = (
            max(1, min(want, round(have * min(ratios)))) for have, want in zip(image_size, size, strict=True)
        )
    rows, columns = (
        math.ceil(side / step) * step if varies else want
        for side, varies, want in zip((height, width), preprocessing.varying, size, strict=True)
    )
    centered = preprocessing.pad_position == "center"
    offset = ((rows - height) // 2, (columns - width) // 2) if centered else (0, 0)
    return ImageTransform(image_size, (height, width), offset, (rows, columns))


def _fit_crop(image_size: tuple[int, int], preprocessing: Preprocessing) -> ImageTransform:
    """Shorter side to the one that is declared, then the center."""
    size = preprocessing.size
    assert preprocessing.shorter_side is not None
    short, long = min(image_size), max(image_size)
    longer_side = int(preprocessing.shorter_side * long / short)
    portrait = image_size[1] <= image_size[0]
    resized = (longer_side, preprocessing.shorter_side) if portrait else (preprocessing.shorter_side, longer_side)
    top, left = (round((have - want) / 2) for have, want in zip(resized, size, strict=True))
    return ImageTransform(image_size, resized, (-top, -left), size)
