"""How far the rounding of a layer's weight relies on calibration samples, chosen by samples that were held out.

Error feedback and the correction towards the float output can overfit where samples are few, and what is best differs
from layer to layer: each layer is rounded by several recipes on some of the samples, and the one whose output is
closest to the float output on the others rounds it for good, on all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.refinement.feedback import (
    InputFactors,
    block_steps,
    correct_towards_float,
    dequantize_matrix,
    matrix_scale,
    round_nearest,
    round_with_feedback,
)
from quantkit.refinement.moments import MOST_VALUES, InputMoments, Moments
from quantkit.types import QuantFormat, weight_format

_Floats = npt.NDArray[np.floating]
_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[Any]
_Scale = npt.NDArray[np.float32]

_TRIAL_ROWS = 128
"""Output channels of a group that recipes are tried on."""

_MARGIN = 0.005
"""Share of the held-out error that a recipe must save, beside that of one column, to rely more on the samples."""

_DAMPINGS = 0.1, 0.01
"""Dampings of error feedback that are tried: from heavy to light."""

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
    """A rounded weight as a matrix [G, R, K]; its scales are such that the largest integer of each is 127.

    So rounding to nearest of ``codes * scale``, as TensorRT does it for a float weight, gives the same codes again.
    Blocks and FP8 are stored as they are.

    Attributes:
        codes: int8 or E4M3, [G, R, K].
        scale: float32 [G, R], or [G, R, K] of blocks.
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
    fmt: QuantFormat | None = None,
) -> RoundedMatrix:
    """Rounds a layer's weight by the recipe that is best on the held-out samples, then again with all the samples.

    One recipe serves all rows: chosen for each row by itself, it follows the noise of the held-out samples.

    Args:
        matrix: float weight [G, R, K].
        moments: of its inputs; without held-out samples the weight is rounded to nearest.
        has_bias: whether a bias can be added to the output. If so, it takes up the mean of the error, and only the
            covariance of the inputs counts; if not, the raw second moments do.
        scale_shape: [G or 1, R or 1], which rows share a scale; default: none. See `LayerShape.scale_shape`.
        fmt: of the weight; default: INT8. With blocks, so many inputs share a scale, for each output channel.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = np.repeat(rng.normal(size=(1, 8, 500)), 2, axis=1)  # each input comes twice
        >>> moments = Moments(groups=1, width=16)
        >>> moments.add(x[:, :, :400], x[:, :, :400], weights=np.ones(400))
        >>> moments.add(x[:, :, 400:], x[:, :, 400:], weights=np.ones(100), held_out=True)
        >>> rounded = round_layer(rng.normal(size=(1, 4, 16)), moments, has_bias=True)
        >>> rounded.choice, rounded.error < 0.7 * rounded.nearest_error
        ('error feedback, damping 10%', True)
    """
    shape = scale_shape or matrix.shape[:2]
    layer = _Layer(matrix, moments, has_bias, shape, fmt or weight_format(0))
    chosen, error, nearest_error = _choose_recipe(layer.sample_rows())
    everything = _Fit(moments.training.merge(moments.held_out), has_bias)
    parts = [part.round(chosen, everything) for part in layer.parts()]
    codes, scale, bias = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return RoundedMatrix(codes, scale, bias.ravel().astype(np.float32), chosen, error, nearest_error)


