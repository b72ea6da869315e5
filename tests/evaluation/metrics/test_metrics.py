from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.evaluation.metrics import METRICS
from quantkit.evaluation.metrics.accuracy import TopAccuracy, predict_classes, rank_targets
from quantkit.evaluation.metrics.agreement import Agreement
from quantkit.evaluation.metrics.cosine import Cosine
from quantkit.evaluation.metrics.equality import Equality
from quantkit.evaluation.metrics.flips import Flips
from quantkit.evaluation.metrics.named_classes import NamedClasses
from quantkit.evaluation.metrics.non_finite import NonFinite
from quantkit.evaluation.metrics.sqnr import Sqnr

# Few distinct values, so that ties are common.
SCORES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 8), st.integers(2, 9)), elements=st.sampled_from([-1, 0, 1, 2])
)


@st.composite
def labeled_pairs(draw):
    scores = draw(SCORES)
    reference = draw(hnp.arrays(np.float32, scores.shape, elements=st.sampled_from([-1, 0, 1, 2])))
    targets = draw(hnp.arrays(np.int64, len(scores), elements=st.integers(0, scores.shape[1] - 1)))
    return scores, reference, targets


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("size", [1, 7, 1000, 20001])
def test_equal_outputs_have_cosine_1_wherever_they_lie_in_memory(size, offset):
    x = np.random.default_rng(size).normal(size=size)
    elsewhere = np.empty(size + offset)[offset:]
    elsewhere[:] = x
    cosine = Cosine()
    for _ in range(3):
        cosine.update(elsewhere, reference=x)
    assert cosine.compute() == {"cosine": 1.0}


@given(labeled_pairs())
def test_rank_is_the_position_in_a_stable_descending_sort(pair):
    scores, _, targets = pair
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = [list(row).index(target) for row, target in zip(order, targets, strict=True)]
    assert rank_targets(scores, targets).tolist() == expected


@given(labeled_pairs())
def test_named_classes_are_those_that_are_the_highest_anywhere(pair):
    scores, _, _ = pair
    named = NamedClasses()
    for row in scores:
        named.update(row[None])
    assert named.compute() == {"named_classes": len(set(scores.argmax(axis=1).tolist()))}


@given(labeled_pairs())
def test_accuracy_and_prediction_agree_with_numpy(pair):
    scores, _, targets = pair
    accuracy = TopAccuracy()
    accuracy.update(scores, targets=targets)
    result = accuracy.compute()
    assert result["top1"] == np.mean(scores.argmax(axis=1) == targets)
    np.testing.assert_array_equal(predict_classes(scores), scores.argmax(axis=1))
    assert ("top5" in result) == (scores.shape[1] > 5)
    if "top5" in result:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        assert result["top5"] == np.mean((best == targets[:, None]).any(axis=1))


def test_accuracy_matches_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, targets = rng.standard_normal((300, 12)), rng.integers(0, 12, 300)
    accuracy = TopAccuracy()
    accuracy.update(scores, targets=targets)
    result = accuracy.compute()
    labels = np.arange(12)
    for k in (1, 5):
        expected = sklearn_metrics.top_k_accuracy_score(targets, scores, k=k, labels=labels)
        assert result[f"top{k}"] == pytest.approx(expected, abs=1e-12)


def test_nan_scores_count_as_wrong():
    scores = np.full((2, 6), np.nan)
    targets = np.array([0, 5])
    accuracy, agreement = TopAccuracy(), Agreement()
    accuracy.update(scores, targets=targets)
    agreement.update(scores, reference=scores)
    assert accuracy.compute() == {"top1": 0.0, "top5": 0.0, "num_classes": 6.0}
    assert agreement.compute() == {"agreement": 0.0}


def test_infinite_scores_still_rank():
    scores = np.array([[0.0, np.inf], [-np.inf, 0.0]])
    assert predict_classes(scores).tolist() == [1, 1]
    assert rank_targets(scores, np.array([1, 0])).tolist() == [0, 1]


@given(labeled_pairs())
def test_flips_explain_the_difference_of_the_accuracies(pair):
    scores, reference, targets = pair
    tops = []
    for array in (scores, reference):
        accuracy = TopAccuracy()
        accuracy.update(array, targets=targets)
        tops.append(accuracy.compute()["top1"])
    flips = Flips()
    flips.update(scores, reference=reference, targets=targets)
    result = flips.compute()
    assert tops[0] - tops[1] == pytest.approx((result["fixed"] - result["broken"]) / len(targets), abs=1e-12)
    assert result["top1_difference_low"] <= tops[0] - tops[1] <= result["top1_difference_high"]


