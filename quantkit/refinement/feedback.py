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
    return FeedbackFactor(second_moment, damping, first).round(matrix, scale, fmt)


class FeedbackFactor:
    """Second moments as `round_with_feedback` takes them, for several matrices on the same inputs.

    Args:
        second_moment: of the inputs, [G, K, K].
        damping: what is added to its diagonal, as a share of the mean.
        first: bool [G, K], inputs whose weights come before all others.
    """

    def __init__(self, second_moment: _Array, damping: float, first: npt.NDArray[np.bool_] | None = None) -> None:
        importance = np.einsum("gkk->gk", second_moment)
        if first is not None:
            importance = np.where(first, np.inf, importance)
        # From the last one to the first: see `_round_sorted`.
        self._order = np.argsort(importance, axis=1, kind="stable")
        group = np.arange(len(second_moment))[:, None, None]
        in_order = second_moment[group, self._order[:, :, None], self._order[:, None, :]]
        self._factor = _factorize(in_order, damping)

    def round(self, matrix: _Floats, scale: _Scale, fmt: QuantFormat = _INT8) -> _Codes:
        """Codes of a matrix [G, R, K] with scales [G, R], or [G, R, K] of blocks."""
        if self._factor is None:
            return round_nearest(matrix, scale, fmt)
        weights, is_largest = (self._sort(x) for x in (matrix, _is_largest(matrix, scale, fmt)))
        steps = self._sort(np.broadcast_to(_steps(scale), matrix.shape))
        codes = _round_sorted(weights, is_largest, self._factor, steps, fmt)
        found = np.empty(matrix.shape, codes.dtype)
        np.put_along_axis(found, self._order[:, None, :], codes.swapaxes(1, 2), 2)
        return found

    def _sort(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[G, R, K] → [G, K, R] in the order of the factor."""
        return np.ascontiguousarray(np.take_along_axis(values.swapaxes(1, 2), self._order[:, :, None], 1))


def correct_towards_float(matrix: _Floats, second_moment: _Array, cross_moment: _Array, damping: float) -> _Array:
    """The weight whose output on the quantized inputs x^ comes closest to the float output W x, by least squares.

    This is ``W + W E[(x - x^) x^T] (E[x^ x^T] + damping)^-1``.

    Args:
        matrix: float weight W [G, R, K].
        second_moment: E[x^ x^T], [G, K, K].
        cross_moment: E[(x - x^) x^T], [G, K, K].
        damping: what is added to the diagonal of `second_moment`, as a share of its mean.

    Returns:
        A matrix [G, R, K]; `matrix` where the moments are not finite.
    """
    try:
        wanted = (matrix @ cross_moment).swapaxes(1, 2)
        correction = np.linalg.solve(_damp(second_moment, damping), wanted).swapaxes(1, 2)
    except np.linalg.LinAlgError:
        return np.asarray(matrix, np.float64)
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


def _factorize(moment: _Array, damping: float) -> _Array | None:
    """Lower triangular factor with a diagonal of ones, of the damped moments [G, K, K]; None if there is none."""
    for damping_ in damping * np.array([1, 10, 100, 1000]) if np.isfinite(moment).all() else ():
        try:
            factor = np.linalg.cholesky(_damp(moment, damping_))
        except np.linalg.LinAlgError:
            continue
        factor /= np.einsum("gkk->gk", factor).copy()[:, None, :]
        return np.asarray(factor)
    return None


def _damp(moment: _Array, damping: float) -> _Array:
    """Adds a share of the mean to the diagonal; inputs that are always 0 get a diagonal of ones."""
    mean = np.einsum("gkk->g", moment) / moment.shape[1]
    damped = moment.copy()
    np.einsum("gkk->gk", damped)[...] += np.where(mean > 0, damping * mean, 1)[:, None]
    return damped


def _of_channels(fmt: QuantFormat) -> QuantFormat:
    return replace(fmt, granularity="channel", block=None)
