"""Rounding weights with error feedback: what rounding one weight does to the output, the next ones take back.

Rounding to nearest makes the error of each weight small; what counts is the error of the layer's output, in which the
errors of weights on correlated inputs can cancel. The weights of an output channel are rounded one after another, each
after it was moved by what makes up best for the errors before it, given the second moments of the inputs (GPTQ: Frantar
et al., https://arxiv.org/abs/2210.17323, which rounds as Babai's nearest plane does). The inputs are those of the
quantized model, and the weights are first moved so that the output on them comes close to the *float* output (the idea
of GPTAQ: Li et al., https://arxiv.org/abs/2504.02692). Both can overfit where samples are few: how far to go is chosen
for each layer by samples that were held out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.numerics import QuantParams, quantize_array, weight_params
from quantkit.refinement.moments import InputMoments, Moments
from quantkit.types import QuantFormat, weight_format

__all__ = [
    "RoundedMatrix",
    "RoundingRecipe",
    "correct_towards_float",
    "dequantize_matrix",
    "matrix_scale",
    "round_layer",
    "round_nearest",
    "round_with_feedback",
]

_Floats = npt.NDArray[np.floating]
_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.int8]
_Scale = npt.NDArray[np.float32]

_BLOCK = 64
"""Columns that are rounded before their errors are handed on to all the others in one product."""

_TRIAL_ROWS = 128
"""Output channels of a group that recipes are tried on."""

_MARGIN = 0.005
"""Share of the held-out error that a recipe must save, beside that of one column, to rely more on the samples."""

_DAMPINGS = 0.1, 0.01
"""Of error feedback: from heavy to light."""

_CORRECTIONS = (1.0, 0.1, 0.01), (10.0,)
"""Dampings of the correction: lighter as long as that helps, and heavier."""


@dataclass(frozen=True)
class RoundingRecipe:
    """How far rounding relies on the samples.

    Attributes:
        corrects_bias: whether the bias takes up the mean error of the output.
        damping: of error feedback, as a share of the mean second moment; None: rounding to nearest.
        correction: damping of the correction towards the float output, likewise; None: no correction.
    """

    corrects_bias: bool = False
    damping: float | None = None
    correction: float | None = None

    def __str__(self) -> str:
        if self.damping is None:
            return "nearest, bias corrected" if self.corrects_bias else "nearest"
        if self.correction is None:
            return f"error feedback, damping {self.damping:.0%}"
        return f"error feedback towards the float output, damping {self.correction:.0%}"


@dataclass(frozen=True)
class RoundedMatrix:
    """A rounded weight as a matrix [G, R, K]; its scales are such that the largest code of each is 127.

    So rounding to nearest of ``codes * scale``, as TensorRT does it for a float weight, gives the same codes again.

    Attributes:
        codes: int8 [G, R, K].
        scale: float32 [G, R].
        bias: float32 [G * R], to be added to the bias of the layer; zeros if it has none.
        recipe: that was chosen.
        error: mean square of the error of the output on the held-out samples, if the recipe sees only the others.
        nearest_error: the same for rounding to nearest.
    """

    codes: _Codes
    scale: _Scale
    bias: npt.NDArray[np.float32]
    recipe: RoundingRecipe
    error: float
    nearest_error: float

    @property
    def choice(self) -> str:
        """The recipe in words."""
        return str(self.recipe)


def round_layer(
    matrix: _Floats,
    moments: Moments,
    *,
    has_bias: bool,
    scale_shape: tuple[int, int] | None = None,
    levels: int = 127,
    recipe: RoundingRecipe | None = None,
) -> RoundedMatrix:
    """Rounds a layer's weight by the recipe that is best on the held-out samples, then again with all the samples.

    One recipe serves all rows: chosen for each row by itself, it follows the noise of the held-out samples.

    Args:
        matrix: float weight [G, R, K].
        moments: of its inputs; without held-out samples the weight is rounded to nearest.
        has_bias: whether a bias can be added to the output. If so, it takes up the mean of the error, and only the
            covariance of the inputs counts; if not, the raw second moments do.
        scale_shape: [G or 1, R or 1], which rows share a scale; default: none. See `LayerShape.scale_shape`.
        levels: largest code.
        recipe: to use, instead of the best.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = np.repeat(rng.normal(size=(1, 8, 500)), 2, axis=1)  # each input comes twice
        >>> moments = Moments(groups=1, width=16)
        >>> moments.add(x[:, :, :400], x[:, :, :400])
        >>> moments.add(x[:, :, 400:], x[:, :, 400:], held_out=True)
        >>> rounded = round_layer(rng.normal(size=(1, 4, 16)), moments, has_bias=True)
        >>> rounded.choice, rounded.error < 0.7 * rounded.nearest_error
        ('error feedback, damping 10%', True)
    """
    layer = _Layer(np.asarray(matrix, np.float64), moments, has_bias, scale_shape or matrix.shape[:2], levels)
    chosen, error, nearest_error = _choose_recipe(layer.sample_rows(), recipe)
    codes, scale, bias = layer.round(chosen, moments.training.merge(moments.held_out))
    return RoundedMatrix(codes, scale, bias.ravel().astype(np.float32), chosen, error, nearest_error)


def _choose_recipe(layer: _Layer, fixed: RoundingRecipe | None) -> tuple[RoundingRecipe, float, float]:
    """The recipe with the lowest held-out error unless it is `fixed`, its error, and that of rounding to nearest."""
    training, held_out, has_bias = layer.moments.training, layer.moments.held_out, layer.has_bias
    error_of = _HeldOutError(layer)

    def measure(recipe: RoundingRecipe) -> float:
        return error_of(*layer.round(recipe, training))

    nearest_error = measure(RoundingRecipe())
    if fixed is not None:
        return fixed, measure(fixed), nearest_error
    chosen, error = RoundingRecipe(), nearest_error
    if not (training.count and held_out.count):
        return chosen, error, nearest_error
    margin = _MARGIN + 1 / held_out.count

    def try_in_turn(recipes: Iterable[RoundingRecipe]) -> None:
        """Goes on as long as the next one is better than the one before."""
        nonlocal chosen, error
        last = np.inf
        for recipe in recipes:
            found = measure(recipe)
            if found >= last:
                return
            last = found
            if found < error * (1 - margin):
                chosen, error = recipe, found

    if has_bias:
        try_in_turn([RoundingRecipe(corrects_bias=True)])
    try_in_turn(RoundingRecipe(has_bias, damping) for damping in _DAMPINGS)
    damping = chosen.damping or _DAMPINGS[0]
    for corrections in _CORRECTIONS:
        try_in_turn(RoundingRecipe(has_bias, damping, correction) for correction in corrections)
    return chosen, error, nearest_error


@dataclass(frozen=True)
class _Layer:
    """A weight to be rounded; the attributes are the arguments of `round_layer`."""

    matrix: _Array
    moments: Moments
    has_bias: bool
    scale_shape: tuple[int, int]
    levels: int

    def sample_rows(self) -> _Layer:
        """The layer with only a few of its output channels, which are enough to compare recipes by."""
        groups, of_rows = self.scale_shape
        if of_rows == 1:  # They have a scale in common.
            return self
        rows = np.unique(np.linspace(0, of_rows - 1, _TRIAL_ROWS).round().astype(int))
        return replace(self, matrix=self.matrix[:, rows], scale_shape=(groups, len(rows)))

    def round(self, recipe: RoundingRecipe, inputs: InputMoments) -> tuple[_Codes, _Scale, _Array]:
        """Codes [G, R, K], scales [G, R] and bias [G, R] by one recipe."""
        target, blocks = self.matrix, self.moments.split(self.matrix)
        if recipe.damping is not None:
            second = inputs.second_moment(centered=self.has_bias)
        if recipe.correction is not None:
            blocks = correct_towards_float(
                blocks, second, inputs.cross_moment(centered=self.has_bias), recipe.correction
            )
            target = self.moments.join(blocks, self.matrix.shape[2])
        scale = matrix_scale(target, self.scale_shape, self.levels)
        if recipe.damping is None:
            codes = round_nearest(target, scale, self.levels)
        else:
            scale_of_blocks = np.repeat(scale, self.moments.num_blocks, axis=0)
            codes = round_with_feedback(blocks, second, scale_of_blocks, recipe.damping, self.levels)
            codes = self.moments.join(codes, self.matrix.shape[2])
        if not (recipe.corrects_bias and self.has_bias):
            return codes, scale, np.zeros(scale.shape)
        bias = self.mean_error(codes, scale, inputs)
        return codes, scale, np.where(np.isfinite(bias), bias, 0)

    def mean_error(self, codes: _Codes, scale: _Scale, inputs: InputMoments) -> _Array:
        """E[W x - Q x^], [G, R]."""
        missing = self.moments.split(self.matrix - dequantize_matrix(codes, scale))
        mean = missing @ inputs.quantized_mean[:, :, None]
        mean += self.moments.split(self.matrix) @ inputs.difference_mean[:, :, None]
        return np.asarray(mean.reshape(len(self.matrix), self.moments.num_blocks, -1).sum(1))


class _HeldOutError:
    """Mean square of the error of a layer's output on the held-out samples, over its output channels."""

    def __init__(self, layer: _Layer) -> None:
        self._layer, inputs = layer, layer.moments.held_out
        blocks = layer.moments.split(layer.matrix)
        # Of the error (W - Q) x^ + W d, what does not depend on Q.
        self._second = inputs.second_moment(centered=True)
        self._cross = blocks @ inputs.cross_moment(centered=True)
        self._rest = np.sum(blocks @ inputs.difference_moment(centered=True) * blocks)

    def __call__(self, codes: _Codes, scale: _Scale, bias: _Array) -> float:
        layer = self._layer
        missing = layer.moments.split(layer.matrix - dequantize_matrix(codes, scale))
        variance = np.sum((missing @ self._second + 2 * self._cross) * missing) + self._rest
        mean = layer.mean_error(codes, scale, layer.moments.held_out) - bias
        error = float(variance + np.sum(np.square(mean))) / bias.size
        return max(error, 0.0) if np.isfinite(error) else np.inf


