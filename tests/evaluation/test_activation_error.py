from __future__ import annotations

import math
import re
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import EvaluationError
from quantkit.evaluation.activation_error import MAGNITUDE_BINS, ObservedTensor, code_range, measure_tensors
from quantkit.evaluation.metrics.sqnr import Sqnr
from quantkit.numerics import QuantParams
from quantkit.types import UINT8, TensorQuality

from .test_run import FunctionRunner, batches

INT8 = QuantParams.from_amax(3.0)


def measure(reference, changed, x, *, params=INT8, size=10, fixed="N", **options):
    """The qualities and obstacles of "t", which both functions make of x."""
    runners = [FunctionRunner(lambda v, f=f: {"t": f(v)}, batch_size=fixed) for f in (reference, changed)]
    return measure_tensors(
        *runners,
        name="int8",
        batches=batches(size, targets=None, x=np.asarray(x, np.float32)),
        tensors={"t": ObservedTensor("Conv c", params, **options)},
    )


def quality(*args, **options) -> TensorQuality:
    (found,), obstacles = measure(*args, **options)
    assert not obstacles
    return found


def same(x):
    return x


def half(x):
    return x / 2


def sqnr_db(x, xq) -> float:
    x, xq = np.asarray(x, np.float64), np.asarray(xq, np.float64)
    return 10 * math.log10((x**2).sum() / ((x - xq) ** 2).sum())


X = np.random.default_rng(3).standard_normal((25, 5000)).astype(np.float32)


def test_numbers_are_their_definitions_in_numpy():
    found = quality(same, lambda x: np.float32(0.9) * x + np.float32(0.01), X)
    own = np.clip(np.rint(X / np.float32(3 / 127)), -128, 127) * np.float32(3 / 127)
    assert (found.variant, found.tensor, found.producer) == ("int8", "t", "Conv c")
    assert found.sqnr_db == pytest.approx(sqnr_db(X, np.float32(0.9) * X + np.float32(0.01)), rel=1e-9)
    assert found.own_sqnr_db == pytest.approx(sqnr_db(X, own), rel=1e-6)
    assert (found.minimum, found.maximum) == (X.min(), X.max())
    assert found.amax == pytest.approx(3)
    assert found.clipped == np.mean(np.abs(X.astype(np.float64)) > 127.5 * np.float32(3 / 127))
    assert sum(found.histogram) == X.size


def test_the_error_so_far_is_the_metric_of_an_output():
    metric = Sqnr()
    metric.update(X * np.float32(0.93), reference=X)
    assert quality(same, lambda x: x * np.float32(0.93), X).sqnr_db == pytest.approx(metric.compute()["sqnr_db"], 1e-9)


@pytest.mark.parametrize(
    ("low", "params", "expected"),
    [
        # Uniform noise of a step s is s^2 / 12, the signal of [-a, a] and of [0, a] is a^2 / 3.
        (-1.0, QuantParams.from_amax(1.0), 10 * math.log10(4 * 127**2)),
        (0.0, QuantParams(np.float32(1 / 255), format=UINT8), 10 * math.log10(4 * 255**2)),
        (-1.0, QuantParams(np.float32(2 / 255), zero_point=128, format=UINT8), 10 * math.log10(255**2)),
    ],
)
def test_uniform_values_have_the_theoretical_sqnr(low, params, expected):
    x = np.random.default_rng(0).uniform(low, 1, (25, 8000))
    assert quality(same, same, x, params=params).own_sqnr_db == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("amax", [1.0, 2.0, 3.0])
def test_clipped_share_of_a_normal_distribution(amax):
    found = quality(same, same, X, params=QuantParams.from_amax(amax))
    assert found.clipped == pytest.approx(2 * NormalDist().cdf(-amax * 127.5 / 127), abs=0.004)


def test_rounding_to_the_last_value_is_not_clipping():
    params = QuantParams(np.float32(0.1), zero_point=10, format=UINT8)  # -1 to 24.5
    x = np.array([[-1.2, -1.04, 0.0, 24.54, 24.6]])
    found = quality(same, same, x, params=params)
    assert found.clipped == pytest.approx(2 / 5)
    assert found.amax == pytest.approx(24.5)
    assert code_range(params) == pytest.approx((-1.0, 24.5))
    assert code_range(INT8) == pytest.approx((-3.0, 3.0))


