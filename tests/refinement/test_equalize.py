"""Factors for channels: equal ranges where asked for, bounded where a channel hardly holds anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import CalibrationError
from quantkit.refinement import equalize
from quantkit.refinement.equalize import equalizing_scales, least_error_scales, rounding_error

RANGES = st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=8).map(np.array)


def test_depthwise_channels_get_the_range_of_the_largest() -> None:
    ranges = np.array([8.0, 2.0, 0.1])
    assert equalizing_scales(ranges) * ranges == pytest.approx([8, 8, 8])


def test_smoothquant() -> None:
    """s = amax(X)^alpha / amax(W)^(1 - alpha) divides the activation."""
    ranges, weights = np.array([10.0, 1.0, 0.2]), np.array([0.1, 0.5, 0.05])
    divisor = ranges**0.7 / weights**0.3
    found = equalizing_scales(ranges, weights, alpha=0.7)
    assert found * divisor == pytest.approx(np.full(3, (found * divisor)[0]))


def test_alpha_zero_equalizes_the_weights() -> None:
    weights = np.array([0.1, 0.5, 0.05])
    divided = weights / equalizing_scales([10.0, 1.0, 0.2], weights, alpha=0)
    assert divided == pytest.approx(np.full(3, divided[0]))


def test_a_channel_of_noise_is_not_blown_up() -> None:
    assert equalizing_scales([1.0, 1e-6], max_ratio=64)[1] == 64


def test_a_channel_that_was_zero_keeps_its_precision() -> None:
    assert equalizing_scales([2.0, 0.0, 1.0]).tolist() == [1, 1, 2]


def test_no_activation_at_all() -> None:
    assert equalizing_scales([0.0, 0.0]).tolist() == [1, 1]


@given(RANGES, st.floats(0, 1), st.integers(0, 99))
def test_factors_are_positive_bounded_and_keep_the_range(ranges: np.ndarray, alpha: float, seed: int) -> None:
    weights = np.random.default_rng(seed).exponential(1, len(ranges))
    found = equalizing_scales(ranges, weights, alpha=alpha, max_ratio=32).astype(np.float64)
    assert (found > 0).all()
    assert found.max() / found.min() <= 32 * (1 + 1e-5)
    assert (found * ranges).max() == pytest.approx(ranges.max(), rel=1e-5)


@pytest.mark.parametrize(("alpha", "weights"), [(1.5, [1.0]), (-0.1, [1.0]), (0.5, None)])
def test_alpha_that_makes_no_sense(alpha: float, weights: list[float] | None) -> None:
    with pytest.raises(CalibrationError, match="alpha"):
        equalizing_scales([1.0], weights, alpha=alpha)


def test_expected_rounding_error_is_that_of_rounding() -> None:
    """Uniform errors of steps: measured on many samples, activation and weights apart."""
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 4.0, 0.5, 2.0, 8.0, 1.0])
    x = rng.normal(size=(20_000, 6)) * spread
    weight = rng.normal(size=(64, 6)) / spread
    factors, amax = np.array([1.0, 0.5, 2.0, 1.0, 0.25, 1.0]), 9.0
    scaled, divided = x * factors, weight / factors
    rows = [(np.abs(weight), np.broadcast_to(np.arange(6), weight.shape))]
    of_activation, of_weights = rounding_error(rows, x.var(axis=0), factors, amax)
    rounded = np.round(scaled / amax * 127) * amax / 127
    assert of_activation == pytest.approx(np.square((rounded - scaled) @ divided.T).mean(0).sum(), rel=0.02)
    scale = np.abs(divided).max(axis=1, keepdims=True) / 127
    error = np.square(scaled @ (np.round(divided / scale) * scale - divided).T).mean(0).sum()
    assert of_weights == pytest.approx(error, rel=0.25)  # of 384 weights, 64 of which have no error


def all_rows(weight: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of one reader, each row of which reads all channels."""
    return [(np.abs(weight), np.broadcast_to(np.arange(weight.shape[1]), weight.shape))]


def expected(rows: list, variance: np.ndarray, reach: np.ndarray, factors: np.ndarray) -> float:
    return sum(rounding_error(rows, variance, factors, float((factors * reach).max())))


@pytest.mark.parametrize("seed", range(4))
def test_no_other_factors_leave_clearly_less_error(seed: int) -> None:
    """Beside a search over a grid: two factors of three are free."""
    rng = np.random.default_rng(seed)
    rows = all_rows(rng.normal(size=(5, 3)) * rng.exponential(1, 3))
    reach = rng.exponential(1, 3) + 0.2
    variance = np.square(reach * rng.uniform(0.05, 0.5, 3))
    grid = 2 ** np.linspace(-5, 5, 61)
    best = min(expected(rows, variance, reach, np.array([1.0, a, b])) for a in grid for b in grid)
    found = least_error_scales(rows, variance, reach)
    assert expected(rows, variance, reach, found) < 1.08 * best  # the maximum is a smooth one
    assert (found * reach).max() == pytest.approx(reach.max(), rel=1e-5)


def test_an_identity_beside_a_kernel_needs_factors_that_no_share_of_difficulty_gives() -> None:
    """As in re-parameterised networks: some channels have identities of another size."""
    rng = np.random.default_rng(0)
    deviation, identity = rng.exponential(1, 96) + 0.01, rng.uniform(0.5, 2, 96)
    identity[::12] *= 50
    rows = all_rows(np.diag(identity) + rng.normal(size=(96, 96)) / 10)
    reach, variance, ones = deviation * rng.uniform(3, 12, 96), deviation**2, np.ones(96)
    largest = rows[0][0].max(axis=0)
    shares = [equalizing_scales(reach, largest, alpha=alpha) for alpha in (0, 0.25, 0.5, 0.75, 1)]
    others = min(expected(rows, variance, reach, factors) for factors in (ones, *shares))
    assert expected(rows, variance, reach, least_error_scales(rows, variance, reach)) < 0.9 * others


def test_a_channel_that_hardly_held_anything_can_hold_a_part_of_the_range() -> None:
    """On other samples it may: its weights ask for a factor without bound."""
    rows = all_rows(np.array([[0.1, 100.0], [1.0, 0.0]]))
    found = least_error_scales(rows, np.array([1.0, 1e-12]), [3.0, 1e-6], max_ratio=16)
    assert 8 < found[1] <= 16


def test_a_channel_that_no_weight_reads_and_no_activation_at_all() -> None:
    rows = all_rows(np.array([[0.0, 1.0], [0.0, 2.0]]))
    assert np.isfinite(least_error_scales(rows, np.ones(2), [1.0, 1.0])).all()
    assert least_error_scales(rows, np.zeros(2), [0.0, 0.0]).tolist() == [1, 1]


def test_factors_fitted_to_some_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = all_rows(rng.normal(size=(512, 6)) * [1, 8, 1, 2, 1, 1])
    variance, reach = np.array([1.0, 0.1, 4.0, 1.0, 1.0, 9.0]), np.array([3.0, 1.0, 6.0, 3.0, 3.0, 9.0])
    exact = least_error_scales(rows, variance, reach)
    monkeypatch.setattr(equalize, "_MOST_WEIGHTS", 64 * 6)
    assert least_error_scales(rows, variance, reach) == pytest.approx(exact, rel=0.1)
