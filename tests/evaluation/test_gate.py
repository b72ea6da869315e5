import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import EvaluationError, GateFailedError
from quantkit.evaluation import Limits, check_limits, parse_drop, require_passed
from quantkit.evaluation.gate import check_unlabeled
from quantkit.evaluation.limits import GATES, Drop
from quantkit.paired_statistics import samples_needed
from quantkit.significance import mlperf
from quantkit.types import Score
from tests.reporting.reports import any_report, latency, make_engines, make_report, make_unlabeled

PERPLEXITY = Score("perplexity", "Perplexity", is_fraction=False, higher_is_better=False)


def only(report, limits, *, variants=("int8",)):
    (check,) = check_limits(report, limits, variants=variants)
    return check


def with_scores(score, baseline, variant, *, interval=None):
    """The report with another score than top-1."""
    report = make_report()
    fp32, _, int8 = report.evaluations
    ends = {} if interval is None else dict(zip(("low", "high"), interval, strict=True))
    found = {score.name: variant} | {f"{score.name}_difference_{end}": value for end, value in ends.items()}
    return replace(
        report,
        score=score,
        task="custom",
        evaluations=(replace(fp32, metrics={score.name: baseline}), replace(int8, metrics=found)),
    )


def with_speedup_interval(report, interval):
    *others, last = report.evaluations
    return replace(
        report, evaluations=(*others, replace(last, latency=replace(last.latency, speedup_interval=interval)))
    )


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [("0.5pt", 0.5, "pt"), ("0.5", 0.5, ""), ("1%", 1, "%"), (" .1% ", 0.1, "%"), ("0pt", 0, "pt"), ("120", 120, "")],
)
def test_drop_spellings_are_accepted(text, number, unit):
    drop = parse_drop(text)
    assert (drop.number, drop.unit) == (number, unit)


@pytest.mark.parametrize("text", ["", "-1", "1pp", "0,5", "nan", "1e-3", "half", "101%", "pt"])
def test_other_spellings_are_refused(text):
    with pytest.raises(EvaluationError, match="--max-drop"):
        parse_drop(text)


@given(st.floats(0, 100), st.sampled_from(["pt", "%", ""]))
def test_a_drop_prints_as_it_is_read(number, unit):
    assert parse_drop(f"{number:f}{unit}").number == pytest.approx(Drop(number, unit).number, abs=1e-6)
    assert str(parse_drop("0.25" + unit)) == "0.25" + unit


def test_points_and_percent_are_two_limits():
    # 81.03% → 80.93%: 0.10 points, 0.1234% of FP32's
    assert only(make_report(), Limits(max_drop=parse_drop("0.11pt"))).passed
    assert not only(make_report(), Limits(max_drop=parse_drop("0.11%"))).passed
    assert only(make_report(), Limits(max_drop=parse_drop("0.13%"))).passed


def test_a_bare_number_is_in_points_of_a_share():
    bare, points = (only(make_report(), Limits(max_drop=parse_drop(text))) for text in ("0.2", "0.2pt"))
    assert replace(bare, limit="", finding="") == replace(points, limit="", finding="")
    with pytest.raises(EvaluationError, match="which has at most 100 points"):
        check_limits(make_report(), Limits(max_drop=parse_drop("120")))


def test_limit_met_exactly_passes():
    assert only(make_report(), Limits(max_drop=parse_drop("0.1pt"))).passed
    assert only(make_report(), Limits(min_agreement=0.9748)).passed


def test_confident_takes_the_worse_end_of_the_interval():
    limits = Limits(max_drop=parse_drop("0.2pt"))
    estimate = only(make_report(), limits)
    assert estimate.passed
    assert estimate.undecided
    assert "about 130,000 samples needed" in estimate.sentence
    assert not only(make_report(), replace(limits, confident=True)).passed
    assert only(make_report(), Limits(max_drop=parse_drop("0.36pt"), confident=True)).passed
    agreement = Limits(min_agreement=0.973)
    assert only(make_report(), agreement).passed
    assert not only(make_report(), replace(agreement, confident=True)).passed


