import itertools

import ml_dtypes
import numpy as np
import pytest

from quantkit.numerics import quantize_array, weight_params
from quantkit.refinement import feedback
from quantkit.refinement.feedback import (
    InputFactors,
    block_steps,
    correct_towards_float,
    dequantize_matrix,
    matrix_scale,
    round_nearest,
    round_with_feedback,
)
from quantkit.refinement.moments import Moments
from quantkit.types import block_format, weight_format
from tests.refinement.layer_inputs import correlated, per_row


def second_moment(x):
    return x.astype(np.float64) @ x.astype(np.float64).swapaxes(1, 2) / x.shape[2]


def quadratic_error(matrix, codes, scale, moment):
    missing = matrix - dequantize_matrix(codes, scale)
    return np.einsum("grk,gkl,grl->gr", missing, moment, missing)


def test_nearest_is_what_numerics_rounds():
    weight = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    params = weight_params(weight, 0)
    scale = per_row(weight[None])
    np.testing.assert_array_equal(scale[0], params.scale)
    np.testing.assert_array_equal(round_nearest(weight[None], scale)[0], quantize_array(weight, params))


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_rows_share_a_scale(shape):
    matrix = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    axes = tuple(i for i in (0, 1) if shape[i] == 1)
    expected = np.abs(matrix).max(axis=(*axes, 2), keepdims=True)[:, :, 0] / np.float32(127)
    np.testing.assert_allclose(matrix_scale(matrix, shape), np.broadcast_to(expected, (2, 3)), rtol=1e-6)


def test_feedback_is_close_to_the_optimum_of_four_weights():
    rng = np.random.default_rng(0)
    matrix, moment = rng.normal(size=(200, 1, 4)), second_moment(correlated(rng, 200, 4, 50, rank=4, mean=0))
    scale = per_row(matrix)
    near = np.floor(matrix / scale[:, :, None])
    is_largest = np.abs(matrix) == np.abs(matrix).max(axis=2, keepdims=True)
    best = np.full((200, 1), np.inf)
    for offset in itertools.product(range(-2, 4), repeat=4):
        codes = np.clip(near + offset, -127, 127)
        codes = np.where(is_largest, np.copysign(127, matrix), codes)
        best = np.minimum(best, quadratic_error(matrix, codes, scale, moment))
    nearest = quadratic_error(matrix, round_nearest(matrix, scale), scale, moment)
    feedback = quadratic_error(matrix, round_with_feedback(matrix, moment, scale, 1e-6), scale, moment)
    assert (feedback >= best * (1 - 1e-6)).all()
    assert nearest.sum() > 1.4 * best.sum()
    assert feedback.sum() < 1.1 * best.sum()


def test_feedback_without_correlation_rounds_to_nearest():
    matrix = np.random.default_rng(0).normal(size=(3, 4, 70))
    moment = np.broadcast_to(np.diag(np.linspace(1, 2, 70)), (3, 70, 70))
    scale = per_row(matrix)
    np.testing.assert_array_equal(round_with_feedback(matrix, moment, scale, 0.01), round_nearest(matrix, scale))


@pytest.mark.parametrize(("groups", "rows", "width"), [(1, 16, 200), (1, 1, 65), (40, 1, 9), (4, 8, 64)])
def test_feedback_lowers_the_error_on_correlated_inputs(groups, rows, width):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(groups, rows, width))
    moment = second_moment(correlated(rng, groups, width, 4 * width))
    scale = per_row(matrix)
    nearest = quadratic_error(matrix, round_nearest(matrix, scale), scale, moment).sum()
    feedback = quadratic_error(matrix, round_with_feedback(matrix, moment, scale, 0.01), scale, moment).sum()
    assert feedback < 0.4 * nearest


