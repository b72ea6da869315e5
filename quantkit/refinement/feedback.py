"""Rounding weights with error feedback: what rounding one weight does to the output, the next ones take back.

Rounding to nearest makes the error of each weight small; what counts is the error of the layer's output, in which the
errors of weights on correlated inputs can cancel. The weights of an output channel are rounded one after another, each
after it was moved by what makes up best for the errors before it, given the second moments of the inputs (GPTQ: Frantar
et al., https://arxiv.org/abs/2210.17323, which rounds as Babai's nearest plane does). The inputs are those of the
quantized model, and the weights are first moved so that the output on them comes close to the *float* output (the idea
of GPTAQ: Li et al., https://arxiv.org/abs/2504.02692). Both can overfit where samples are few: `recipes` chooses how
far to go.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.numerics import (
    QuantParams,
    code_type,
    least_error_params,
    quantize_array,
    round_values,
    value_bounds,
)
from quantkit.types import QuantFormat, block_format, weight_format

_Floats = npt.NDArray[np.floating]
_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[Any]
"""Quantized values, in the array type that stores them: int8 or E4M3."""
_Scale = npt.NDArray[np.float32]

_INT8 = weight_format(0)

_BLOCK = 64
"""Columns that are rounded before their errors are handed on to all the others in one product."""

_MOST_FACTORS = 3
"""Kept at once: they are as large as the moments."""


def dequantize_matrix(codes: _Codes, scale: _Scale) -> _Array:
    """The weights [G, R, K] that codes [G, R, K] with scales [G, R], or [G, R, K] of blocks, stand for."""
    return np.asarray(codes.astype(np.float64) * _steps(scale))


def matrix_scale(
    matrix: _Floats, scale_shape: tuple[int, int], fmt: QuantFormat = _INT8, importance: _Floats | float = 1.0
) -> _Scale:
    """Scales [G, R] of a matrix [G, R, K] as `quantkit.numerics.least_error_params` chooses them.

    Args:
        matrix: float weight.
        scale_shape: [G or 1, R or 1], which rows share a scale.
        fmt: of the codes.
        importance: mean squares of the inputs, [G, 1, K]; default: equal.
    """
    groups, rows, width = matrix.shape
    of_groups, of_rows = scale_shape

    def together(values: _Floats) -> _Floats:  # a row for each scale
        parts = values.reshape(of_groups, groups // of_groups, of_rows, rows // of_rows, width)
        return parts.swapaxes(1, 2).reshape(of_groups * of_rows, -1)

    squares = np.broadcast_to(np.asarray(importance, np.float32), matrix.shape)
    scale = least_error_params(together(matrix), 0, _of_channels(fmt), importance=together(squares)).scale
    return np.array(np.broadcast_to(scale.reshape(scale_shape), (groups, rows)))


def block_steps(matrix: _Floats, block: int, importance: _Floats) -> _Scale:
    """Scales [G, R, K] of a matrix [G, R, K] as `least_error_params` chooses them, repeated in each block.

    Args:
        matrix: float weight.
        block: inputs that share a scale, for each output channel.
        importance: mean squares of the inputs, [G, 1, K].
    """
    scale = least_error_params(matrix, 2, block_format(block), importance=importance).scale
    return np.repeat(scale, block, axis=2)[:, :, : matrix.shape[2]]


def round_nearest(matrix: _Floats, scale: _Scale, fmt: QuantFormat = _INT8) -> _Codes:
    """Codes [G, R, K] of a matrix with scales [G, R], or [G, R, K] of blocks, each weight rounded to nearest."""
    if scale.ndim == 3:
        return round_values(matrix / scale, fmt).astype(code_type(fmt))
    params = QuantParams(scale.ravel(), axis=0, format=_of_channels(fmt))
    return quantize_array(matrix.reshape(-1, matrix.shape[2]), params).astype(code_type(fmt)).reshape(matrix.shape)


def round_with_feedback(
    matrix: _Floats, second_moment: _Array, scale: _Scale, damping: float, fmt: QuantFormat = _INT8
) -> _Codes:
    """Rounds a matrix so that the errors of its weights cancel in the output.

    Weights on inputs with large second moments come first. The largest weight of a scale always becomes the largest
    integer, but not in FP8, nor in blocks, whose scales may clip it. A moment matrix that cannot be factorized is
    damped more, and at last the weights are rounded to nearest.

    Args:
        matrix: float weight [G, R, K].
        second_moment: of its inputs, [G, K, K].
        scale: [G, R], or [G, R, K] of blocks.
        damping: what is added to the diagonal of `second_moment`, as a share of its mean.
        fmt: of the codes.

    Returns:
        Codes [G, R, K].
    """
    # The code of the largest weight is known, so the only row of a group can make up for it from the start.
    first = _is_largest(matrix, scale, fmt)[:, 0] if matrix.shape[1] == 1 else None
    return InputFactors(second_moment, first).round(matrix, scale, damping, fmt)


class InputFactors:
    """Second moments of inputs as rounding takes them, for several matrices: they are factorized once for each damping.

    Args:
        second_moment: of the inputs, [G, K, K].
        first: bool [G, K], inputs whose weights come before all others.
    """

    def __init__(self, second_moment: _Array, first: npt.NDArray[np.bool_] | None = None) -> None:
        importance = np.einsum("gkk->gk", second_moment)
        if first is not None:
            importance = np.where(first, np.inf, importance)
        # From the last one to the first: see `_round_sorted`.
        self._order = np.argsort(importance, axis=1, kind="stable")
        group = np.arange(len(second_moment))[:, None, None]
        self._in_order = second_moment[group, self._order[:, :, None], self._order[:, None, :]]
        self._is_finite = bool(np.isfinite(second_moment).all())
        self._factors: dict[float, tuple[_Array, _Array] | None] = {}

    def round(self, matrix: _Floats, scale: _Scale, damping: float, fmt: QuantFormat = _INT8) -> _Codes:
        """Codes of a matrix [G, R, K] with scales [G, R], or [G, R, K] of blocks: see `round_with_feedback`."""
        factor = self._factor(damping)
        if factor is None:
            return round_nearest(matrix, scale, fmt)
        weights, is_largest = (self._sort(x.swapaxes(1, 2)) for x in (matrix, _is_largest(matrix, scale, fmt)))
        steps = self._sort(np.broadcast_to(_steps(scale), matrix.shape).swapaxes(1, 2))
        return self._unsort(_round_sorted(weights, is_largest, factor[0], steps, fmt)).swapaxes(1, 2)

    def solve(self, wanted: _Array, damping: float) -> _Array:
        """The damped moments' inverse times a matrix [G, K, R]; zeros where it has none."""
        factor = self._factor(damping)
        if factor is None:
            return np.zeros(wanted.shape)
        lower, squares = factor
        x = self._sort(wanted)
        starts = range(0, x.shape[1], _BLOCK)
        for start in starts:
            block = slice(start, start + _BLOCK)
            x[:, block] -= lower[:, block, :start] @ x[:, :start]
            x[:, block] = np.linalg.solve(lower[:, block, block], x[:, block])
        x /= squares[:, :, None]
        for start in reversed(starts):
            block, rest = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
            x[:, block] -= lower[:, rest, block].swapaxes(1, 2) @ x[:, rest]
            x[:, block] = np.linalg.solve(lower[:, block, block].swapaxes(1, 2), x[:, block])
        return self._unsort(x)

    def _factor(self, damping: float) -> tuple[_Array, _Array] | None:
        if damping not in self._factors:
            while len(self._factors) >= _MOST_FACTORS:
                del self._factors[max(self._factors)]  # of the corrections, which are tried once
            self._factors[damping] = _factorize(self._in_order, damping) if self._is_finite else None
        return self._factors[damping]

    def _sort(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[G, K, R] in the order of the factor."""
        return np.ascontiguousarray(np.take_along_axis(values, self._order[:, :, None], 1))

    def _unsort(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = np.empty_like(values)
        np.put_along_axis(found, self._order[:, :, None], values, 1)
        return found


def correct_towards_float(matrix: _Floats, inputs: InputFactors, cross_moment: _Array, damping: float) -> _Array:
    """The weight whose output on the quantized inputs x^ comes closest to the float output W x, by least squares.

    This is ``W + W E[(x - x^) x^T] (E[x^ x^T] + damping)^-1``.

    Args:
        matrix: float weight W [G, R, K].
        inputs: E[x^ x^T].
        cross_moment: E[(x - x^) x^T], [G, K, K].
        damping: what is added to the diagonal of the second moment, as a share of its mean.

    Returns:
        A matrix [G, R, K]; `matrix` where the moments are not finite.
    """
    correction = inputs.solve((matrix @ cross_moment).swapaxes(1, 2), damping).swapaxes(1, 2)
    return np.asarray(matrix + np.where(np.isfinite(correction), correction, 0), np.float64)


def _round_sorted(
    weights: _Array, is_largest: npt.NDArray[np.bool_], factor: _Array, steps: _Array, fmt: QuantFormat
) -> _Codes:
    """Codes of weights [G, K, R] with `steps` [G, K, R], rounded from the last one of K to the first.

    With E the errors and L the factor of the moments, the mean square of the output's error is that of E^T L. As L is
    lower triangular, its column k holds what is left of the errors from k on, and rounding k can cancel it.
    """
    width = weights.shape[1]
    values, errors = np.empty(weights.shape), np.empty(weights.shape)
    extremes = np.copysign(value_bounds(fmt)[1], weights)
    has_extremes = np.any(is_largest, axis=(0, 2)).tolist()
    for end in range(width, 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        wanted = weights[:, start:end] + factor[:, end:, start:end].swapaxes(1, 2) @ errors[:, end:]
        of_block = np.ascontiguousarray(factor[:, start:end, start:end].swapaxes(1, 2))
        for k in range(end - 1, start - 1, -1):
            i = k - start
            moved = wanted[:, i] + (of_block[:, i, None, i + 1 :] @ errors[:, k + 1 : end])[:, 0]
            rounded = round_values(moved / steps[:, k], fmt)
            if has_extremes[k]:
                np.copyto(rounded, extremes[:, k], where=is_largest[:, k])
            values[:, k] = rounded
            np.subtract(weights[:, k], rounded * steps[:, k], out=errors[:, k])
    return values.astype(code_type(fmt))


def _steps(scale: _Scale) -> _Array:
    """Scales [G, R] or [G, R, K] as they broadcast against a matrix."""
    return np.asarray(scale if scale.ndim == 3 else scale[:, :, None], np.float64)


def _is_largest(matrix: _Floats, scale: _Scale, fmt: QuantFormat) -> npt.NDArray[np.bool_]:
    """Which weights [G, R, K] are the largest of their scale; they become the largest integer. None in blocks.

    Only for implicit INT8, which finds the scale again by the largest weight.
    """
    if scale.ndim == 3 or fmt.kind == "float":
        return np.zeros(matrix.shape, np.bool_)
    return np.asarray(np.abs(matrix) >= (value_bounds(fmt)[1] - 1e-3) * scale[:, :, None].astype(np.float64))


def _factorize(moment: _Array, damping: float) -> tuple[_Array, _Array] | None:
    """L and d of L diag(d) L^T, with ones on the diagonal of L: the damped moments [G, K, K]; None if there is none.

    Inputs that are always 0 get a diagonal of ones.
    """
    diagonal = np.einsum("gkk->gk", moment)
    undamped, mean = diagonal.copy(), diagonal.mean(axis=1, keepdims=True)
    for damping_ in damping * np.array([1, 10, 100, 1000]):
        diagonal += np.where(mean > 0, damping_ * mean, 1)
        try:
            factor = np.linalg.cholesky(moment)
        except np.linalg.LinAlgError:
            continue
        finally:
            diagonal[...] = undamped
        roots = np.einsum("gkk->gk", factor).copy()
        factor /= roots[:, None, :]
        return np.asarray(factor), np.square(roots)
    return None


def _of_channels(fmt: QuantFormat) -> QuantFormat:
    return replace(fmt, granularity="channel", block=None)