def test_a_share_of_pixels_has_no_interval():
    report = make_report(task="segment", score=Score("top1", "mIoU"))
    check = only(report, Limits(min_agreement=0.97))
    assert check.passed
    assert check.interval is None
    assert "agreement with fp32 0.9748 (10000 samples, no interval) meets" in check.sentence
    with pytest.raises(
        EvaluationError, match=r"^--confident: the agreement of task segment is not a fraction of samples"
    ):
        check_limits(report, Limits(min_agreement=0.97, confident=True), variants=["int8"])
    assert only(make_unlabeled(), Limits(min_agreement=0.97)).interval is not None


def test_zero_length_interval_is_ignored():
    report = with_scores(Score("map", "mAP"), 0.4, 0.4, interval=(0.0, 0.0))
    assert "(from 40.00% to 40.00%, no interval)" in only(report, Limits(gates=["mlperf-99"])).sentence
    with pytest.raises(EvaluationError, match="--confident: int8 has no mAP interval in the report: evaluate on more"):
        check_limits(report, Limits(gates=["mlperf-99"], confident=True))
    *others, int8 = report.evaluations
    known = replace(report, evaluations=(*others, replace(int8, metrics={**int8.metrics, "differing": 3})))
    with pytest.raises(EvaluationError, match=r"in the report \(3 of 10,000 samples differ\): evaluate on more"):
        check_limits(known, Limits(gates=["mlperf-99"], confident=True))


def test_gain_meets_a_drop_limit():
    report = make_report()
    check = only(report, Limits(max_drop=parse_drop("0pt")), variants=["fp16"])
    assert check.passed
    assert check.value < 0


def test_missing_numbers_are_errors_and_never_passes():
    limits = Limits(max_drop=parse_drop("100pt"))
    with pytest.raises(EvaluationError, match="no labels"):
        check_limits(make_unlabeled(), limits)
    assert only(make_unlabeled(), Limits(min_agreement=0.9)).passed
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


def test_size_ratio_is_limited():
    assert only(make_report(), Limits(max_size_ratio=0.3)).passed
    assert not only(make_report(), Limits(max_size_ratio=0.29)).passed


def test_default_is_every_quantized_variant():
    report = make_report()
    second = replace(report.evaluations[-1], name="int8-cpu", latency=latency(0.3))
    report = replace(report, evaluations=(*report.evaluations, second))
    assert [c.variant for c in check_limits(report, Limits(max_size_ratio=1))] == ["int8", "int8-cpu"]
    fp8 = replace(report.evaluations[-1], name="fp8", precision="fp8")
    others = replace(report, evaluations=(*report.evaluations[:2], fp8))
    assert [c.variant for c in check_limits(others, Limits(max_size_ratio=1))] == ["fp8"]
    with pytest.raises(EvaluationError, match="no quantized variant"):
        check_limits(replace(report, evaluations=report.evaluations[:2]), Limits(max_size_ratio=1))


@pytest.mark.parametrize("name", ["int9", "fp32"])
def test_unusable_variants_are_refused(name):
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
        {"confident": True, "max_size_ratio": 1},
        {"gates": ["mlperf-98"]},
        {"at_batch": 8},
        {"at_batch": 0, "min_speedup": 1},
    ],
)
def test_invalid_limits_are_refused(wrong):
    with pytest.raises(EvaluationError, match="--"):
        Limits(**wrong)


def test_no_limit_is_an_error():
    with pytest.raises(EvaluationError, match="no limit"):
        check_limits(make_report(), Limits())


def test_failure_names_the_first_broken_limit_and_counts_the_others():
    limits = Limits(max_drop=parse_drop("0pt"), min_speedup=9, min_agreement=0.5)
    checks = check_limits(make_report(), limits, variants=["int8"])
    with pytest.raises(GateFailedError, match=r"^gate failed: int8 violates --max-drop 0pt, and 1 more$") as caught:
        require_passed(checks)
    assert caught.value.exit_code == 3
    require_passed([c for c in checks if c.passed])


@given(any_report, st.floats(0, 1), st.booleans())
def test_any_report_is_judged_or_refused(report, bound, confident):
    limits = Limits(
        max_drop=Drop(100 * bound), gates=["mlperf-99"], min_agreement=bound, min_speedup=1, confident=confident
    )
    try:
        checks = check_limits(report, limits)
    except EvaluationError:
        return
    for check in checks:
        json.dumps(check.passed)
        assert "\n" not in check.limit


