import tracemalloc

import numpy as np
import pytest

from quantkit.numerics import value_bounds
from quantkit.refinement import moments as moments_module
from quantkit.refinement import recipes as recipes_module
from quantkit.refinement.feedback import dequantize_matrix, matrix_scale, round_nearest
from quantkit.refinement.moments import Moments
from quantkit.refinement.recipes import RoundingRecipe, round_layer
from quantkit.types import weight_format
from tests.refinement.layer_inputs import correlated, per_row


def quantize(x, step):
    return (np.rint(x / step) * step).astype(np.float32)


def collect(x, quantized, held_out_x, held_out_quantized):
    moments = Moments(*x.shape[:2])
    moments.add(x, quantized, weights=np.ones(x.shape[2]))
    moments.add(held_out_x, held_out_quantized, weights=np.ones(held_out_x.shape[2]), held_out=True)
    return moments


def output_error(matrix, rounded, x, quantized):
    """Mean square of the error of the output, computed on the inputs themselves."""
    weights = dequantize_matrix(rounded.codes, rounded.scale)
    missing = matrix @ x - weights @ quantized - rounded.bias.reshape(*rounded.scale.shape, 1)
    return np.square(missing).mean()


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("groups", "rows", "width"), [(1, 12, 40), (6, 1, 9)])
def test_errors_are_those_of_the_output(has_bias, groups, rows, width):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(groups, rows, width))
    x = correlated(rng, groups, width, 4000)
    quantized = quantize(x, 0.2)
    moments = collect(x, quantized, x, quantized)  # the same, so that rounding again changes nothing
    rounded = round_layer(matrix, moments, has_bias=has_bias)
    assert rounded.choice != "nearest"
    assert rounded.error == pytest.approx(output_error(matrix, rounded, x, quantized), rel=1e-3)
    scale = per_row(matrix)
    nearest = dequantize_matrix(round_nearest(matrix, scale), scale)
    assert rounded.nearest_error == pytest.approx(np.square(matrix @ x - nearest @ quantized).mean(), rel=1e-3)
    assert bool(rounded.bias.any()) == has_bias


@pytest.mark.parametrize("has_bias", [True, False])
def test_rounding_lowers_the_error_on_inputs_never_seen(has_bias):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(1, 20, 64))
    all_x = correlated(rng, 1, 64, 6000)
    x, held_out, unseen = np.split(all_x, [3000, 4000], axis=2)
    rounded = round_layer(matrix, collect(x, x, held_out, held_out), has_bias=has_bias)
    scale = per_row(matrix)
    nearest = dequantize_matrix(round_nearest(matrix, scale), scale)
    assert "error feedback" in rounded.choice
    assert output_error(matrix, rounded, unseen, unseen) < 0.2 * np.square((matrix - nearest) @ unseen).mean()


def test_moving_towards_the_float_output_helps_where_inputs_differ():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(1, 20, 64))
    all_x = correlated(rng, 1, 64, 6000)
    # What came before loses a tenth of each input, and mixes it up.
    lost = 0.05 * rng.normal(size=(64, 64)) + 0.1 * np.eye(64)
    all_quantized = all_x - (lost @ all_x).astype(np.float32)
    parts = zip(np.split(all_x, [3000, 4000], axis=2), np.split(all_quantized, [3000, 4000], axis=2), strict=True)
    (x, quantized), held_out, unseen = parts
    rounded = round_layer(matrix, collect(x, quantized, *held_out), has_bias=True)
    assert "towards the float output" in rounded.choice
    alone = round_layer(matrix, collect(quantized, quantized, held_out[1], held_out[1]), has_bias=True)
    assert output_error(matrix, rounded, *unseen) < 0.1 * output_error(matrix, alone, *unseen)


@pytest.mark.parametrize("count", [1, 2, 10, 60])
def test_few_samples_for_a_wide_layer_do_no_harm(count):
    rng = np.random.default_rng(count)
    matrix = rng.normal(size=(1, 16, 300))
    all_x = rng.normal(size=(1, 300, 2 * count + 5000)).astype(np.float32)
    all_quantized = quantize(all_x, 0.1)
    cuts = [count, 2 * count]
    parts = zip(np.split(all_x, cuts, axis=2), np.split(all_quantized, cuts, axis=2), strict=True)
    training, held_out, unseen = parts
    rounded = round_layer(matrix, collect(*training, *held_out), has_bias=True)
    nearest = round_layer(matrix, Moments(1, 300), has_bias=True)
    assert nearest.choice == "nearest"
    assert output_error(matrix, rounded, *unseen) < 1.02 * output_error(matrix, nearest, *unseen)


RECIPES = [
    RoundingRecipe(),
    RoundingRecipe(corrects_bias=True),
    RoundingRecipe(corrects_bias=True, damping=0.1),
    RoundingRecipe(corrects_bias=True, damping=0.01),
    RoundingRecipe(corrects_bias=True, damping=0.01, correction=0.1),
]


