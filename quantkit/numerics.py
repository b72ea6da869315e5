"""Uniform quantization of arrays, the one place in quantkit that rounds; and image geometry: where pixels lie.

Rounding is half to even and saturating, as ONNX defines QuantizeLinear
(https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError, DatasetError
from quantkit.types import INT8, Array, Preprocessing, QuantFormat, weight_format

SMALLEST_SCALE = np.float32(2.0**-100)
"""Scales below it count as 0: their reciprocals and products would overflow or underflow."""

_CHUNK = 32768
"""Values handled at once: intermediate arrays stay in the second-level cache."""

_STORAGE: dict[str, np.dtype] = {"int": np.dtype(np.int8), "uint": np.dtype(np.uint8)}
"""Array type that stores the values of each kind of format. A new kind is added here and to `value_bounds`."""


def value_bounds(fmt: QuantFormat) -> tuple[int, int]:
    """Smallest and largest quantized value of a format.

    Example:
        >>> from quantkit.types import INT8, Array, UINT8, weight_format
        >>> [value_bounds(fmt) for fmt in (INT8, UINT8, weight_format(0), weight_format(0, bits=7))]
        [(-128, 127), (0, 255), (-127, 127), (-63, 63)]
    """
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
    """Scale, zero point and format of uniform quantization: ``q = saturate(round(x / scale) + zero_point)``.

    Attributes:
        scale: float32, shape [] (per-tensor) or [C] (per-channel along `axis`).
        zero_point: quantized value of 0.0; 0 for symmetric quantization, the only one that TensorRT takes.
        axis: dimension that the scales belong to; set if and only if `scale` is 1-D.
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
        rank = {"tensor": 0, "channel": 1}.get(self.format.granularity)
        if self.format.kind not in _STORAGE or self.format.bits > 8 or rank is None:
            raise CalibrationError(f"quantkit cannot compute with {self.format}")
        if self.scale.ndim != rank or (self.axis is None) != (rank == 0):
            raise CalibrationError(f"scale of shape {self.scale.shape} with axis {self.axis} and {self.format}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError("every scale must be positive and finite")
        low, high = value_bounds(self.format)
        if not low <= self.zero_point <= high:
            raise CalibrationError(f"zero point {self.zero_point} is outside {low} to {high}")

    @property
    def dtype(self) -> np.dtype:
        """Array type that stores the quantized values."""
        return _STORAGE[self.format.kind]

    @classmethod
    def from_amax(cls, amax: float, fmt: QuantFormat = INT8) -> QuantParams:
        """Symmetric parameters with one scale: scale = amax / largest quantized value, zero point 0.

        Example:
            >>> float(QuantParams.from_amax(254.0).scale)
            2.0
        """
        # Divided in float64: a scale read from a cache as 127 * scale comes back bit for bit.
        return cls(scale=np.asarray(float(amax) / value_bounds(fmt)[1], np.float32), format=fmt)


def quantize_array(x: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.integer]:
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
    scale = _broadcast(params, x.ndim)
    # In place and in float32, which holds every quantized value: a large weight is copied once, not four times.
    values = np.asarray(x, np.float32) / scale
    values = np.asarray(np.rint(values, out=values if values.ndim else None))
    values += np.float32(params.zero_point)
    return np.asarray(np.clip(values, *value_bounds(params.format)), params.dtype)


def dequantize_array(q: npt.NDArray[np.integer], params: QuantParams) -> npt.NDArray[np.float32]:
    """Inverse of `quantize_array` up to rounding: ``(q - zero_point) * scale``, float32, shape of `q`."""
    scale, zero_point = _broadcast(params, q.ndim), params.zero_point
    return np.asarray((q.astype(np.int32) - np.int32(zero_point)) * scale, np.float32)


def fake_quantize(x: Array, scale: float | npt.NDArray[np.float32]) -> Array:
    """What is left of `x` behind symmetric INT8 Q/DQ, in the type of `x`.

    Args:
        x: float array of any shape.
        scale: one for all, or an array that broadcasts against `x`.

    Example:
        >>> fake_quantize(np.array([-2.0, 0.104], np.float32), 0.01).tolist()
        [-1.2799999713897705, 0.09999999403953552]
    """
    low, high = value_bounds(INT8)
    if isinstance(scale, np.ndarray):
        return np.asarray(np.clip(np.rint(x.astype(np.float32) / scale), low, high) * scale, x.dtype)
    result = np.empty(x.shape, x.dtype)
    flat, out = np.ascontiguousarray(x).reshape(-1), result.reshape(-1)
    step = np.float32(scale)
    for start in range(0, flat.size, _CHUNK):
        values = flat[start : start + _CHUNK].astype(np.float32) / step
        np.rint(values, out=values)
        np.clip(values, low, high, out=values)
        np.multiply(values, step, out=out[start : start + _CHUNK], casting="same_kind")
    return result


def weight_params(weight: npt.NDArray[np.floating], axis: int | None, fmt: QuantFormat | None = None) -> QuantParams:
    """Symmetric parameters of a weight: amax / largest quantized value, per slice of `axis` or of the whole tensor.

    A slice of zeros gets the mean scale of the others, because TensorRT rejects a scale that is not positive, and with
    a tiny one the products would underflow in FP16.

    Args:
        weight: float array.
        axis: output-channel axis; None for one scale.
        fmt: default: `weight_format(axis)`, 8 bits.

    Returns:
        Parameters with `scale` of shape [weight.shape[axis]] or [].
    """
    fmt = fmt or weight_format(axis)
    largest = np.float32(value_bounds(fmt)[1])
    magnitude = np.abs(np.asarray(weight, np.float32))
    others = None if axis is None else tuple(i for i in range(magnitude.ndim) if i != axis)
    scale = np.asarray(magnitude.max(axis=others, initial=np.float32(0)) / largest, np.float32)
    used = scale > SMALLEST_SCALE
    fill = np.float32(scale[used].mean()) if used.any() else np.float32(1)
    return QuantParams(scale=np.where(used, scale, fill), axis=axis, format=fmt)


def _broadcast(params: QuantParams, ndim: int) -> npt.NDArray[np.float32]:
    if params.axis is None:
        return params.scale
    shape = [1] * ndim
    shape[params.axis] = -1
    return params.scale.reshape(shape)


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
        height, width = (_round_side(have * min(1.0, *ratios), step) for have in image_size)
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


def _round_side(length: float, step: int) -> int:
    return max(step, round(length / step) * step)
