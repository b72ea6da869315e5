from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from quantkit.reporting.verdict import cautions, partial_notice, remarks, verdicts
from quantkit.types import ClassScore, GateCheck, Score

from .reports import GPU, any_report, device_latency, latency, make_report, make_unlabeled, metrics
from .samples import make_classification, make_detection, make_error_score, make_partial


def judge(**changes):
    report = make_report()
    int8 = replace(report.evaluations[2], **changes)
    return verdicts(replace(report, evaluations=(report.baseline, int8)))[0]


def test_the_representative_int8_variant_leads():
    assert [v.variant for v in verdicts(make_report())] == ["int8", "fp16"]


def test_an_interval_around_zero_is_neither_a_loss_nor_proof_of_none():
    verdict = judge()
    assert verdict.headline == "int8 is within 1% of fp32 and runs 2.04x as fast on this CPU"
    assert "a difference of -0.10 points (95% interval -0.35 to +0.15, 10,000 images)" in verdict.sentences[0]
    assert "a loss of up to 0.35 points cannot be ruled out" in verdict.sentences[0]
    assert verdict.tone == "good"


def test_an_interval_below_zero_is_a_loss_however_fast_it_is():
    verdict = judge(metrics=metrics(0.80, low=-0.014, high=-0.006))
    assert verdict.headline.startswith("int8 is worse than fp32 (-1.03 points) and runs 2.04x")
    assert verdict.tone == "bad"


def test_an_interval_above_zero_is_a_gain():
    assert "is better than fp32 (+0.47 points)" in judge(metrics=metrics(0.815, low=0.001, high=0.008)).headline


def test_slower_is_said():
    verdict = judge(latency=latency(1.0))
    assert "is slower on this CPU: 0.50x the speed" in verdict.headline
    assert verdict.tone == "bad"
    assert "is not significantly faster on this CPU" in judge(latency=latency(0.505)).headline


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((2.0, 2.1), "runs 2.04x as fast on this CPU"),
        ((1.7, 3.0), "runs 1.70x to 3.00x as fast on this CPU"),
        ((0.95, 1.05), "is not significantly faster on this CPU"),
        ((0.5, 0.9), "is slower on this CPU: 0.50x to 0.90x the speed"),
    ],
)
def test_a_speed_up_is_claimed_no_stronger_than_its_interval(interval, words):
    verdict = judge(latency=replace(latency(0.245), speedup_interval=interval))
    assert verdict.headline == f"int8 is within 1% of fp32 and {words}"


@pytest.mark.parametrize(
    ("interval", "words"),
    [((1.15, 51.0), "1.15x to 51.0x"), ((0.9, 1.3), "0.90x to 1.30x"), (None, "no interval")],
)
def test_a_speed_up_of_a_wide_interval_or_none_is_not_settled(interval, words):
    verdict = judge(latency=replace(latency(0.245), speedup_interval=interval))
    assert verdict.headline == (
        f"int8 is within 1% of fp32; speed not settled on this CPU: {words} (use a longer --latency-s)"
    )
    assert verdict.tone == "neutral"


def test_batch_sizes_that_contradict_each_other_are_said():
    small = replace(latency(0.6), speedup_interval=(0.8, 0.87))
    large = replace(latency(0.36), batch_size=32, speedup_interval=(1.3, 1.5))
    report = make_report()
    fp32, int8 = (replace(e, sweep=(replace(e.latency, batch_size=32),)) for e in report.evaluations[::2])
    report = replace(report, evaluations=(fp32, replace(int8, latency=small, sweep=(large,))))
    verdict = verdicts(report)[0]
    assert verdict.headline == (
        "int8 is within 1% of fp32 and is slower on this CPU: 0.83x the speed at batch size 4, but 1.39x at 32"
    )
    assert verdict.tone == "neutral"
    assert verdict.sentences[2] == "Speed-up at other batch sizes: 1.39x (1.30 to 1.50) at batch size 32."


