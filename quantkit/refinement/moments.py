"""Second moments of a layer's inputs: of the quantized inputs, and of how the float inputs differ from them.

With x the float inputs of a layer, x^ those that the quantized model gives it and d = x - x^, the output of a weight Q
on x^ misses the float output W x by ``(W - Q) x^ + W d``. Its mean square is a quadratic form of the moments E[x^ x^T],
E[d x^T] and E[d d^T], which therefore suffice to choose Q and to tell its error. They are kept for d rather than for x,
because products with x would cancel where the two are alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Columns = npt.NDArray[np.floating]
_Array = npt.NDArray[np.float64]

WIDEST_BLOCK = 4096
"""Wider layers are cut into blocks of inputs, whose moments with each other are not kept."""

_CHUNK = 4096
"""Columns that are multiplied in float32 before they are added up in float64."""


class InputMoments:
    """Moments of the inputs of some samples.

    Args:
        groups: G, of the layer.
        width: K, inputs of an output channel.
        with_error: keep what the error of the layer's output takes, beside what rounding takes.

    Attributes:
        count: columns added, each as often as it counts.
    """

    def __init__(self, groups: int, width: int, *, with_error: bool) -> None:
        self.count = 0.0
        self._sums = np.zeros((2, groups, width))
        self._products = np.zeros((2 + with_error, groups, width, width))

    def add(self, x: _Columns, quantized: _Columns, weights: _Columns) -> None:
        """Adds columns [G, K, P] of float inputs, and of the quantized inputs at the same positions.

        Args:
            x: float inputs.
            quantized: the quantized ones.
            weights: how much each column counts, [P], on average 1.
        """
        counts = np.asarray(weights, np.float32)
        self.count += float(counts.sum(dtype=np.float64))
        for start in range(0, x.shape[2], _CHUNK):
            part = slice(start, start + _CHUNK)
            of_quantized = np.ascontiguousarray(quantized[:, :, part], np.float32)
            difference = x[:, :, part] - of_quantized
            counted = of_quantized * counts[part], difference * counts[part]
            self._sums += [columns.sum(2, dtype=np.float64) for columns in counted]
            pairs = (counted[0], of_quantized), (counted[1], of_quantized), (counted[1], difference)
            for total, (left, right) in zip(self._products, pairs, strict=False):
                total += left @ right.swapaxes(1, 2)

    def merge(self, other: InputMoments) -> InputMoments:
        """Moments of the samples of both, for rounding alone."""
        groups, width = self._sums.shape[1:]
        merged = InputMoments(groups, width, with_error=False)
        merged.count = self.count + other.count
        merged._sums = self._sums + other._sums
        merged._products = self._products[:2] + other._products[:2]
        return merged

    @property
    def quantized_mean(self) -> _Array:
        """E[x^], [G, K]."""
        return np.asarray(self._sums[0] / (self.count or 1))

    @property
    def difference_mean(self) -> _Array:
        """E[d], [G, K]."""
        return np.asarray(self._sums[1] / (self.count or 1))

    def second_moment(self, *, centered: bool) -> _Array:
        """E[x^ x^T], [G, K, K]; `centered`: the covariance."""
        return self._moment(0, self.quantized_mean, self.quantized_mean, centered)

    def cross_moment(self, *, centered: bool) -> _Array:
        """E[d x^T], [G, K, K]."""
        return self._moment(1, self.difference_mean, self.quantized_mean, centered)

    def difference_moment(self, *, centered: bool) -> _Array:
        """E[d d^T], [G, K, K]; only if made `with_error`."""
        return self._moment(2, self.difference_mean, self.difference_mean, centered)

    def _moment(self, which: int, left: _Array, right: _Array, centered: bool) -> _Array:
        moment: _Array = self._products[which] / (self.count or 1)
        if centered:
            moment -= left[:, :, None] * right[:, None, :]
        return moment


class Moments:
    """Moments of a layer's inputs: of the samples to round for, and of others to judge the result by.

    A layer wider than `WIDEST_BLOCK` is cut into blocks of inputs that count as groups of their own: rounding then
    knows nothing of how inputs of different blocks go together, but memory grows with K only. Five matrices [G, K, K]
    of float64 are kept, and rounding needs seven more for a while.

    Args:
        groups: G, of the layer.
        width: K, inputs of an output channel.

    Attributes:
        training: moments of the samples to round for.
        held_out: of the others.
        num_blocks: of each group.
    """

    def __init__(self, groups: int, width: int) -> None:
        self.num_blocks, self._width = _blocks(width)
        self._groups = groups
        self.training = InputMoments(groups * self.num_blocks, self._width, with_error=False)
        self.held_out = InputMoments(groups * self.num_blocks, self._width, with_error=True)

    def add(self, x: _Columns, quantized: _Columns, *, weights: _Columns, held_out: bool = False) -> None:
        """Adds samples.

        Args:
            x: [G, K, P], `LayerShape.columns` of the float inputs.
            quantized: the same of the quantized inputs, at the same positions.
            weights: how much each column counts, [P], on average 1.
            held_out: whether the samples are to judge the result by.
        """
        part = self.held_out if held_out else self.training
        of_float, of_quantized = (self.split(columns.swapaxes(1, 2)).swapaxes(1, 2) for columns in (x, quantized))
        part.add(of_float, of_quantized, weights)

    def split(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A matrix [G, R, K] as that of the blocks, [G * blocks, R, width of a block]; missing inputs are 0."""
        if self.num_blocks == 1:
            return matrix
        missing = self.num_blocks * self._width - matrix.shape[2]
        padded = np.pad(matrix, [(0, 0), (0, 0), (0, missing)])
        blocks = padded.reshape(*matrix.shape[:2], self.num_blocks, self._width).swapaxes(1, 2)
        return blocks.reshape(self._groups * self.num_blocks, matrix.shape[1], self._width)

    def join(self, blocks: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
        """Inverse of `split`, for matrices of K = `width`."""
        rows = blocks.shape[1]
        joined = blocks.reshape(self._groups, self.num_blocks, rows, self._width).swapaxes(1, 2)
        return joined.reshape(self._groups, rows, -1)[:, :, :width]


def _blocks(width: int) -> tuple[int, int]:
    """Number of blocks, and width of each."""
    num_blocks = -(-width // WIDEST_BLOCK)
    return num_blocks, -(-width // num_blocks)