@pytest.mark.parametrize("damping", [1e-9, 0.3])
def test_feedback_is_the_textbook_algorithm(damping):
    """GPTQ as it is published: by the factor of the inverse, one column after another."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(1, 5, 150))
    moment = second_moment(correlated(rng, 1, 150, 600))
    scale = per_row(matrix)
    damped = moment[0] + damping * np.trace(moment[0]) / 150 * np.eye(150)
    order = np.argsort(-np.diag(damped), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    weights, expected = matrix[0][:, order].copy(), np.empty((5, 150))
    largest = np.abs(matrix[0]).argmax(axis=1)
    for k in range(150):
        code = np.clip(np.rint(weights[:, k] / scale[0]), -127, 127)
        code = np.where(order[k] == largest, np.sign(matrix[0][np.arange(5), largest]) * 127, code)
        expected[:, order[k]] = code
        weights[:, k:] -= np.outer((weights[:, k] - code * scale[0]) / upper[k, k], upper[k, k:])
    found = round_with_feedback(matrix, moment, scale, damping)[0]
    assert (found == expected).mean() > 0.99


def test_correction_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    x = correlated(rng, 2, 6, 400)
    quantized = x + 0.3 * rng.normal(size=x.shape).astype(np.float32)
    matrix = rng.normal(size=(2, 3, 6))
    moments = Moments(2, 6)
    moments.add(x, quantized, weights=np.ones(x.shape[2]))
    second, cross = (getattr(moments.training, name)(centered=False) for name in ("second_moment", "cross_moment"))
    found = correct_towards_float(matrix, InputFactors(second), cross, damping=0)
    for group in range(2):
        expected = np.linalg.lstsq(quantized[group].T.astype(float), (matrix[group] @ x[group]).T, rcond=None)[0].T
        np.testing.assert_allclose(found[group], expected, atol=1e-4)
    np.testing.assert_allclose(
        correct_towards_float(matrix, InputFactors(second), cross, damping=1e9), matrix, atol=1e-6
    )


def test_blocks_use_all_codes_and_errors_cancel() -> None:
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(1, 32, 4000)), 2, axis=1) + 0.1 * random.normal(size=(1, 64, 4000))
    moment = x @ x.swapaxes(1, 2) / x.shape[2]
    matrix = random.normal(size=(1, 24, 64))
    steps = block_steps(matrix, 16, np.einsum("gkk->gk", moment)[:, None])
    assert steps.shape == matrix.shape
    assert (steps == np.repeat(steps[:, :, ::16], 16, axis=2)).all()
    assert (steps == steps.astype(np.float16)).all()
    nearest = round_nearest(matrix, steps, block_format(16))
    codes = round_with_feedback(matrix, moment, steps, 0.01, block_format(16))
    assert (codes.min(), codes.max()) == (nearest.min(), nearest.max()) == (-8, 7)

    def error(codes: np.ndarray) -> float:
        missing = matrix - dequantize_matrix(codes, steps)
        return float(np.sum(missing @ moment * missing))

    assert error(codes) < 0.65 * error(nearest)


def test_blocks_are_clipped_for_what_is_multiplied_most() -> None:
    """The scale follows the weights that count, not the largest one."""
    matrix = np.array([[[1.0, *[0.3] * 15]]])
    free = block_steps(matrix, 16, np.ones((1, 1, 16)))
    assert block_steps(matrix, 16, np.array([[[0.0, *[1.0] * 15]]])).max() < free.max() <= np.float32(1 / 7) * 1.001


def test_errors_cancel_on_the_grid_of_fp8_too() -> None:
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(1, 32, 4000)), 2, axis=1) + 0.1 * random.normal(size=(1, 64, 4000))
    moment = x @ x.swapaxes(1, 2) / x.shape[2]
    matrix = random.normal(size=(1, 24, 64))
    fmt = weight_format(0, kind="float")
    scale = matrix_scale(matrix, (1, 24), fmt)
    assert (scale == scale.astype(np.float16)).all()
    octaves = scale[0] / (np.abs(matrix[0]).max(axis=1) / 448)
    assert (octaves > 0.999).all()
    assert (octaves < 2).all()
    nearest = round_nearest(matrix, scale, fmt)
    codes = round_with_feedback(matrix, moment, scale, 0.01, fmt)
    assert codes.dtype == nearest.dtype == ml_dtypes.float8_e4m3fn
    errors = [quadratic_error(matrix, c, scale, moment).sum() for c in (codes, nearest)]
    assert errors[0] < 0.65 * errors[1]


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_scales_of_fp8_are_chosen_by_the_rows_and_the_inputs_that_they_are_for(shape) -> None:
    """Weights on inputs that are 0 count nothing: with their row alone on the others the scale would be the same."""
    random = np.random.default_rng(0)
    matrix = random.uniform(0.5, 1, size=(2, 3, 8)).astype(np.float32)
    matrix[:, :, 0] = 1
    counts = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.float32)
    fmt = weight_format(0, kind="float")
    found = matrix_scale(matrix, shape, fmt, np.broadcast_to(counts, (2, 1, 8)))
    np.testing.assert_array_equal(found, matrix_scale(matrix[:, :, :2], shape, fmt))
    assert len(np.unique(found)) > 1 or shape == (1, 1)


def test_each_damping_is_factorized_once(monkeypatch) -> None:
    """Rounding and the correction towards the float output share factors; of many, a few are kept."""
    dampings: list[float] = []
    factorize = feedback._factorize

    def counted(moment, damping):
        dampings.append(damping)
        return factorize(moment, damping)

    monkeypatch.setattr(feedback, "_factorize", counted)
    x = np.random.default_rng(0).normal(size=(2, 80, 400))
    second = x @ x.swapaxes(1, 2) / 400
    inputs, before = InputFactors(second), second.copy()
    wanted = np.random.default_rng(1).normal(size=(2, 80, 5))
    for damping in (0.1, 0.01, 1.0, 0.1, 0.01, 10.0, 0.1):
        mean = np.einsum("gkk->g", second) / 80
        damped = second + damping * mean[:, None, None] * np.eye(80)
        np.testing.assert_allclose(inputs.solve(wanted, damping), np.linalg.solve(damped, wanted), atol=1e-9)
        inputs.round(wanted.swapaxes(1, 2), np.full((2, 5), 0.05, np.float32), damping)
    assert dampings == [0.1, 0.01, 1.0, 10.0]
    np.testing.assert_array_equal(second, before)