@pytest.mark.parametrize(("size", "fixed"), [(1, "N"), (7, "N"), (25, "N"), (5, 5), (25, 4), (25, 40)])
def test_batch_size_changes_nothing(size, fixed):
    whole, found = quality(same, half, X, size=25), quality(same, half, X, size=size, fixed=fixed)
    assert found.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-9)
    assert found.own_sqnr_db == pytest.approx(whole.own_sqnr_db, rel=1e-9)
    assert (found.histogram, found.clipped) == (whole.histogram, whole.clipped)


def test_zero_error_is_none():
    zeros = np.zeros((3, 4))
    assert quality(same, same, X).sqnr_db is None
    found = quality(same, same, zeros)
    assert (found.sqnr_db, found.own_sqnr_db, found.clipped) == (None, None, 0.0)
    assert sum(found.histogram) == 12
    assert found.histogram_top > 0


def test_relu_replaced_by_the_quantized_range_is_applied():
    relu = quality(lambda x: np.maximum(x, 0), lambda x: np.maximum(x - np.float32(0.01), 0), X)
    without = quality(lambda x: np.maximum(x, 0), lambda x: x - np.float32(0.01), X, low=0.0)
    assert without.sqnr_db == relu.sqnr_db
    assert quality(lambda x: np.maximum(x, 0), lambda x: x - np.float32(0.01), X).sqnr_db < 1


@pytest.mark.parametrize(
    ("reference", "changed", "reason"),
    [
        (lambda x: x * np.float32(np.nan), same, "in the baseline"),
        (same, lambda x: np.where(x > 1, np.float32(np.inf), x), "NaN or infinite here"),
        (same, lambda x: x[:, :3], r"shape \(10, 5000\) in the baseline and \(10, 3\) here"),
        (lambda x: 0 * x, same, "zero on every sample"),
        (lambda x: x[:, :0], lambda x: x[:, :0], "no value"),
    ],
)
def test_missing_numbers_have_a_reason(reference, changed, reason):
    found, obstacles = measure(reference, changed, X)
    assert found == ()
    assert list(obstacles) == ["t"]
    assert re.search(reason, obstacles["t"])


def test_inputs_and_renamed_outputs_are_found():
    found, _ = measure_tensors(
        FunctionRunner(lambda x: {"y": x}),
        FunctionRunner(lambda x: {"z": x / 2}),
        name="int8",
        batches=batches(targets=None),
        tensors={"x": ObservedTensor("input", INT8), "y": ObservedTensor("Relu r", INT8)},
        aliases={"y": "z"},
    )
    assert [q.tensor for q in found] == ["x", "y"]
    assert found[0].sqnr_db is None
    assert found[1].sqnr_db == pytest.approx(20 * math.log10(2))


def test_unusable_models_are_refused():
    with pytest.raises(EvaluationError, match="no samples"):
        measure(same, same, np.zeros((0, 4)))
    with pytest.raises(EvaluationError, match="'t' is neither"):
        measure_tensors(
            FunctionRunner(same),
            FunctionRunner(same),
            name="int8",
            batches=batches(targets=None),
            tensors={"t": ObservedTensor("Conv c", INT8)},
        )


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.floats(1e-3, 1e3))
def test_histograms_count_every_magnitude_once(values, amax):
    x = np.array([values], np.float32)
    found = quality(same, half, x, params=QuantParams.from_amax(amax))
    magnitudes = np.abs(x).ravel()
    assert sum(found.histogram) == x.size
    assert len(found.histogram) <= MAGNITUDE_BINS
    assert magnitudes.max() <= found.histogram_top
    if magnitudes.max() > 0:
        width = found.histogram_top / len(found.histogram)
        # Bins are closed on the right, and the first one holds zeros.
        index = np.maximum(np.ceil(magnitudes.astype(np.float64) / width).astype(int) - 1, 0)
        assert found.histogram == tuple(np.bincount(index, minlength=len(found.histogram)))
        assert magnitudes.max() > found.histogram_top * (1 - 2 / len(found.histogram))
    for number in (found.sqnr_db, found.own_sqnr_db):
        assert number is None or math.isfinite(number)
