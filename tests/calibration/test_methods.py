import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.calibration.methods import METHODS, bind_method, cache_algorithm, method_settings
from quantkit.calibration.methods.entropy import LEVELS, divergences, entropy, search
from quantkit.calibration.methods.minmax import minmax
from quantkit.calibration.methods.mse import mse, squared_error
from quantkit.calibration.methods.percentile import percentile
from quantkit.calibration.statistics import new_statistics, update
from quantkit.errors import CalibrationError
from tests.calibration.entropy_reference import search as reference_search

RNG = np.random.default_rng(7)


def statistics_of(values, rule="exact", batches=1):
    statistics = new_statistics(rule)
    for part in np.array_split(np.asarray(values, np.float32), batches):
        update(statistics, part)
    return statistics


def brute_force_divergence(histogram, m):
    """KL(P || Q) from its definition, a loop over bins."""
    bins = np.asarray(histogram, np.float64).copy()
    bins[0] = bins[1]
    p = bins[:m].copy()
    p[-1] += bins[m:].sum()
    q = np.zeros(m)
    for level in range(128):
        members = [j for j in range(m) if j * 128 // m == level]
        filled = [j for j in members if bins[j] > 0]
        for j in filled:
            q[j] = bins[members].sum() / len(filled)
    if q.sum() == 0 or ((p > 0) & (q == 0)).any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize(
    "histogram",
    [
        RNG.poisson(1000 * np.exp(-np.arange(2048) / 300)),
        RNG.poisson(3 * np.exp(-np.arange(2048) / 200)),
        np.where(np.arange(2048) % 7 == 0, 50, 0),
        RNG.integers(0, 2, 2048),
    ],
)
def test_divergence_is_its_definition(histogram):
    result = divergences(histogram)
    for m in (128, 129, 200, 255, 256, 1000, 1537, 2047, 2048):
        assert result[m - 128] == pytest.approx(brute_force_divergence(histogram, m), rel=1e-9, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(50, 1500), st.floats(0.05, 50))
@settings(max_examples=30)
def test_search_finds_the_bin_of_the_reference(seed, decay, height):
    histogram = np.random.default_rng(seed).poisson(height * np.exp(-np.arange(2048) / decay))
    assert search(histogram) == reference_search(histogram)[0]


def test_the_zeros_of_relu_do_not_decide():
    values = np.abs(RNG.standard_normal(100_000)).astype(np.float32)
    with_zeros = np.concatenate([values, np.zeros(1_000_000, np.float32)])
    assert entropy(statistics_of(with_zeros)) == entropy(statistics_of(values))


def test_entropy_clips_outliers_that_minmax_keeps():
    values = np.concatenate([RNG.standard_normal(200_000), [30.0]])
    statistics = statistics_of(values)
    assert minmax(statistics) == 30
    assert 3 < entropy(statistics) < 15


def test_exact_entropy_never_exceeds_what_was_seen_and_tensorrt_may():
    values = RNG.standard_normal(50_000)
    for rule, batches in (("exact", 1), ("tensorrt", 10)):
        statistics = statistics_of(values, rule, batches)
        threshold = entropy(statistics)
        assert threshold <= statistics.amax * (1 if rule == "exact" else 2)
        assert threshold > statistics.amax / 3
    few = np.array([0.5, 1.0, 0.5, 1.0], np.float32)
    assert entropy(statistics_of(few)) <= 1.0


def test_percentile_is_that_share_of_the_values():
    values = np.abs(RNG.standard_normal(100_000)).astype(np.float32).astype(np.float64)
    statistics = statistics_of(values)
    for percent in (50, 99, 99.9, 99.99):
        expected = np.quantile(values, percent / 100, method="inverted_cdf")
        assert 0 <= percentile(statistics, percentile=percent) - expected <= statistics.bin_width
    assert percentile(statistics, percentile=100) == statistics.amax


def test_mse_is_the_best_of_a_fine_grid_of_the_values_themselves():
    for values in (RNG.standard_normal(50_000), RNG.laplace(size=50_000), np.maximum(RNG.standard_normal(50_000), 0)):
        values = values.astype(np.float32)
        statistics = statistics_of(values)
        chosen = mse(statistics)

        magnitudes = np.abs(values).astype(np.float64)
        ones = np.ones(magnitudes.size)
        best = min(squared_error(t, magnitudes, ones) for t in np.linspace(0.3, 1, 141) * statistics.amax)
        assert squared_error(chosen, magnitudes, ones) <= best * 1.01
        assert chosen <= statistics.amax


def test_minmax_of_a_negative_extreme():
    assert minmax(statistics_of([-5, 1, 2])) == 5


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_change_the_statistics_and_are_scale_equivariant(name):
    values = RNG.laplace(size=30_000).astype(np.float32)
    statistics = statistics_of(values)
    before = statistics.histogram.copy()
    threshold = bind_method(name, {})(statistics)
    np.testing.assert_array_equal(statistics.histogram, before)
    assert bind_method(name, {})(statistics_of(values * 4)) == pytest.approx(4 * threshold, rel=1e-12)
    assert bind_method(name, {})(statistics_of(-values)) == threshold


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_tensor(name):
    assert bind_method(name, {})(statistics_of(np.full(1000, 3.0))) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    ("name", "percent", "message"),
    [
        ("entropie", None, "did you mean 'entropy'"),
        ("zzz", None, "choose one of auto, entropy, "),
        ("mse", 99.9, "no meaning with the method 'mse'"),
        ("percentile", 0, "above 0"),
        ("percentile", 100.1, "at most 100"),
        ("percentile", float("nan"), "above 0"),
    ],
)
def test_bad_names_and_percentiles_are_refused(name, percent, message):
    with pytest.raises(CalibrationError, match=message):
        bind_method(name, {"percentile": percent})


def test_entropy_does_not_cut_off_everything_where_no_value_is_near_zero():
    """Values from 0.1 to 0.9: the divergence is least at 0.1, where all of them become one level."""
    values = np.random.default_rng(0).uniform(0.094, 0.886, 50_000).astype(np.float32)
    statistics = statistics_of(values)
    assert entropy(statistics) > np.median(values)
    clipped = np.mean(values > entropy(statistics))
    assert clipped < 0.5
    assert entropy(statistics_of(values, rule="tensorrt")) < 0.11  # TensorRT's own search, as it is


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_a_threshold_keeps_the_share_that_it_must(seed, kept):
    rng = np.random.default_rng(seed)
    histogram = (rng.random(2048) < rng.random()).astype(np.int64) * rng.integers(0, 1000, 2048)
    m = search(histogram, kept=kept)
    total = histogram[1:].sum()
    assert histogram[1:m].sum() >= kept * total
    assert LEVELS <= m <= 2048


def test_a_table_stores_the_options_that_its_method_used():
    cases = [("percentile", {}, 99.99), ("percentile", {"percentile": 99}, 99), ("mse", {}, None)]
    for name, options, stored in cases:
        settings = method_settings(name, options)
        assert (settings["method"], settings["percentile"]) == (name, stored)


def test_caches_name_the_calibrator_of_methods_that_tensorrt_has_and_else_its_default():
    found = {name: cache_algorithm(name) for name in (*METHODS, "unknown")}
    assert found == dict.fromkeys(found, "EntropyCalibration2") | {"minmax": "MinMaxCalibration"}
