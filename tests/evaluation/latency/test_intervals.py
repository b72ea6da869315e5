from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.evaluation.latency import intervals as latency_intervals
from quantkit.evaluation.latency.intervals import binomial_ranks, find_references, rank_interval, speedup_intervals

REFERENCES = {"a": "a", "b": "a"}


def autocorrelated(rng, shape, rho):
    """Normal values in the order of time, each with correlation `rho` to the one before."""
    count = math.prod(shape)
    noise = rng.normal(size=count) * math.sqrt(1 - rho**2)
    values = np.empty(count)
    values[0] = rng.normal()
    for i in range(1, count):
        values[i] = rho * values[i - 1] + noise[i]
    return values.reshape(shape)


@given(st.integers(1, 30_000), st.sampled_from([0.5, 0.9, 0.99]))
def test_ranks_equal_scipys_binomial(count, share):
    stats = pytest.importorskip("scipy.stats")
    low, high = (int(stats.binom.ppf(end, count, share)) for end in (0.025, 0.975))
    expected = (low, high + 1) if low >= 1 and high < count else None
    assert binomial_ranks(count, share) == expected


@pytest.mark.parametrize(
    ("count", "share", "ranks"),
    [(1000, 0.99, (983, 997)), (10_000, 0.99, (9880, 9920)), (100, 0.99, None), (0, 0.5, None), (5, 0.5, None)],
)
def test_ranks_equal_published_ones(count, share, ranks):
    found = binomial_ranks(count, share)
    assert found == ranks or (ranks and found == pytest.approx(ranks, abs=1))


def test_students_t_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for degrees in range(4, 20):
        assert latency_intervals._student_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=5e-3)


def test_interval_of_independent_calls_is_nearly_binomial():
    rounds = np.random.default_rng(0).permutation(10_000).reshape(100, 100) + 1.0
    low, high = rank_interval(rounds, 90)
    expected = binomial_ranks(10_000, 0.9)
    assert low == pytest.approx(expected[0], abs=15)
    assert high == pytest.approx(expected[1], abs=15)
    # Batches that are all alike tell no more than independent calls would.
    assert rank_interval(np.tile(np.arange(100.0), (100, 1)), 50) == rank_interval(
        [list(np.random.default_rng(i).permutation(100)) for i in range(100)], 50
    )


def test_repeated_calls_count_once():
    """Each round is one time, again and again: it tells as much as 20 batches of it, however many calls there are."""
    times = np.random.default_rng(0).normal(10, 1, 20)
    few, many = (rank_interval([[t] * calls for t in times], 50) for calls in (10, 1000))
    assert few == many
    ranks = binomial_ranks(17, 0.5)  # 20 (1.960 / 2.093)^2
    ordered = sorted(times)
    assert few[0] <= ordered[ranks[0] - 1] + 1e-12
    assert few[1] >= ordered[ranks[1] - 1]


def test_too_few_rounds_have_no_interval():
    rng = np.random.default_rng(0)
    assert rank_interval(rng.normal(10, 1, (4, 1000)), 50) is None
    assert rank_interval(rng.normal(10, 1, (5, 100)), 50) is not None
    assert rank_interval(rng.normal(10, 1, (10, 10)), 99) is None
    assert rank_interval(rng.normal(10, 1, (100, 20)), 99) is not None
    assert rank_interval([[10.0]] * 20, 50) == (10, 10)
    assert speedup_intervals({"a": [[1.0]] * 4, "b": [[1.0]] * 4}, REFERENCES) == {"a": None, "b": None}


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_interval_covers_the_true_value_of_correlated_calls(percent):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(percent)
    truth = math.exp(0.05 * stats.norm.ppf(percent / 100))
    held = naive = 0
    for _ in range(200):
        rounds = np.exp(0.05 * autocorrelated(rng, (60, 100), 0.9))
        low, high = rank_interval(rounds, percent)
        held += low <= truth <= high
        ordered, ranks = np.sort(rounds.ravel()), binomial_ranks(rounds.size, percent / 100)
        naive += ordered[ranks[0] - 1] <= truth <= ordered[ranks[1] - 1]
    assert held >= 0.88 * 200
    assert naive < 0.75 * 200