def test_points_and_shares_of_any_score():
    score = Score("map", "mAP")
    report = with_scores(score, 0.40, 0.39, interval=(-0.018, -0.002))
    check = only(report, Limits(max_drop=parse_drop("1.5pt")))
    assert check.passed
    assert check.value == pytest.approx(0.01)
    assert check.interval == pytest.approx((0.002, 0.018))
    assert "mAP drop 1.00pt (from 40.00% to 39.00%, 95% interval 0.20 to 1.80pt)" in check.sentence
    relative = only(report, Limits(max_drop=parse_drop("2.4%")))
    assert not relative.passed
    assert (relative.value, relative.bound) == pytest.approx((0.025, 0.024))
    assert relative.interval == pytest.approx((0.005, 0.045))


def test_rise_is_limited_if_lower_is_better():
    report = with_scores(PERPLEXITY, 20.0, 20.5, interval=(0.1, 0.9))
    check = only(report, Limits(max_drop=parse_drop("0.6")))
    assert check.passed
    assert check.undecided
    assert (check.value, check.bound, *check.interval) == pytest.approx((0.5, 0.6, 0.1, 0.9))
    assert "Perplexity rise 0.5 (from 20 to 20.5, 95% interval 0.1 to 0.9) meets --max-drop 0.6" in check.sentence
    assert not only(report, Limits(max_drop=parse_drop("0.6"), confident=True)).passed
    assert not only(report, Limits(max_drop=parse_drop("2%"))).passed
    assert only(report, Limits(max_drop=parse_drop("3%"))).value == pytest.approx(0.025)
    gained = with_scores(PERPLEXITY, 20.0, 19.5)
    assert only(gained, Limits(max_drop=parse_drop("0"))).value == -0.5
    with pytest.raises(EvaluationError, match="Perplexity is not a fraction"):
        check_limits(report, Limits(max_drop=parse_drop("1pt")))


def test_a_score_that_is_missing_is_an_error():
    limits = Limits(max_drop=parse_drop("1%"))
    with pytest.raises(EvaluationError, match="has no score"):
        check_limits(replace(make_report(), score=None, task="none"), limits)
    with pytest.raises(EvaluationError, match="no part can be taken"):
        check_limits(with_scores(PERPLEXITY, 0.0, 1.0), limits)
    with pytest.raises(EvaluationError, match="--confident: int8 has no Perplexity interval"):
        check_limits(with_scores(PERPLEXITY, 2.0, 2.0), replace(limits, confident=True))


@pytest.mark.parametrize(
    ("variant", "interval"),
    [
        (0.80, (-0.001, 0.001)),
        (0.7925, (-0.009, -0.006)),
        (0.7995, (-0.0007, 0)),
        (0.78, (-0.03, -0.01)),
        (0.792, None),
    ],
)
def test_named_gates_are_mlperfs_and_those_of_the_verdict(variant, interval):
    report = with_scores(Score("miou", "mIoU"), 0.80, variant, interval=interval)
    checks = check_limits(report, Limits(gates=list(GATES)))
    assert [check.limit for check in checks] == ["--gate mlperf-99", "--gate mlperf-99.9"]
    assert [check.passed for check in checks] == [variant >= 0.99 * 0.80 - 1e-12, variant >= 0.999 * 0.80 - 1e-12]
    words = mlperf(report, report.evaluations[1])
    for check, word in zip(checks, words.values(), strict=True):
        assert word == ("inconclusive" if check.undecided else "pass" if check.passed else "fail")


