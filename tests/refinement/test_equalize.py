"""Factors for channels: equal ranges where asked for, bounded where a channel hardly holds anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import CalibrationError
from quantkit.refinement.equalize import equalizing_scales, rounding_error

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