@pytest.mark.slow
def test_speedup_interval_covers_the_true_value():
    rng = np.random.default_rng(0)
    held, widths, unpaired = 0, [], []
    for _ in range(50):
        moment = 0.1 * autocorrelated(rng, (60, 1), 0.8)
        own = [0.02 * autocorrelated(rng, (60, 20), 0.5) for _ in range(2)]
        a, b = 3.0 * np.exp(moment + own[0]), 2.0 * np.exp(moment + own[1])
        low, high = speedup_intervals({"a": a, "b": b}, REFERENCES)["b"]
        held += low <= 1.5 <= high
        widths.append(high - low)
        if len(unpaired) < 10:
            low, high = speedup_intervals({"a": rng.permutation(a), "b": b}, REFERENCES)["b"]
            unpaired.append(high - low)
    assert held >= 0.88 * 50
    assert np.mean(widths) < 0.6 * np.mean(unpaired)


def test_resampled_medians_are_those_of_the_repeated_calls():
    rng = np.random.default_rng(0)
    for sizes in ([3] * 8, [1, 2, 3, 400, 5, 60, 7], [5000] * 6):
        batches = [np.round(rng.lognormal(0, 0.3, size), 3) for size in sizes]
        weights = rng.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=50).astype(float)
        found = latency_intervals._drawn_medians(batches, weights)
        for row, median in zip(weights.astype(int), found, strict=True):
            drawn = np.sort(np.concatenate([b for b, w in zip(batches, row, strict=True) for _ in range(w)]))
            assert median == drawn[(len(drawn) - 1) // 2]


def test_interval_contains_the_ratio_and_is_a_point_for_equal_times():
    rng = np.random.default_rng(0)
    found = speedup_intervals({"a": [[2.0]] * 9, "b": [[0.5, 0.5]] * 9}, REFERENCES)
    assert found == {"a": None, "b": (4.0, 4.0)}
    for _ in range(20):
        a, b = rng.lognormal(0, 0.2, (6, 9)), rng.lognormal(0, 0.2, (6, 9))
        low, high = speedup_intervals({"a": a, "b": b}, REFERENCES)["b"]
        assert low <= np.median(a) / np.median(b) <= high


def test_intervals_are_deterministic():
    rng = np.random.default_rng(0)
    rounds = {"a": rng.lognormal(0, 1, (30, 5)), "b": rng.lognormal(0, 1, (30, 5))}
    assert speedup_intervals(rounds, REFERENCES) == speedup_intervals(rounds, REFERENCES)


def test_zero_times_have_no_speedup():
    assert speedup_intervals({"a": [[0.0]] * 9, "b": [[0.0]] * 9}, REFERENCES)["b"] is None


def test_each_is_compared_with_the_first_of_its_backend():
    assert find_references(["x", "y"], None) == {"x": "x", "y": "x"}
    backends = {"r8": "RTX", "t32": "TRT", "r32": "RTX", "t8": "TRT"}
    assert find_references(list(backends), backends) == {"r8": "r8", "t32": "t32", "r32": "r8", "t8": "t32"}


def test_an_interval_is_wider_where_calls_were_interrupted():
    # In every round the same share of calls is interrupted, a little less than half of them.
    quick, long = [2.0, 2.1, 2.05, 1.95, 2.02], [9.0, 9.5, 9.2, 9.1]
    rounds = {"a": [[1.0, 1.01, 0.99] * 3] * 40, "b": [quick + long] * 40}
    low, high = speedup_intervals(rounds, REFERENCES)["b"]
    ends = rank_interval(rounds["b"], 50)
    assert ends[1] >= 9 > 2.1 > ends[0]
    assert low < 0.115
    assert high > 0.45
    # Rare but long: the mean is far from the median, which is sure all the same.
    rare = {"a": rounds["a"], "b": [[2.0] * 9 + [50.0]] * 40}
    assert speedup_intervals(rare, REFERENCES)["b"] == pytest.approx((0.5, 0.5), rel=0.02)
    # Too few calls for a median's interval: nothing is said.
    assert speedup_intervals({"a": [[1.0]] * 5, "b": [[2.0], [2.0], [2.0], [50.0], [2.0]]}, REFERENCES)["b"] is None


def test_common_slow_phases_cancel():
    pace = [1.0] * 20 + [3.0] * 20
    rng = np.random.default_rng(2)
    rounds = {
        name: [(ms * p * rng.uniform(0.99, 1.01, 9)).tolist() for p in pace] for name, ms in (("a", 1.0), ("b", 2.0))
    }
    low, high = speedup_intervals(rounds, REFERENCES)["b"]
    assert 0.45 < low <= 0.5 <= high < 0.55