def test_a_latency_that_does_not_count_is_in_no_headline():
    verdict = judge(representative=False, target="tensorrt")
    assert verdict.headline == "int8 is within 1% of fp32, expected on TensorRT"
    assert "is not representative of its target device" in verdict.sentences[1]
    assert verdict.tone == "neutral"


@pytest.mark.parametrize(("device", "place"), [("gpu", "this GPU"), ("cpu", "this CPU"), (None, "this machine")])
def test_the_place_is_named(device, place):
    report = make_report()
    there = tuple(replace(e, device=device) for e in report.evaluations)
    assert verdicts(replace(report, evaluations=there))[0].headline.endswith(place)


def test_speeds_of_different_devices_are_not_compared():
    report = make_report()
    verdict = judge(backend=GPU, device="gpu", latency=device_latency(0.25))
    assert "fast" not in verdict.headline
    assert verdict.sentences[1] == (
        "Median compute time on this GPU at batch size 4: 0.250 ms; fp32 was not timed there, so the speeds are not "
        "comparable."
    )
    engines = tuple(
        replace(report.evaluations[2], name=name, backend=GPU, device="gpu", latency=device_latency(ms))
        for name, ms in (("trt-fp16", 1.0), ("trt-int8", 0.5), ("trt-other", 2.0), ("trt-same", 1.0))
    )
    found = {v.variant: v for v in verdicts(replace(report, evaluations=(report.baseline, *engines)))}
    assert "fast" not in found["trt-fp16"].headline
    assert found["trt-int8"].headline.endswith("and runs 2.00x as fast as trt-fp16 on this GPU")
    assert found["trt-int8"].sentences[1] == (
        "Median compute time on this GPU at batch size 4: 0.500 ms (trt-fp16: 1.00 ms); speed-up 2.00x, 95% interval "
        "1.96 to 2.04."
    )
    assert found["trt-other"].headline.endswith("and is slower on this GPU: 0.50x the speed of trt-fp16")
    assert found["trt-same"].headline.endswith("and is not significantly faster than trt-fp16 on this GPU")


def test_without_labels_it_speaks_of_agreement_and_claims_no_accuracy():
    first = verdicts(make_unlabeled())[0]
    words = "int8 agrees with fp32 on 97.48% of 10,000 images (95% interval 97.15 to 97.77)"
    assert first.headline == words
    assert "Without labels" in first.sentences[0]
    assert "Speed was not measured" in first.sentences[1]


def test_a_baseline_that_names_one_class_is_no_measure_of_agreement():
    report = make_unlabeled()
    constant = replace(report.baseline, metrics={**report.baseline.metrics, "named_classes": 1.0})
    report = replace(report, evaluations=(constant, *report.evaluations[1:]))
    assert verdicts(report)[0].headline == "int8 reproduces fp32's outputs with 24.9 dB SQNR"
    first, second = remarks(report)
    assert first.startswith("Baseline fp32 names the same class on all 10,000 images, so agreeing with it says nothing")
    assert second.startswith("No labels, so accuracy was not measured: to give labels, sort the images into a folder")


def test_non_finite_outputs_are_broken_whatever_else_is_true():
    verdict = judge(metrics={**metrics(0.81, low=-0.01, high=0.01), "non_finite": 3.0})
    assert "produces NaN or infinite outputs" in verdict.headline
    assert verdict.tone == "bad"


def test_a_baseline_at_chance_is_called_out():
    report = make_report()
    poor = replace(report.baseline, metrics={**report.baseline.metrics, "top1": 0.104})
    (remark,) = remarks(replace(report, evaluations=(poor,)))
    assert "Baseline fp32 has a top-1 accuracy of 10.40%, no better than chance (10.00%): check" in remark
    assert remarks(report) == ()