def _choose_recipe(layer: _Layer) -> tuple[RoundingRecipe, float, float]:
    """The recipe with the lowest held-out error, that error, and that of rounding to nearest."""
    training, held_out, has_bias = layer.moments.training, layer.moments.held_out, layer.has_bias
    error_of, fit = _HeldOutError(layer), _Fit(training, has_bias)

    def measure(recipe: RoundingRecipe) -> float:
        return error_of(*layer.round(recipe, fit))

    chosen = RoundingRecipe()
    error = nearest_error = measure(chosen)
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

    matrix: _Floats
    moments: Moments
    has_bias: bool
    scale_shape: tuple[int, int]
    format: QuantFormat

    def sample_rows(self) -> _Layer:
        """The layer with only a few of its output channels, which are enough to compare recipes by."""
        return self._rows(np.unique(np.linspace(0, self.matrix.shape[1] - 1, _TRIAL_ROWS).round().astype(int)))

    def parts(self) -> Iterator[_Layer]:
        """The layer in parts of some of its output channels, whose copies in double precision are of bounded size."""
        groups, num_rows, width = self.matrix.shape
        num_parts = -(-groups * num_rows * width // MOST_VALUES) if self.scale_shape[1] > 1 else 1
        yield from map(self._rows, np.array_split(np.arange(num_rows), num_parts))

    def _rows(self, rows: npt.NDArray[np.intp]) -> _Layer:
        """Some of the output channels of every group; all of them if they have a scale in common."""
        groups, of_rows = self.scale_shape
        if of_rows == 1:
            return replace(self, matrix=np.asarray(self.matrix, np.float64))
        return replace(self, matrix=np.asarray(self.matrix[:, rows], np.float64), scale_shape=(groups, len(rows)))

    def round(self, recipe: RoundingRecipe, fit: _Fit) -> tuple[_Codes, _Scale, _Array]:
        """Codes [G, R, K], scales [G, R] and bias [G, R] by one recipe."""
        target, blocks = self.matrix, self.moments.split(self.matrix)
        if recipe.correction is not None:
            blocks = correct_towards_float(blocks, fit.factors, fit.cross_moment, recipe.correction)
            target = self.moments.join(blocks, self.matrix.shape[2])
        scale = self._scale(target, fit)
        if recipe.damping is None:
            codes = round_nearest(target, scale, self.format)
        else:
            if self.format.block is None:
                scale_of_blocks = np.repeat(scale, self.moments.num_blocks, axis=0)
            else:
                scale_of_blocks = np.where((split := self.moments.split(scale)) > 0, split, np.float32(1))
            codes = fit.round(blocks, scale_of_blocks, recipe.damping, self.format)
            codes = self.moments.join(codes, self.matrix.shape[2])
        if not (recipe.corrects_bias and self.has_bias):
            return codes, scale, np.zeros(scale.shape[:2])
        bias = self.mean_error(codes, scale, fit)
        return codes, scale, np.where(np.isfinite(bias), bias, 0)

    def _scale(self, target: _Floats, fit: _Fit) -> _Scale:
        importance = self.moments.join(np.einsum("gkk->gk", fit.second_moment)[:, None, :], target.shape[2])
        if self.format.block is None:
            return matrix_scale(target, self.scale_shape, self.format, importance)
        return block_steps(target, self.format.block, importance)

    def mean_error(self, codes: _Codes, scale: _Scale, inputs: InputMoments | _Fit) -> _Array:
        """E[W x - Q x^], [G, R]."""
        missing = self.moments.split(self.matrix - dequantize_matrix(codes, scale))
        mean = missing @ inputs.quantized_mean[:, :, None]
        mean += self.moments.split(self.matrix) @ inputs.difference_mean[:, :, None]
        return np.asarray(mean.reshape(len(self.matrix), self.moments.num_blocks, -1).sum(1))


class _Fit:
    """What rounding takes from the moments of some samples, computed once for all recipes."""

    def __init__(self, inputs: InputMoments, centered: bool) -> None:
        self.quantized_mean, self.difference_mean = inputs.quantized_mean, inputs.difference_mean
        self.second_moment = inputs.second_moment(centered=centered)
        self.cross_moment = inputs.cross_moment(centered=centered)
        self.factors = InputFactors(self.second_moment)

    def round(self, matrix: _Array, scale: _Scale, damping: float, fmt: QuantFormat) -> _Codes:
        """`round_with_feedback`."""
        if matrix.shape[1] == 1:  # The order depends on the weights.
            return round_with_feedback(matrix, self.second_moment, scale, damping, fmt)
        return self.factors.round(matrix, scale, damping, fmt)


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
