from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.paired_statistics import difference_interval, samples_to_tell
from quantkit.significance import (
    compare_accuracy,
    compare_speed,
    contradicting_speeds,
    has_identical_outputs,
    judge,
    loss_interval,
    mlperf,
)
from quantkit.types import TOP1, Evaluation, Latency, Report, Score

ERROR = Score("mae", "Mean error", is_fraction=False, higher_is_better=False)


def latency(median_ms, **more):
    return Latency(1, 100, 0, median_ms, median_ms, median_ms, median_ms, median_ms, 1e3 / median_ms, **more)


def report(score=TOP1, base=0.8, value=0.8, *, interval=None, num_samples=1000, **more):
    """A baseline and one variant."""
    name = "top1" if score is None else score.name
    metrics = {name: value, **more}
    if interval is not None:
        metrics |= dict(zip((f"{name}_difference_low", f"{name}_difference_high"), interval, strict=True))
    evaluations = (
        Evaluation("fp32", "fp32", "CPU", 1, num_samples, {name: base}),
        Evaluation("int8", "int8", "CPU", 1, num_samples, metrics),
    )
    return Report("m.onnx", "1", evaluations, {}, {}, score=score)


def judged(*args, share=0.01, **options):
    found = report(*args, **options)
    return compare_accuracy(found, found.evaluations[1], share=share)


@pytest.mark.parametrize(
    ("difference", "kind"),
    [
        ((0.001, 0.01), "better"),
        ((-0.004, 0.003), "within"),
        ((-0.008, -0.001), "within"),
        ((-0.02, -0.001), "worse"),
        ((-0.03, -0.02), "worse"),
        ((-0.02, 0.0), "undecided"),
        ((-0.03, 0.04), "undecided"),
        (None, "unknown"),
    ],
)
def test_kinds(difference, kind):
    """The margin is 1% of 0.8."""
    found = judged(value=0.79, interval=difference)
    assert found.kind == kind
    assert found.margin == pytest.approx(0.008)
    assert found.loss == pytest.approx(0.01)
    assert (found.needed is not None) == (kind == "undecided")
    assert found.is_loss_certain == (difference is not None and difference[1] < 0)
    assert found.is_beyond_margin == (difference == (-0.03, -0.02))
    if difference:
        assert found.interval == (-difference[1], -difference[0])


def test_where_less_is_better_the_sign_turns():
    found = judged(ERROR, 20.0, 20.1, interval=(0.05, 0.15))
    assert (found.kind, found.margin, found.loss, found.interval) == (
        "within",
        0.2,
        pytest.approx(0.1),
        (0.05, 0.15),
    )
    assert judged(ERROR, 20.0, 19.0, interval=(-1.5, -0.5)).kind == "better"
    assert judged(ERROR, 20.0, 21.0, interval=(0.5, 1.5)).is_beyond_margin


@pytest.mark.parametrize(("score", "value", "interval"), [(ERROR, 2.0, (1.0, 3.0)), (TOP1, 0.1, (0.05, 0.15))])
def test_nothing_is_relative_to_0(score, value, interval):
    found = judged(score, 0.0, value, interval=interval)
    assert found.kind == "unknown"
    sign = -1 if score.higher_is_better else 1
    assert found.loss == sign * value
    assert found.interval == tuple(sorted(sign * end for end in interval))


@pytest.mark.parametrize(
    "found",
    [
        report(None),
        report(value=math.nan),
        report(value=math.inf, interval=(0.0, 0.1)),
        replace(report(), score=ERROR),
    ],
)
def test_what_is_not_known(found):
    judgement = compare_accuracy(found, found.evaluations[1])
    assert (judgement.kind, judgement.loss, judgement.needed) == ("unknown", None, None)
    assert mlperf(found, found.evaluations[1]) == {}


def test_an_interval_without_a_number_is_none():
    found = report(interval=(-math.inf, 0.1))
    assert loss_interval(found, found.evaluations[1]) is None


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_words_follow_their_definitions(low, length, margin):
    high = low + length
    kind = judge((low, high), margin)
    assert (kind == "better") == (high < 0)
    assert (kind == "within") == (0 <= high <= margin)
    assert (kind == "worse") == (high > margin and low > 0)
    assert (kind == "undecided") == (high > margin and low <= 0)


@pytest.mark.parametrize(
    ("value", "interval", "words"),
    [
        (0.8, (-0.0005, 0.0005), ("pass", "pass")),
        (0.798, (-0.003, -0.001), ("pass", "fail")),
        (0.798, (-0.003, 0.001), ("pass", "inconclusive")),
        (0.79, (-0.02, 0.0), ("inconclusive", "inconclusive")),
        (0.78, (-0.03, -0.01), ("fail", "fail")),
        (0.99 * 0.8, None, ("pass", "fail")),
        (0.999 * 0.8, None, ("pass", "pass")),
        (0.7919, None, ("fail", "fail")),
    ],
)
def test_mlperfs_gates(value, interval, words):
    found = report(value=value, interval=interval)
    assert mlperf(found, found.evaluations[1]) == dict(zip(("99%", "99.9%"), words, strict=True))