def test_speed_at_a_batch_size():
    report = make_report()
    *others, int8 = (
        replace(
            e,
            sweep=(
                replace(e.latency, batch_size=32, median_ms=8 * e.latency.median_ms**2, speedup_interval=(4.05, 4.3)),
            ),
        )
        for e in report.evaluations
    )
    report = replace(report, evaluations=(*others, int8))
    check = only(report, Limits(min_speedup=4, at_batch=32))
    assert check.passed
    assert check.value == pytest.approx((0.5 / 0.245) ** 2)
    assert check.limit == "--min-speedup 4 --at-batch 32"
    assert "(batch size 32, 95% interval 4.05 to 4.3)" in check.sentence
    assert only(report, Limits(min_speedup=2, at_batch=4)).value == only(report, Limits(min_speedup=2)).value
    first = only(report, Limits(min_speedup=4))
    assert not first.passed
    assert first.sentence.endswith("; other batch sizes contradict it: 4.16x at 32 (--at-batch chooses one)")
    assert "contradict" not in only(report, Limits(min_speedup=1)).sentence
    with pytest.raises(EvaluationError, match="only timed at batch size 4, 32: evaluate with --batch-sizes"):
        check_limits(report, Limits(min_speedup=1, at_batch=8))


def test_confident_speed_takes_the_lower_end():
    report = with_speedup_interval(make_report(), (1.9, 2.2))
    estimate = only(report, Limits(min_speedup=2))
    assert estimate.passed
    assert estimate.undecided
    assert estimate.interval == (1.9, 2.2)
    assert "95% interval 1.9 to 2.2" in estimate.sentence
    assert "a longer --latency-s needed" in estimate.sentence
    assert not only(report, Limits(min_speedup=2, confident=True)).passed
    assert only(report, Limits(min_speedup=1.9, confident=True)).passed


@pytest.mark.parametrize("confident", [False, True])
def test_a_speed_without_an_interval_is_an_error(confident):
    report = with_speedup_interval(make_report(), None)
    with pytest.raises(EvaluationError, match=r"no interval of int8's speed-up, .* a longer --latency-s"):
        check_limits(report, Limits(min_speedup=1, confident=confident))


def test_a_speed_that_is_not_settled_passes_only_where_its_whole_interval_does():
    report = with_speedup_interval(make_report(), (1.15, 51.0))
    check = only(report, Limits(min_speedup=2))
    assert not check.passed
    assert check.undecided
    assert "violates --min-speedup 2 at the end of the interval; not settled: a longer --latency-s" in check.sentence
    assert only(report, Limits(min_speedup=1.1)).passed


def test_agreement_with_a_baseline_of_one_class_is_an_error():
    report = make_report()
    constant = replace(report.baseline, metrics={**report.baseline.metrics, "named_classes": 1.0})
    report = replace(report, evaluations=(constant, *report.evaluations[1:]))
    with pytest.raises(EvaluationError, match="fp32 names a single class on all 10,000 samples"):
        check_limits(report, Limits(min_agreement=0.5))


def test_a_partial_report_is_refused_unless_it_is_asked_for():
    report = replace(make_report(), planned_samples=50_000)
    with pytest.raises(EvaluationError, match="after 10000 of 50000 samples; evaluate again, or pass --allow-partial"):
        check_limits(report, Limits(max_size_ratio=1))
    assert only(report, Limits(max_size_ratio=1, allow_partial=True)).passed


def test_models_that_never_differ_need_fewer_samples_than_the_interval_says():
    """Of top-1 the number comes of the samples that differ, of which a hundred times as many hold no more."""
    report = make_report()
    *others, int8 = report.evaluations
    same = {"top1": 0.8103, "fixed": 0.0, "broken": 0.0, "top1_difference_low": -0.0046, "top1_difference_high": 0.0046}
    report = replace(report, evaluations=(*others, replace(int8, metrics=same, num_samples=600)))
    needed = samples_needed(0, 0, num_samples=600, margin=0.001 * 0.8103)
    assert 1000 < needed < 10_000
    assert f"about {needed:,} samples needed" in only(report, Limits(gates=["mlperf-99.9"])).sentence


def test_variants_are_found_in_any_case():
    assert only(make_report(), Limits(max_drop=parse_drop("50pt")), variants=["INT8"]).variant == "int8"


@pytest.mark.parametrize(
    ("name", "fix"),
    [("", 'add an array "label" to each .npz'), ("a.npz", 'an .npz with an array "labels"'), ("b", "sort the images")],
)
def test_how_data_are_labeled_is_said_for_their_kind(tmp_path, name, fix):
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(EvaluationError, match=f"has no labels: .*{fix}"):
        check_unlabeled(Limits(max_drop=parse_drop("1pt")), tmp_path / name)