def dequantize_matrix(codes: _Codes, scale: _Scale) -> _Array:
    """The weights [G, R, K] that codes [G, R, K] with scales [G, R] stand for."""
    return np.asarray(codes * scale[:, :, None].astype(np.float64))


def matrix_scale(matrix: _Floats, scale_shape: tuple[int, int], levels: int = 127) -> _Scale:
    """Scales [G, R] of a matrix [G, R, K] as `quantkit.numerics.weight_params` chooses them: largest weight / levels.

    Args:
        matrix: float weight.
        scale_shape: [G or 1, R or 1], which rows share a scale.
        levels: largest code.
    """
    groups, rows, width = matrix.shape
    of_groups, of_rows = scale_shape
    together = matrix.reshape(of_groups, groups // of_groups, of_rows, rows // of_rows, width).swapaxes(1, 2)
    scale = weight_params(together.reshape(of_groups * of_rows, -1), 0, _format(levels)).scale
    return np.array(np.broadcast_to(scale.reshape(scale_shape), (groups, rows)))


def round_nearest(matrix: _Floats, scale: _Scale, levels: int = 127) -> _Codes:
    """Codes [G, R, K] of a matrix with scales [G, R], each weight rounded to nearest."""
    params = QuantParams(scale.ravel(), axis=0, format=_format(levels))
    return np.asarray(quantize_array(matrix.reshape(-1, matrix.shape[2]), params), np.int8).reshape(matrix.shape)


def round_with_feedback(
    matrix: _Floats, second_moment: _Array, scale: _Scale, damping: float, levels: int = 127
) -> _Codes:
    """Rounds a matrix so that the errors of its weights cancel in the output.

    Weights on inputs with large second moments come first. The largest weight of a scale always becomes the largest
    code. A moment matrix that cannot be factorized is damped more, and at last the weights are rounded to nearest.

    Args:
        matrix: float weight [G, R, K].
        second_moment: of its inputs, [G, K, K].
        scale: [G, R].
        damping: what is added to the diagonal of `second_moment`, as a share of its mean.
        levels: largest code.

    Returns:
        Codes [G, R, K].
    """
    is_largest = np.abs(matrix) >= (levels - 1e-3) * scale[:, :, None].astype(np.float64)
    importance = np.einsum("gkk->gk", second_moment)
    if matrix.shape[1] == 1:  # Its code is known, so the only row can make up for it.
        importance = np.where(is_largest[:, 0], np.inf, importance)
    order = np.argsort(importance, axis=1, kind="stable")
    group = np.arange(len(order))[:, None, None]
    factor = _factorize(second_moment[group, order[:, :, None], order[:, None, :]], damping)
    if factor is None:
        return round_nearest(matrix, scale, levels)

    def sort(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[G, R, K] → [G, K, R] in the order of the moments."""
        return np.ascontiguousarray(np.take_along_axis(values.swapaxes(1, 2), order[:, :, None], 1))

    codes = _round_sorted(sort(matrix), sort(is_largest), factor, scale[:, None, :].astype(np.float64), levels)
    found = np.empty(matrix.shape, np.int8)
    np.put_along_axis(found, order[:, None, :], codes.swapaxes(1, 2), 2)
    return found


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
    weights: _Array, is_largest: npt.NDArray[np.bool_], factor: _Array, step: _Array, levels: int
) -> npt.NDArray[np.int8]:
    """Codes of weights [G, K, R], rounded from the last one of K to the first; `step` is [G, 1, R].

    With E the errors and L the factor of the moments, the mean square of the output's error is that of E^T L. As L is
    lower triangular, its column k holds what is left of the errors from k on, and rounding k can cancel it.
    """
    width = weights.shape[1]
    codes = np.empty(weights.shape, np.int8)
    errors = np.empty(weights.shape)
    for end in range(width, 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        wanted = weights[:, start:end] + factor[:, end:, start:end].swapaxes(1, 2) @ errors[:, end:]
        of_block = np.ascontiguousarray(factor[:, start:end, start:end].swapaxes(1, 2))
        for k in range(end - 1, start - 1, -1):
            i = k - start
            moved = wanted[:, i] + (of_block[:, i, None, i + 1 :] @ errors[:, k + 1 : end])[:, 0]
            rounded = np.clip(np.rint(moved / step[:, 0]), -levels, levels)
            rounded = np.where(is_largest[:, k], np.copysign(levels, weights[:, k]), rounded)
            codes[:, k] = rounded
            errors[:, k] = weights[:, k] - rounded * step[:, 0]
    return codes


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


def _format(levels: int) -> QuantFormat:
    return weight_format(0, bits=levels.bit_length() + 1)
