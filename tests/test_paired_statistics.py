from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantkit.evaluation.bootstrap import mean_difference_interval
from quantkit.paired_statistics import (
    difference_interval,
    mcnemar_p_value,
    samples_needed,
    samples_to_tell,
    wilson_interval,
)


def exact_p_value(fixed: int, broken: int) -> float:
    """The definition in whole numbers, rounded once."""
    total = fixed + broken
    term = tail = 1
    for i in range(min(fixed, broken)):
        term = term * (total - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)


@given(st.integers(0, 3000), st.integers(0, 3000))
@example(10, 1065)
@example(15, 1060)
@example(0, 1074)
@example(0, 3000)
def test_p_value_is_the_exact_one_down_to_the_least_number(fixed, broken):
    # Below 1e-300 the logarithms' last digits and, at last, the spacing of subnormal numbers show.
    assert mcnemar_p_value(fixed, broken) == pytest.approx(exact_p_value(fixed, broken), rel=1e-8, abs=1e-320)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 9), (250, 250), (40, 900), (1500, 1700)])
def test_p_value_is_scipys_binomial_test(fixed, broken):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(fixed, fixed + broken, 0.5).pvalue if fixed + broken else 1.0
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-8)


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


@pytest.mark.parametrize(("samples", "fixed", "broken"), [(1000, 30, 45), (10_000, 150, 180), (500, 12, 20)])
def test_interval_is_the_bootstraps_where_many_samples_differ(samples, fixed, broken):
    changed = np.zeros(samples)
    changed[:fixed], changed[fixed : fixed + broken] = 1, -1
    resampled = np.array(mean_difference_interval(np.zeros(samples), changed, num_draws=2000))
    found = np.array(difference_interval(fixed, broken, num_samples=samples))
    assert found == pytest.approx(resampled, abs=0.15 * (found[1] - found[0]) / 2 + 1 / samples)


def test_interval_is_better_than_the_bootstraps_where_few_samples_differ():
    """The bootstrap of no change is ±0: it leaves out the truth in most runs; this one does not."""
    samples, truth = 1000, np.array([0.0005, 0.001, 0.9985])
    assert mean_difference_interval(np.zeros(50), np.zeros(50), num_draws=50) == (0, 0)
    rng = np.random.default_rng(0)
    held = resampled = 0
    for fixed, broken, _ in rng.multinomial(samples, truth, size=300):
        low, high = difference_interval(int(fixed), int(broken), num_samples=samples)
        held += low <= -0.0005 <= high
        shares = np.array([fixed, broken, samples - fixed - broken]) / samples
        drawn = rng.multinomial(samples, shares, size=300)
        low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / samples, (0.025, 0.975))
        resampled += low <= -0.0005 <= high
    assert held >= 0.95 * 300
    assert resampled < 0.8 * 300


@pytest.mark.parametrize(
    ("fixed", "broken", "margin"), [(17, 23, 0.01), (10, 16, 0.01), (5, 5, 0.002), (60, 40, 0.005)]
)
def test_that_many_samples_decide_in_four_of_five_runs(fixed, broken, margin):
    """The interval of as many samples, drawn anew, says "within" or "worse" in about 80 of 100 draws."""
    per, truth = 2000, np.array([fixed, broken, 2000 - fixed - broken]) / 2000
    count = samples_needed(fixed, broken, num_samples=per, margin=margin)
    loss = (broken - fixed) / per
    decided = 0
    for f, b, _ in np.random.default_rng(0).multinomial(count, truth, size=1000):
        low, high = (-end for end in reversed(difference_interval(int(f), int(b), num_samples=count)))
        decided += high <= margin if margin - loss >= loss else low > 0
    assert 750 < decided < 850


def test_the_published_number_with_a_two_sided_interval():
    """A true drop of 0.3 points, 2% of samples differing, a margin of 1 point: n = (2.8016 sd / 0.007)^2."""
    sd = math.sqrt(0.02 - 0.003**2)
    assert samples_needed(17, 23, num_samples=2000, margin=0.01) == pytest.approx((2.8016 * sd / 0.007) ** 2, rel=0.04)


def test_both_ways_of_counting_agree_where_many_samples_differ():
    count, fixed, broken = 2000, 100, 110
    low, high = difference_interval(fixed, broken, num_samples=count)
    by_counts = samples_needed(fixed, broken, num_samples=count, margin=0.01)
    by_width = samples_to_tell(0.005, (high - low) / 2, num_samples=count)
    assert by_width == pytest.approx(by_counts, rel=0.05)


def test_no_number_of_samples_tells_a_distance_of_nothing():
    assert samples_needed(5, 5, num_samples=100, margin=0.0) is None
    assert samples_to_tell(0.0, 0.1, num_samples=100) is None
    assert samples_to_tell(1e-300, 1.0, num_samples=100) is None


def test_wilsons_interval_where_all_or_none_agree():
    assert wilson_interval(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