def test_different_backends_and_bad_outputs_are_called_out():
    report = make_report()
    other = replace(
        report.evaluations[2],
        backend="TensorRT 10.13",
        metrics={**metrics(0.8, low=-0.02, high=0.0), "non_finite": 2.0},
    )
    found = remarks(replace(report, evaluations=(report.baseline, other)))
    assert found[0].startswith("int8 produces NaN or infinite values (2 elements)")
    assert "different backends (TensorRT 10.13; onnxruntime 1.31.1 CPU) and are not comparable across them" in found[1]


@given(any_report)
def test_any_report_has_a_verdict_for_each_variant(report):
    assert len(verdicts(report)) == len(report.evaluations) - 1
    remarks(report)


def test_too_few_images_say_how_many_are_needed():
    (verdict,) = verdicts(make_partial())
    assert verdict.headline.startswith("int8 vs fp32: no significant difference on 200 images (about ")
    assert " needed to decide), and it runs 2.31x as fast" in verdict.headline
    assert [(gate.name, gate.word) for gate in verdict.gates] == [("99%", "inconclusive"), ("99.9%", "inconclusive")]


def test_a_loss_beyond_the_margin_is_named_so():
    by_name = {v.variant: v for v in verdicts(make_classification())}
    worse = by_name["int8-minmax"]
    assert worse.headline.startswith("int8-minmax is worse than fp32 by more than 1% (-1.42 points)")
    assert [gate.word for gate in worse.gates] == ["fail", "fail"]
    assert [gate.word for gate in by_name["int8"].gates] == ["pass", "inconclusive"]
    assert [gate.word for gate in by_name["fp16"].gates] == ["pass", "pass"]


def test_a_certain_small_loss_is_said():
    verdict = judge(metrics=metrics(0.807, low=-0.006, high=-0.001))
    assert verdict.headline.startswith("int8 is within 1% of fp32")
    assert verdict.sentences[0].endswith("the loss is significant but small.")


def test_other_scores_speak_their_own_words():
    by_name = {v.variant: v for v in verdicts(make_detection())}
    assert by_name["trt-int8"].headline.startswith("trt-int8 is worse than fp32 by more than 1% (-1.93 points)")
    assert by_name["trt-int8"].sentences[0].startswith("mAP is 37.21% (fp32: 39.14%), a difference of")
    by_name = {v.variant: v for v in verdicts(make_error_score())}
    assert by_name["fp16"].headline == "fp16 is within 1% of fp32, expected on TensorRT"
    assert by_name["int8"].headline.startswith("int8 is worse than fp32 by more than 1% (+0.097) and runs")
    assert "RMSE is 4.310 (fp32: 4.213), a difference of +0.097 (95% interval" in by_name["int8"].sentences[0]


def test_a_score_of_0_is_no_measure_of_a_loss():
    report = make_error_score()
    baseline = replace(report.baseline, metrics={**report.baseline.metrics, "rmse": 0.0})
    int8 = replace(
        report.evaluations[2],
        metrics={"rmse": 77.9, "rmse_difference_low": 62.0, "rmse_difference_high": 94.0},
        latency=None,
        sweep=(),
    )
    (verdict,) = verdicts(replace(report, evaluations=(baseline, int8)))
    words = "int8 differs from fp32 by +77.9 of RMSE (cannot be judged relative to 0)"
    assert verdict.headline == words
    assert verdict.sentences[0].startswith("RMSE is 77.90 (fp32: 0), a difference of +78 (95% interval +62 to +94")
    assert (verdict.tone, verdict.gates) == ("neutral", ())


def test_speed_ups_carry_their_interval_and_the_other_batch_sizes():
    int8 = verdicts(make_classification())[0]
    assert "speed-up 2.31x, 95% interval 2.28 to 2.36" in int8.sentences[1]
    assert int8.sentences[2] == (
        "Speed-up at other batch sizes: 2.59x (2.55 to 2.64) at batch size 8, 2.86x (2.82 to 2.92) at batch size 32."
    )


