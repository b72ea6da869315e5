from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.evaluation.significance import difference_interval, mcnemar_p_value


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_p_value_is_scipys_binomial_test(fixed, broken):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(fixed, fixed + broken, 0.5).pvalue if fixed + broken else 1.0
    # scipy doubles by summing the other tail; for p = 1/2 that is the same number.
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_p_value_is_symmetric_and_a_probability(fixed, broken):
    p = mcnemar_p_value(fixed, broken)
    assert 0 <= p <= 1
    assert p == mcnemar_p_value(broken, fixed)


@pytest.mark.parametrize(("fixed", "broken"), [(1, 9), (460, 540), (460, 541), (30_000, 30_400)])
def test_p_value_holds_on_both_sides_of_the_switch_to_logarithms(fixed, broken):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(fixed, fixed + broken, 0.5).pvalue
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("samples", "discordance", "points"), [(5000, 0.03, 0.48), (10000, 0.06, 0.48), (50000, 0.01, 0.09)]
)
def test_half_width_is_the_published_one_for_many_samples(samples, discordance, points):
    half = int(samples * discordance / 2)
    low, high = difference_interval(half, half, num_samples=samples)
    assert 100 * (high - low) / 2 == pytest.approx(points, abs=0.01)


def test_models_that_never_differ_are_not_proven_equal():
    low, high = difference_interval(0, 0, num_samples=1000)
    assert low < 0 < high
    assert high - low > difference_interval(0, 0, num_samples=10000)[1]


@given(st.integers(1, 10_000), st.data())
def test_interval_holds_the_estimate_and_stays_possible(samples, data):
    fixed = data.draw(st.integers(0, samples))
    broken = data.draw(st.integers(0, samples - fixed))
    low, high = difference_interval(fixed, broken, num_samples=samples)
    assert -1 <= low <= (fixed - broken) / samples <= high <= 1


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    truth = np.array([0.010, 0.018, 0.972])
    covered = 0
    for fixed, broken, _ in rng.multinomial(1000, truth, size=2000):
        low, high = difference_interval(int(fixed), int(broken), num_samples=1000)
        covered += low <= -0.008 <= high
    assert 0.935 <= covered / 2000 <= 0.98


def test_more_flips_than_samples_are_refused():
    with pytest.raises(ValueError, match="5 fixed and 6 broken of 10"):
        difference_interval(5, 6, num_samples=10)