def test_flips_of_a_worked_example():
    reference = np.eye(4)[[0, 0, 0, 0]]
    scores = np.eye(4)[[0, 1, 2, 3]]
    flips = Flips()
    flips.update(scores, reference=reference, targets=np.array([0, 0, 2, 1]))
    # right/right, right → wrong, wrong → right, wrong/wrong
    assert (flips.compute()["fixed"], flips.compute()["broken"]) == (1.0, 1.0)


def test_sqnr_of_a_worked_example():
    sqnr = Sqnr()
    sqnr.update(np.array([3.0, 4.5]), reference=np.array([3.0, 4.0]))
    assert sqnr.compute()["sqnr_db"] == pytest.approx(10 * math.log10(25 / 0.25))


def test_sqnr_sums_before_the_logarithm():
    easy, ruined = np.array([100.0]), np.array([1.0])
    sqnr = Sqnr()
    sqnr.update(easy + 1e-6, reference=easy)
    sqnr.update(ruined + 1.0, reference=ruined)
    assert sqnr.compute()["sqnr_db"] == pytest.approx(10 * math.log10(10001 / 1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("reference", "values", "decibels", "cosine"),
    [
        ([1.0, -2.0], [1.0, -2.0], math.inf, 1.0),
        ([0.0, 0.0], [0.0, 0.0], math.inf, 1.0),
        ([0.0, 0.0], [1.0, 0.0], -math.inf, 0.0),
        ([1.0, 2.0], [1.0, np.nan], -math.inf, 0.0),
        ([1.0, 2.0], [1.0, np.inf], -math.inf, 0.0),
        ([1.0, np.inf], [1.0, np.inf], math.inf, 1.0),
        ([1.0, np.nan], [1.0, np.nan], math.inf, 1.0),
        ([1.0, np.inf], [1.0, -np.inf], -math.inf, 0.0),
        ([1.0, 0.0], [-1.0, 0.0], 10 * math.log10(1 / 4), -1.0),
    ],
)
def test_sqnr_and_cosine_of_zero_and_equal_outputs(reference, values, decibels, cosine):
    x, xq = np.array(reference), np.array(values)
    sqnr, angle = Sqnr(), Cosine()
    sqnr.update(xq, reference=x)
    angle.update(xq, reference=x)
    assert sqnr.compute() == {"sqnr_db": pytest.approx(decibels)}
    assert angle.compute() == {"cosine": pytest.approx(cosine)}


FLOATS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-100, 100, width=32)
)


@given(FLOATS, st.integers(0, 2**32 - 1))
def test_cosine_matches_scipy(x, seed):
    spatial = pytest.importorskip("scipy.spatial.distance")
    xq = x + np.random.default_rng(seed).normal(0, 1, x.shape)
    cosine = Cosine()
    cosine.update(xq, reference=x)
    if np.abs(x).max() > 1e-3:
        expected = 1 - spatial.cosine(x.ravel().astype(np.float64), xq.ravel())
        assert cosine.compute()["cosine"] == pytest.approx(expected, abs=1e-9)


def test_large_float16_outputs_do_not_overflow():
    x = np.full((1, 4096), 60000, np.float16)
    sqnr, cosine = Sqnr(), Cosine()
    sqnr.update(x - np.float16(32), reference=x)
    cosine.update(x, reference=x)
    assert sqnr.compute()["sqnr_db"] == pytest.approx(20 * math.log10(60000 / 32), abs=0.01)
    assert cosine.compute()["cosine"] == 1.0


def test_equality_and_non_finite_count_elements():
    equality, non_finite = Equality(), NonFinite()
    equality.update(np.array([["a", "b"]]), reference=np.array([["a", "c"]]))
    non_finite.update(np.array([[np.nan, -np.inf, 0.0]]))
    non_finite.update(np.array([[1.0]]))
    assert equality.compute() == {"equal": 0.5}
    assert non_finite.compute() == {"non_finite": 2.0}


@pytest.mark.parametrize("name", METRICS)
@given(labeled_pairs(), st.data())
@settings(max_examples=25)
def test_batches_add_up_to_the_whole(name, pair, data):
    scores, reference, targets = pair
    cut = data.draw(st.integers(0, len(targets)))
    whole, parts = METRICS[name](), METRICS[name]()
    whole.update(scores, reference=reference, targets=targets)
    parts.update(scores[:cut], reference=reference[:cut], targets=targets[:cut])
    parts.update(scores[cut:], reference=reference[cut:], targets=targets[cut:])
    assert parts.compute() == pytest.approx(whole.compute())


@pytest.mark.parametrize("name", METRICS)
def test_metrics_without_samples_have_no_value(name):
    assert METRICS[name]().compute() in ({}, {"non_finite": 0.0})