def test_a_partial_report_is_called_partial_before_all_else():
    assert partial_notice(make_partial()) == "Partial: 200 of 10,000 samples; interrupted"
    assert remarks(make_partial())[0] == "Partial: 200 of 10,000 samples; interrupted."
    assert partial_notice(make_report()) == ""


def of_map(base, value, *, num_samples=10, interval=None, task="detect", score=None, **more):
    """A baseline and INT8, judged by mAP."""
    score = score or Score("map", "mAP")
    fp32, _, int8 = make_report().evaluations
    ends = (
        {}
        if interval is None
        else {f"{score.name}_difference_{e}": v for e, v in zip(("low", "high"), interval, strict=True)}
    )
    fp32 = replace(fp32, metrics={score.name: base}, num_samples=num_samples, latency=None)
    int8 = replace(int8, metrics={score.name: value, **ends, **more}, num_samples=num_samples, latency=None)
    return make_report(evaluations=(fp32, int8), task=task, score=score)


@pytest.mark.parametrize(
    ("report", "headline"),
    [
        (
            of_map(0.62, 0.62, interval=(0.0, 0.0), differing=0.0),
            "int8 has the same mAP as fp32 (10 images are too few for an interval)",
        ),
        (
            of_map(0.62, 0.40, differing=7.0),
            "int8 differs from fp32 by -22.00 points of mAP (10 images are too few for an interval)",
        ),
        (
            of_map(0.62, 0.61999, num_samples=5000, differing=3.0),
            "int8 differs from fp32 by less than 0.01 points of mAP "
            "(only 3 of 5,000 images differ, too few for an interval)",
        ),
        (of_map(0.62, 0.61, num_samples=5000), "int8 differs from fp32 by -1.00 points of mAP (no interval)"),
        (
            of_map(0.62, 0.62, differing=0.0, sqnr_db=float("inf")),
            "int8 produces the same outputs as fp32 on all 10 images",
        ),
    ],
)
def test_without_an_interval_the_difference_is_all_that_is_said(report, headline):
    (verdict,) = verdicts(report)
    assert verdict.headline == headline
    assert {gate.why for gate in verdict.gates} == {"by the score alone, no interval"}


def test_a_loss_that_rounds_to_nothing_is_named_by_what_it_is_less_than():
    (verdict,) = verdicts(of_map(0.62, 0.62, num_samples=5000, interval=(-0.00002, 0.00003), differing=12.0))
    assert "a loss of more than 0.01 points can be ruled out" in verdict.sentences[0]
    assert "up to 0.00" not in verdict.sentences[0]


def test_labels_that_do_not_fit_a_detector_or_a_segmentation_raise_a_doubt():
    (doubt,) = remarks(of_map(0.0005, 0.0004))
    assert doubt.startswith("Baseline fp32 has an mAP of 0.05%, so it detects almost nothing: check that labels")
    assert remarks(of_map(0.02, 0.02)) == ()
    miou = {"task": "segment", "score": Score("miou", "mIoU")}
    classes = tuple(ClassScore(str(n), 9, {"fp32": 0.2}) for n in range(4))
    (doubt,) = remarks(replace(of_map(0.25, 0.2, **miou), classes=classes))
    assert "an mIoU of 25.00%, which a single class everywhere could reach (up to 25.00%): check" in doubt
    assert remarks(replace(of_map(0.26, 0.2, **miou), classes=classes)) == ()


def test_warnings_about_times_are_cautions_where_a_speed_is_judged():
    warnings = (
        "calls were interrupted, mean times are over 1.5 times the median: int8 (batch 8)",
        "the machine was busy (load 9.0 on 2 cores): latencies are longer and less certain",
        "Calibration and evaluation share 12 samples.",
    )
    report = make_report(warnings=warnings, timing_warnings=warnings[:2])
    speed, drop = (GateCheck("int8", kind, "a limit", True, 2.0, 1.5, False, "") for kind in ("speedup", "drop"))
    assert cautions(report, [drop, speed])[-2:] == warnings[:2]
    assert cautions(report, [drop]) == remarks(report)
