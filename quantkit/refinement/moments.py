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

from quantkit.refinement.moment_sums import HostSums, MakeSums, MomentSums

_Columns = npt.NDArray[np.floating]
_Array = npt.NDArray[np.float64]

MOST_VALUES = 4096**2
"""Most values of a matrix of moments. Larger layers are cut into blocks of inputs, without moments between blocks."""

_NARROWEST_BLOCK = 64

_CHUNK = 4096
"""Columns that are multiplied in float32 before they are added up in float64."""


class InputMoments:
    """Moments of the inputs of some samples.

    Args:
        sums: that columns are added to, of d d^T too if the error of the layer's output is asked for.

    Attributes:
        count: columns added, each as often as it counts.
    """

    def __init__(self, sums: MomentSums) -> None:
        self.count = 0.0
        self._added = sums

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
            self._added.add(x[:, :, part], quantized[:, :, part], counts[part])

    def merge(self, other: InputMoments) -> InputMoments:
        """Moments of the samples of both, for rounding alone."""
        (sums, products), (more_sums, more_products) = self._added.values(), other._added.values()
        merged = InputMoments(HostSums(sums + more_sums, products[:2] + more_products[:2]))
        merged.count = self.count + other.count
        return merged

    @property
    def quantized_mean(self) -> _Array:
        """E[x^], [G, K]."""
        return self._mean(0)

    @property
    def difference_mean(self) -> _Array:
        """E[d], [G, K]."""
        return self._mean(1)

    def second_moment(self, *, centered: bool) -> _Array:
        """E[x^ x^T], [G, K, K]; `centered`: the covariance."""
        return self._moment(0, self.quantized_mean, self.quantized_mean, centered)

    def cross_moment(self, *, centered: bool) -> _Array:
        """E[d x^T], [G, K, K]."""
        return self._moment(1, self.difference_mean, self.quantized_mean, centered)

    def difference_moment(self, *, centered: bool) -> _Array:
        """E[d d^T], [G, K, K]; only if the sums hold d d^T."""
        return self._moment(2, self.difference_mean, self.difference_mean, centered)

    def _mean(self, which: int) -> _Array:
        return np.asarray(self._added.values()[0][which] / (self.count or 1))

    def _moment(self, which: int, left: _Array, right: _Array, centered: bool) -> _Array:
        moment: _Array = self._added.values()[1][which] / (self.count or 1)
        if centered:
            for start in range(0, left.shape[1], _NARROWEST_BLOCK):  # in the cache
                rows = slice(start, start + _NARROWEST_BLOCK)
                moment[:, rows] -= left[:, rows, None] * right[:, None, :]
        return moment


class Moments:
    """Moments of a layer's inputs: of the samples to round for, and of others to judge the result by.

    A layer with more than `MOST_VALUES` of G * K * K is cut into blocks of inputs that count as groups of their own:
    rounding then knows nothing of how inputs of different blocks go together, but memory does not grow. Five matrices
    of float64 are kept, and rounding needs seven more for a while.

    Args:
        groups: G, of the layer.
        width: K, inputs of an output channel.
        make_sums: where columns are added up.

    Attributes:
        training: moments of the samples to round for.
        held_out: of the others.
        num_blocks: of each group.
    """

    def __init__(self, groups: int, width: int, make_sums: MakeSums = HostSums.of_nothing) -> None:
        self.num_blocks, self._width = _blocks(groups, width)
        self._groups = groups
        self.training = InputMoments(make_sums(groups * self.num_blocks, self._width, False))
        self.held_out = InputMoments(make_sums(groups * self.num_blocks, self._width, True))

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


def _blocks(groups: int, width: int) -> tuple[int, int]:
    """Number of blocks of each group, and width of each."""
    num_blocks = -(-width // max(MOST_VALUES // (groups * width), _NARROWEST_BLOCK))
    return num_blocks, -(-width // num_blocks)