def choose(recipe, monkeypatch):
    """Has layers rounded by this recipe, whatever the held-out samples say."""
    monkeypatch.setattr("quantkit.refinement.recipes._choose_recipe", lambda layer: (recipe, 0.0, 0.0))


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5), (1, 5), (1, 1)])
@pytest.mark.parametrize("bits", [8, 7])
def test_max_quantization_reproduces_the_codes(recipe, shape, bits, monkeypatch):
    """TensorRT quantizes the weights of an implicit network by the maximum of each channel."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2, 5, 30))
    matrix[1, 2] = 0
    x = correlated(rng, 2, 30, 500)
    moments = collect(x, quantize(x, 0.3), x, quantize(x, 0.3))
    fmt = weight_format(0, bits=bits)
    choose(recipe, monkeypatch)
    rounded = round_layer(matrix, moments, has_bias=True, scale_shape=shape, fmt=fmt)
    assert rounded.recipe == recipe
    weights = dequantize_matrix(rounded.codes, rounded.scale).astype(np.float32)
    scale = matrix_scale(weights, shape, fmt)
    used = weights.any(axis=2)
    np.testing.assert_allclose(scale[used], rounded.scale[used], rtol=1e-6)
    np.testing.assert_array_equal(round_nearest(weights, scale, fmt), rounded.codes)
    assert np.abs(rounded.codes).max() == value_bounds(fmt)[1]
    assert (rounded.scale > 0).all()


def test_blocks_of_inputs_are_rounded_like_groups_of_their_own(monkeypatch):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2, 5, 30))
    # Inputs of different blocks have nothing to do with each other.
    x = np.zeros((2, 30, 900), np.float32)
    for block in range(3):
        x[:, 10 * block : 10 * block + 10, 300 * block : 300 * block + 300] = correlated(rng, 2, 10, 300, mean=0)
    direct = round_layer(matrix, collect(x, x, x, x), has_bias=False)
    monkeypatch.setattr(moments_module, "MOST_VALUES", 2 * 30 * 10)
    monkeypatch.setattr(moments_module, "_NARROWEST_BLOCK", 1)
    in_blocks = round_layer(matrix, collect(x, x, x, x), has_bias=False)
    assert in_blocks.choice == direct.choice != "nearest"
    # Damping follows the mean of a block rather than of the whole layer: a few codes may differ.
    assert (in_blocks.codes == direct.codes).mean() > 0.97
    np.testing.assert_array_equal(in_blocks.scale, direct.scale)
    assert in_blocks.error == pytest.approx(direct.error, rel=0.05)


@pytest.mark.parametrize("scale_shape", [(2, 7), (1, 7), (1, 1)])
def test_large_weights_are_rounded_in_parts(monkeypatch, scale_shape):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2, 7, 30)).astype(np.float32)
    x = correlated(rng, 2, 30, 900, mean=1)
    moments = collect(x, x + 0.01, x, x)
    whole = round_layer(matrix, moments, has_bias=True, scale_shape=scale_shape)
    monkeypatch.setattr(recipes_module, "MOST_VALUES", 2 * 30 * 3)
    in_parts = round_layer(matrix, moments, has_bias=True, scale_shape=scale_shape)
    assert in_parts.choice == whole.choice
    np.testing.assert_array_equal(in_parts.codes, whole.codes)
    np.testing.assert_array_equal(in_parts.scale, whole.scale)
    np.testing.assert_allclose(in_parts.bias, whole.bias, rtol=1e-5)


def degenerate():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 50)).astype(np.float32)
    huge, missing = x.copy(), x.copy()
    huge[0, 0, 0], missing[0, 0, 0] = np.inf, np.nan
    return {
        "all zero": np.zeros_like(x),
        "constant": np.ones_like(x),
        "one position": x[:, :, :1],
        "one input is always zero": x * (np.arange(8) > 0)[:, None].astype(np.float32),
        "all inputs are the same": np.repeat(x[:, :1], 8, axis=1),
        "tiny": x * np.float32(1e-30),
        "large": x * np.float32(1e15),
        "infinite": huge,
        "not a number": missing,
    }


@pytest.mark.parametrize("name", list(degenerate()))
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_degenerate_inputs_give_finite_weights(name, has_bias):
    x = degenerate()[name]
    matrix = np.random.default_rng(1).normal(size=(2, 3, 8))
    quantized = x * np.float32(0.99)
    rounded = round_layer(matrix, collect(x, quantized, x, quantized), has_bias=has_bias)
    assert np.isfinite(rounded.scale).all()
    assert np.isfinite(rounded.bias).all()
    assert not np.isnan([rounded.error, rounded.nearest_error]).any()
    assert (np.abs(rounded.codes).max(axis=2) == 127).all()
    assert np.abs(dequantize_matrix(rounded.codes, rounded.scale) - matrix).max() < 1


def test_memory_is_that_of_twelve_matrices(monkeypatch):
    choose(RECIPES[-1], monkeypatch)
    x = np.random.default_rng(0).normal(size=(1, 500, 50)).astype(np.float32)
    tracemalloc.start()
    rounded = round_layer(np.ones((1, 4, 500)), collect(x, 0.9 * x, x, 0.9 * x), has_bias=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rounded.codes.all()
    # LAPACK's copy of a matrix is not traced.
    of_matrices = 12 * 8 * 500**2
    assert 0.8 * of_matrices < peak < of_matrices


def test_a_layer_of_zeros_stays_zero():
    x = np.random.default_rng(0).normal(size=(1, 6, 40)).astype(np.float32)
    rounded = round_layer(np.zeros((1, 3, 6)), collect(x, x, x, x), has_bias=True)
    assert not rounded.codes.any()
    assert not rounded.bias.any()
    np.testing.assert_array_equal(rounded.scale, 1)
