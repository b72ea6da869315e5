"""Affine quantization of arrays: the one place in quantkit that rounds. And image geometry: where pixels lie.

Rounding is half to even and saturating, as ONNX QuantizeLinear defines it
(https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError
from quantkit.types import Preprocessing

__all__ = ["ImageTransform", "QuantParams", "dequantize", "fit_image", "quantize", "weight_params"]

_SMALLEST_SCALE = np.float32(2.0**-100)


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of affine quantization: ``q = saturate(round(x / scale) + zero_point)``.

    Attributes:
        scale: float32, shape [] for one scale, [C] with `axis`.
        zero_point: code of 0; 0 for everything that TensorRT takes.
        axis: which dimension the scales belong to; set if and only if `scale` is 1-D.
        dtype: int8 or uint8.
        narrow: codes from -127 instead of -128 (weights).
    """

    scale: npt.NDArray[np.float32]
    zero_point: int = 0
    axis: int | None = None
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.int8))
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.asarray(self.scale, np.float32))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if self.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
            raise CalibrationError(f"quantized type {self.dtype} must be int8 or uint8")
        if self.scale.ndim != (0 if self.axis is None else 1):
            raise CalibrationError(f"scale of shape {self.scale.shape} with axis {self.axis}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError("every scale must be positive and finite")
        info = np.iinfo(self.dtype)
        if not info.min <= self.zero_point <= info.max:
            raise CalibrationError(f"zero point {self.zero_point} is no {self.dtype}")

    @classmethod
    def from_amax(cls, amax: float) -> QuantParams:
        """Symmetric INT8: scale = amax / 127, zero point 0."""
        # Divided in double: a scale that was read from a cache as 127 * scale comes back bit for bit.
        return cls(scale=np.asarray(float(amax) / 127, np.float32))


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
        scale, offset = self._along_corners()
        height, width = self.image_size
        moved: npt.NDArray[np.float64] = (corners - offset) / scale
        return np.clip(moved, 0, np.array([width, height, width, height], np.float64))

    def input_from_image(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Boxes [M, 4] in pixels of the image → in pixels of the input, not clipped."""
        scale, offset = self._along_corners()
        moved: npt.NDArray[np.float64] = corners * scale + offset
        return moved

    def _along_corners(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        down, right = (new / old for new, old in zip(self.resized, self.image_size, strict=True))
        top, left = self.offset
        return np.array([right, down, right, down], np.float64), np.array([left, top, left, top], np.float64)


def fit_image(image_size: tuple[int, int], preprocessing: Preprocessing) -> ImageTransform:
    """How `preprocessing` fits an image of (height, width) pixels.

    Rounding is torchvision's for "crop" (Resize, CenterCrop) and Ultralytics' for "letterbox" (an odd pixel of padding
    goes right and below).
    """
    size = preprocessing.size
    if preprocessing.resize == "stretch":
        return ImageTransform(image_size, size, (0, 0), size)
    if preprocessing.resize == "crop":
        assert preprocessing.shorter_side is not None
        short, long = min(image_size), max(image_size)
        longer_side = int(preprocessing.shorter_side * long / short)
        portrait = image_size[1] <= image_size[0]
        resized = (longer_side, preprocessing.shorter_side) if portrait else (preprocessing.shorter_side, longer_side)
        top, left = (round((have - want) / 2) for have, want in zip(resized, size, strict=True))
        return ImageTransform(image_size, resized, (-top, -left), size)
    ratio = min(want / have for want, have in zip(size, image_size, strict=True))
    height, width = (max(1, min(want, round(have * ratio))) for have, want in zip(image_size, size, strict=True))
    return ImageTransform(image_size, (height, width), ((size[0] - height) // 2, (size[1] - width) // 2), size)
