import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import EvaluationError, GateFailedError
from quantkit.evaluation import Limits, check_limits, parse_drop, require_passed
from quantkit.evaluation.gate import Drop
from tests.reporting.reports import any_report, latency, make_engines, make_report, make_unlabelled


def only(report, limits, *, variants=("int8",)):
    (check,) = check_limits(report, limits, variants=variants)
    return check


@pytest.mark.parametrize(
    ("text", "fraction", "relative"),
    [("0.5pt", 0.005, False), ("0.5", 0.005, False), ("1%", 0.01, True), (" .1 % ", 0.001, True), ("0pt", 0, False)],
)
def test_both_spellings_of_a_drop(text, fraction, relative):
    drop = parse_drop(text)
    assert drop.fraction == pytest.approx(fraction)
    assert drop.is_relative == relative


@pytest.mark.parametrize("text", ["", "-1", "1pp", "0,5", "nan", "1e-3", "half", "101%", "pt"])
def test_other_spellings_are_refused(text):
    with pytest.raises(EvaluationError, match="--max-drop"):
        parse_drop(text)


@given(st.floats(0, 100), st.booleans())
def test_a_drop_prints_as_it_is_read(number, relative):
    drop = Drop(number / 100, relative)
    assert parse_drop(f"{number:f}{'%' if relative else 'pt'}").fraction == pytest.approx(drop.fraction, abs=1e-8)


def test_points_and_percent_are_two_limits():
    # 81.03 % → 80.93 %: 0.10 points, 0.1234 % of FP32's
    assert only(make_report(), Limits(max_drop=parse_drop("0.11pt"))).passed
    assert not only(make_report(), Limits(max_drop=parse_drop("0.11%"))).passed
    assert only(make_report(), Limits(max_drop=parse_drop("0.13%"))).passed


def test_a_limit_that_is_just_kept_is_kept():
    assert only(make_report(), Limits(max_drop=parse_drop("0.1pt"))).passed
    assert only(make_report(), Limits(min_agreement=0.9748)).passed


def test_confident_takes_the_worse_end_of_the_interval():
    limits = Limits(max_drop=parse_drop("0.2pt"))
    estimate = only(make_report(), limits)
    assert estimate.passed
    assert estimate.undecided
    assert "more samples would decide" in estimate.sentence
    assert not only(make_report(), replace(limits, confident=True)).passed
    assert only(make_report(), Limits(max_drop=parse_drop("0.36pt"), confident=True)).passed
    agreement = Limits(min_agreement=0.973)
    assert only(make_report(), agreement).passed
    assert not only(make_report(), replace(agreement, confident=True)).passed


def test_a_gain_is_no_drop():
    report = make_report()
    check = only(report, Limits(max_drop=parse_drop("0pt")), variants=["fp16"])
    assert check.passed
    assert check.value < 0


def test_missing_numbers_are_errors_and_never_passes():
    limits = Limits(max_drop=parse_drop("100pt"))
    with pytest.raises(EvaluationError, match="no labels"):
        check_limits(make_unlabelled(), limits)
    assert only(make_unlabelled(), Limits(min_agreement=0.9)).passed
    report = make_report()
    *others, int8 = report.evaluations
    bare = replace(report, evaluations=(*others, replace(int8, metrics={"top1": 0.8}, latency=None)))
    assert only(bare, limits).passed
    for missing in (replace(limits, confident=True), Limits(min_agreement=0.1), Limits(min_speedup=0.1)):
        with pytest.raises(EvaluationError, match="int8"):
            check_limits(bare, missing)
    broken = replace(report, evaluations=(*others, replace(int8, metrics={"top1": float("nan")})))
    with pytest.raises(EvaluationError, match="top1 nan"):
        check_limits(broken, limits)


def test_speed_of_another_device_neither_passes_nor_fails():
    with pytest.raises(EvaluationError, match="not made for"):
        check_limits(make_report(), Limits(min_speedup=0.001), variants=["fp16"])
    assert only(make_report(), Limits(min_speedup=2.0)).passed
    assert not only(make_report(), Limits(min_speedup=2.1)).passed


def test_speed_is_compared_on_the_same_backend_and_with_a_float_model():
    engines = make_engines()
    check = only(engines, Limits(min_speedup=4), variants=["trt-int8"])
    assert check.passed
    assert "over trt-fp32" in check.sentence
    fp32, _, int8 = engines.evaluations
    with pytest.raises(EvaluationError, match="no float variant"):
        check_limits(replace(engines, evaluations=(fp32, int8)), Limits(min_speedup=0.1))
    other = replace(int8, name="other")
    with pytest.raises(EvaluationError, match="no float variant"):
        check_limits(replace(engines, evaluations=(fp32, int8, other)), Limits(min_speedup=0.1), variants=["other"])


def test_size():
    assert only(make_report(), Limits(max_size_ratio=0.3)).passed
    assert not only(make_report(), Limits(max_size_ratio=0.29)).passed


def test_default_is_every_int8_variant():
    report = make_report()
    second = replace(report.evaluations[-1], name="int8-cpu", latency=latency(0.3))
    report = replace(report, evaluations=(*report.evaluations, second))
    assert [c.variant for c in check_limits(report, Limits(max_size_ratio=1))] == ["int8", "int8-cpu"]
    with pytest.raises(EvaluationError, match="no INT8 variant"):
        check_limits(replace(report, evaluations=report.evaluations[:2]), Limits(max_size_ratio=1))


@pytest.mark.parametrize("name", ["int9", "fp32"])
def test_variants_that_cannot_be_gated(name):
    with pytest.raises(EvaluationError, match=name):
        check_limits(make_report(), Limits(max_size_ratio=1), variants=[name])


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_speedup": 0},
        {"min_speedup": float("nan")},
        {"max_size_ratio": -1},
        {"min_agreement": 98},
        {"confident": True},
        {"confident": True, "min_speedup": 1},
    ],
)
def test_nonsense_limits(wrong):
    with pytest.raises(EvaluationError, match="--"):
        Limits(**wrong)


def test_no_limit_is_an_error():
    with pytest.raises(EvaluationError, match="no limit"):
        check_limits(make_report(), Limits())


def test_failure_names_every_broken_limit():
    limits = Limits(max_drop=parse_drop("0pt"), min_speedup=9, min_agreement=0.5)
    checks = check_limits(make_report(), limits, variants=["int8"])
    with pytest.raises(GateFailedError, match=r"top-1 drop 0\.10pt.*breaks --max-drop 0pt; .*speed-up") as caught:
        require_passed(checks)
    assert caught.value.exit_code == 3
    assert "agreement" not in str(caught.value)
    require_passed([c for c in checks if c.passed])


@given(any_report, st.floats(0, 1), st.booleans())
def test_any_report_is_judged_or_refused(report, bound, confident):
    limits = Limits(max_drop=Drop(bound, False), min_agreement=bound, min_speedup=1, confident=confident)
    try:
        checks = check_limits(report, limits)
    except EvaluationError:
        return
    for check in checks:
        json.dumps(check.passed)
        assert "\n" not in check.limit