def test_mlperfs_gates_where_less_is_better_or_there_is_nothing_to_share():
    found = report(ERROR, 20.0, 20.2)
    assert mlperf(found, found.evaluations[1]) == {"99%": "pass", "99.9%": "fail"}
    assert mlperf(report(ERROR, 0.0, 0.0), report(ERROR, 0.0, 0.0).evaluations[1]) == {}


@given(st.integers(0, 60), st.integers(0, 60), st.integers(200, 100_000), st.floats(0.1, 0.99))
def test_needed_is_more_than_there_are_where_nothing_is_decided(fixed, broken, count, share):
    low, high = difference_interval(fixed, broken, num_samples=count)
    found = report(
        base=0.5,
        value=0.5 + (fixed - broken) / count,
        interval=(low, high),
        num_samples=count,
        fixed=float(fixed),
        broken=float(broken),
    )
    judgement = compare_accuracy(found, found.evaluations[1], share=2 * share * max(-low, 0))
    assert judgement.kind == ("better" if low > 0 else "undecided" if high >= 0 else "worse")
    if judgement.kind != "undecided":
        return
    assert judgement.needed is not None
    assert judgement.needed > count
    assert judgement.needed == float(f"{judgement.needed:.1e}")


def test_a_score_of_any_kind_uses_the_width_of_its_interval():
    judgement = judged(ERROR, 20.0, 20.05, interval=(-0.45, 0.55), num_samples=200)
    # To be within 0.2 takes a way of 0.15, of which the interval has 0.5.
    assert judgement.needed == samples_to_tell(0.15, 0.5, num_samples=200) == 4500
    assert judged(ERROR, 20.0, 20.05, interval=(-0.45, 0.55), num_samples=0).needed is None


def test_no_number_of_samples_shows_that_a_loss_is_nothing():
    assert judged(ERROR, 0.0, 0.0, interval=(-1.0, 1.0)).needed is None


@pytest.mark.parametrize(
    ("median_ms", "interval", "kind"),
    [
        (5.0, (1.9, 2.1), "faster"),
        (9.9, (0.95, 1.1), "same"),
        (20.0, (0.4, 0.6), "slower"),
        (5.0, (0.9, 2.1), "unsettled"),
        (9.0, (0.9, 1.2), "unsettled"),
        (5.0, (1.15, 51.0), "unsettled"),
        (9.9, None, "unsettled"),
        (0.1, None, "unsettled"),
    ],
)
def test_speed(median_ms, interval, kind):
    found = report()
    fp32, int8 = found.evaluations
    fp32 = replace(fp32, latency=latency(10.0), sweep=(replace(latency(40.0), batch_size=8),))
    int8 = replace(int8, latency=latency(median_ms, speedup_interval=interval))
    found = replace(found, evaluations=(fp32, int8))
    judgement = compare_speed(found, int8)
    assert (judgement.kind, judgement.reference, judgement.interval) == (kind, "fp32", interval)
    assert judgement.speedup == 10.0 / median_ms
    assert compare_speed(found, fp32).kind == "unknown"
    assert compare_speed(found, int8, 8).kind == "unknown"
    other = replace(int8, sweep=(replace(latency(20.0, speedup_interval=(1.9, 2.1)), batch_size=8),))
    joined = replace(found, evaluations=(fp32, other))
    assert compare_speed(joined, other, 8).kind == "faster"
    assert list(contradicting_speeds(joined, other)) == ([8] if kind == "slower" else [])


def test_an_interval_of_no_length_tells_nothing():
    found = judged(Score("map", "mAP"), 0.4, 0.4, interval=(0.0, 0.0))
    assert (found.kind, found.interval, found.loss) == ("unknown", None, 0)
    same = report(Score("map", "mAP"), 0.4, 0.4, interval=(0.0, 0.0))
    assert loss_interval(same, same.evaluations[1]) is None


@pytest.mark.parametrize(
    ("metrics", "same"),
    [
        ({"differing": 0, "sqnr_db": math.inf}, True),
        ({"differing": 0, "sqnr_db": math.inf, "equal": 1.0}, True),
        ({"differing": 0, "sqnr_db": 60.0}, False),
        ({"differing": 0, "sqnr_db": math.inf, "equal": 0.99}, False),
        ({"differing": 1, "sqnr_db": math.inf}, False),
        ({"differing": 0}, False),
        ({"sqnr_db": math.inf}, False),
    ],
)
def test_the_same_answers_are_equal_outputs_and_no_sample_that_differs(metrics, same):
    assert has_identical_outputs(Evaluation("b", "int8", "CPU", 1, 10, metrics)) is same
