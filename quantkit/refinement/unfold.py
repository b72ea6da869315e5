"""Inputs of weighted operators as columns: every Conv, ConvTranspose, Gemm and MatMul as a product of matrices.

With the weight as a matrix [G, R, K] and the input as columns [G, K, P], their product [G, R, P] is the output of the
operator without its bias, at P output positions: G groups of R output channels, each a sum over K inputs. Only a few
positions of each sample are unfolded, so that the k * k copies of an activation are never all in memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.floating]
_Positions = npt.NDArray[np.intp]

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class LayerShape(ABC):
    """What a weighted operator with a constant weight computes, as a product of matrices; see `layer_shape`.

    Attributes:
        weight_shape: of the constant operand.
    """

    weight_shape: tuple[int, ...]

    @abstractmethod
    def matrix(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The weight as [G, R, K]: groups, output channels of a group, inputs of an output channel."""

    @abstractmethod
    def weight_from(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `matrix`."""

    @abstractmethod
    def num_positions(self, input_shape: Sequence[int]) -> int:
        """Number of output positions of one sample, for an input of this shape."""

    def num_samples(self, input_shape: Sequence[int]) -> int:
        """Number of samples in an input of this shape."""
        return input_shape[0]

    @abstractmethod
    def columns(self, x: _Floats, positions: _Positions | None = None) -> npt.NDArray[np.float32]:
        """Unfolds an input.

        Args:
            x: input of the operator.
            positions: [N, P], of the output, for each of its N samples; default: all. See `spread_positions`.

        Returns:
            [G, K, N * P], sample after sample.
        """

    @abstractmethod
    def scale_shape(self, axis: int | None) -> tuple[int, int]:
        """Shape of the scales [G or 1, R or 1] of the matrix, if the weight has one along `axis` (None: one in all)."""

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """G, R and K."""
        groups, rows, width = self.matrix(np.broadcast_to(np.int8(0), self.weight_shape)).shape
        return groups, rows, width

    @property
    def output_channels(self) -> npt.NDArray[np.intp]:
        """Output channel of each row of the matrix, [G, R]; stacked matrices have the same ones."""
        groups, rows, _ = self.matrix_shape
        return np.tile(np.arange(rows), (groups, 1))


@dataclass(frozen=True)
class ConvolutionLayer(LayerShape):
    """Conv, or ConvTranspose if `is_transposed`; the other attributes are ONNX's, empty ones have ONNX's defaults.

    A transposed convolution is one over the input with zeros between its values, by flipped kernels. No such input is
    made: for each output position and kernel element the input value is looked up, if there is one.
    """

    is_transposed: bool = False
    group: int = 1
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    @property
    def _kernel(self) -> tuple[int, ...]:
        return self.weight_shape[2:]

    def matrix(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[group, C_out / group, C_in / group * kernel elements]."""
        first, second = self.weight_shape[:2]
        grouped = weight.reshape(self.group, first // self.group, second, -1)
        if self.is_transposed:
            grouped = grouped.swapaxes(1, 2)
        return grouped.reshape(*grouped.shape[:2], -1)

    def weight_from(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `matrix`."""
        kernel = math.prod(self._kernel)
        grouped = matrix.reshape(*matrix.shape[:2], -1, kernel)
        if self.is_transposed:
            grouped = grouped.swapaxes(1, 2)
        return np.ascontiguousarray(grouped).reshape(self.weight_shape)

    @property
    def output_channels(self) -> npt.NDArray[np.intp]:
        """Channels of a group are neighbors."""
        groups, rows, _ = self.matrix_shape
        return np.arange(groups * rows).reshape(groups, rows)

    def scale_shape(self, axis: int | None) -> tuple[int, int]:
        """The groups of a ConvTranspose share the scales along its output channels."""
        groups, rows, _ = self.matrix_shape
        if axis is None:
            return 1, 1
        return (1, rows) if self.is_transposed else (groups, rows)

    def num_positions(self, input_shape: Sequence[int]) -> int:
        """Number of pixels of the output."""
        return math.prod(size for size, _ in map(self._output, range(len(self._kernel)), input_shape[2:]))

    def columns(self, x: _Floats, positions: _Positions | None = None) -> npt.NDArray[np.float32]:
        """[G, C_in / group * kernel elements, N * P]; 0 for padding and between the values of a transposed input."""
        samples, channels = x.shape[:2]
        if positions is None:
            positions = np.broadcast_to(np.arange(self.num_positions(x.shape)), (samples, self.num_positions(x.shape)))
        index, is_outside = self._lookup(x.shape[2:], positions)
        kernel, _, count = index.shape
        found = np.empty((channels, kernel, samples, count), np.float32)
        for sample in range(samples):
            values = np.take(x[sample].reshape(channels, -1), index[:, sample].ravel(), axis=1)
            found[:, :, sample] = values.reshape(channels, kernel, count)
        np.copyto(found, np.float32(0), where=is_outside)
        return found.reshape(self.group, -1, samples * count)

    def _lookup(self, sizes: Sequence[int], positions: _Positions) -> tuple[_Positions, npt.NDArray[np.bool_]]:
        """Which value of a channel each kernel element meets, [kernel elements, N, P], and where it meets none."""
        outputs = [self._output(axis, size) for axis, size in enumerate(sizes)]
        at = np.unravel_index(positions, [size for size, _ in outputs])
        elements = np.unravel_index(np.arange(math.prod(self._kernel)), self._kernel)
        index = np.zeros((len(elements[0]), *positions.shape), np.intp)
        is_outside = np.zeros(index.shape, bool)
        for axis, size in enumerate(sizes):
            stride, pad = self._along(self.strides, axis), outputs[axis][1]
            offset = self._along(self.dilations, axis) * elements[axis][:, None, None]
            if self.is_transposed:
                source, between = np.divmod(at[axis] + pad - offset, stride)
                is_outside |= between != 0
            else:
                source = at[axis] * stride - pad + offset
            is_outside |= (source < 0) | (source >= size)
            index = index * size + source
        index[is_outside] = 0
        return index, is_outside

    def _output(self, axis: int, size: int) -> tuple[int, int]:
        """Output size along a spatial axis, and the padding before its first value."""
        stride, rank = self._along(self.strides, axis), len(self._kernel)
        reach = self._along(self.dilations, axis) * (self._kernel[axis] - 1) + 1
        is_same = self.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        before, after = (self.pads[axis], self.pads[axis + rank]) if self.pads else (0, 0)
        if self.auto_pad == "VALID":
            before = after = 0
        if self.is_transposed:
            full = stride * (size - 1) + reach + (self.output_padding[axis] if self.output_padding else 0)
            if not is_same and not self.output_shape:
                return full - before - after, before
            wanted = self.output_shape[axis - rank] if self.output_shape else size * stride
            total = max(full - wanted, 0)
        else:
            if not is_same:
                return (size + before + after - reach) // stride + 1, before
            wanted = -(-size // stride)
            total = max((wanted - 1) * stride + reach - size, 0)
        return wanted, total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2

    @staticmethod
    def _along(values: tuple[int, ...], axis: int) -> int:
        return values[axis] if values else 1


@dataclass(frozen=True)
class ProductLayer(LayerShape):
    """Gemm or MatMul with one constant operand; a stack of matrices [..., K, N] is one group each.

    Attributes:
        weight_is_transposed: the weight is [..., K, R] rather than [..., R, K].
        input_is_transposed: the input is [..., K, M] rather than [..., M, K].
    """

    weight_is_transposed: bool = True
    input_is_transposed: bool = False

    def matrix(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[matrices in the stack, R, K]."""
        if weight.ndim == 1:
            return weight.reshape(1, 1, -1)
        stacked = weight.reshape(-1, *self.weight_shape[-2:])
        return stacked.swapaxes(1, 2) if self.weight_is_transposed else stacked

    def weight_from(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `matrix`."""
        transposed = self.weight_is_transposed and len(self.weight_shape) > 1
        return np.ascontiguousarray(matrix.swapaxes(1, 2) if transposed else matrix).reshape(self.weight_shape)

    def scale_shape(self, axis: int | None) -> tuple[int, int]:
        """The matrices of a stack share the scales along an axis."""
        return (1, 1) if axis is None else (1, self.matrix_shape[1])

    def num_positions(self, input_shape: Sequence[int]) -> int:
        """Number of rows of a sample."""
        return int(self._rows(np.broadcast_to(np.float32(0), input_shape)).shape[2])

    def num_samples(self, input_shape: Sequence[int]) -> int:
        """Size of the first dimension that is neither stacked nor multiplied; of a transposed input the last."""
        return int(self._rows(np.broadcast_to(np.float32(0), input_shape)).shape[1])

    def columns(self, x: _Floats, positions: _Positions | None = None) -> npt.NDArray[np.float32]:
        """[G, K, N * P]: the rows of the input."""
        rows = self._rows(x)
        if positions is not None:
            rows = rows[:, np.arange(rows.shape[1])[:, None], positions]
        groups, samples, count, width = rows.shape
        found = rows.reshape(groups, samples * count, width).swapaxes(1, 2)
        return np.ascontiguousarray(found, np.float32)

    def _rows(self, x: _Floats) -> _Floats:
        """The input as [G, samples, rows of a sample, K]; the first dimension that is not stacked holds the samples."""
        stack = self.weight_shape[:-2]
        if x.ndim == 1:
            x = x[None]
        elif self.input_is_transposed:
            x = x.swapaxes(-1, -2)
        x = x.reshape((1,) * (len(stack) + 2 - x.ndim) + x.shape)
        first = x.ndim - 2 - len(stack)
        sizes = {first + i: size for i, size in enumerate(stack) if size != 1}
        x = np.broadcast_to(x, [sizes.get(axis, size) for axis, size in enumerate(x.shape)])
        x = np.moveaxis(x, list(sizes), range(len(sizes)))
        return x.reshape(math.prod(stack), x.shape[len(sizes)], -1, x.shape[-1])


def layer_shape(
    op_type: str, weight_shape: Sequence[int], attributes: Mapping[str, Any], *, operand: int = 1
) -> LayerShape:
    """Describes a weighted operator.

    Args:
        op_type: "Conv", "ConvTranspose", "Gemm" or "MatMul".
        weight_shape: of its constant operand.
        attributes: of the node, under ONNX's names. `alpha` and `beta` of a Gemm are the caller's to apply.
        operand: which input of the node is constant; 0 for a constant left operand of Gemm or MatMul.

    Example:
        >>> layer = layer_shape("Conv", (8, 2, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]})
        >>> layer.matrix_shape
        (4, 2, 18)
        >>> layer.columns(np.ones((5, 8, 6, 6), np.float32)).shape
        (4, 18, 180)
    """
    shape = tuple(int(size) for size in weight_shape)
    if op_type in ("Conv", "ConvTranspose"):
        names = {field.name for field in fields(ConvolutionLayer)}
        known: dict[str, Any] = {
            name: value if isinstance(value, (int, str)) else tuple(value)
            for name, value in attributes.items()
            if name in names
        }
        return ConvolutionLayer(shape, op_type == "ConvTranspose", **known)
    left, right = (bool(attributes.get(name, 0)) for name in ("transA", "transB"))
    if operand == 1:
        return ProductLayer(shape, weight_is_transposed=not right, input_is_transposed=left)
    return ProductLayer(shape, weight_is_transposed=left, input_is_transposed=not right)


def spread_positions(available: int, samples: int, limit: int, first: int = 0) -> _Positions:
    """Output positions to unfold: at most `limit` of each sample, spread evenly over each sample and over all samples.

    They follow the golden ratio, so that no row, column or border of an image is preferred, and the samples take turns.

    Args:
        available: output positions of a sample, `LayerShape.num_positions`.
        samples: in this batch.
        limit: positions of each sample.
        first: number of samples in the batches before, so that the result does not depend on the batch size.

    Returns:
        [samples, min(available, limit)]

    Example:
        >>> spread_positions(available=100, samples=2, limit=3).tolist()
        [[0, 63, 26], [89, 52, 15]]
    """
    if limit >= available:
        return np.broadcast_to(np.arange(available), (samples, available))
    step = max(round(available * _GOLDEN_RATIO), 1)
    while math.gcd(step, available) > 1:
        step += 1
    items = np.arange(first * limit, (first + samples) * limit).reshape(samples, limit)
    return items * step % available
