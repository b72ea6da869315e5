from __future__ import annotations

from dataclasses import replace

import pytest

from quantkit.reporting.decision import decide, is_expected
from quantkit.types import Report

from .reports import latency, make_engines, make_report, make_unlabeled, metrics


def of_int8(**changes: object) -> Report:
    """FP32 and an INT8 model for this CPU."""
    report = make_report()
    int8 = replace(report.evaluations[2], name="int8-cpu", **changes)  # type: ignore[arg-type]
    return replace(report, evaluations=(report.baseline, int8))


def decided(report: Report) -> tuple[str, str, str]:
    found = decide(report)
    assert found is not None
    return found.target, found.word, found.sentence


def test_what_keeps_both_limits_by_the_whole_interval_is_shipped():
    assert decided(of_int8()) == (
        "cpu",
        "ship",
        "For the CPU: ship int8-cpu: accurate enough and faster. Limits: at most 1% below fp32, and faster, by the "
        "whole 95% interval.",
    )


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"metrics": metrics(0.79, low=-0.03, high=-0.01)}, "do not ship", "faster, but it loses too much accuracy"),
        ({"metrics": metrics(0.80, low=-0.03, high=0.01)}, "not settled", "the samples do not settle its accuracy"),
        ({"metrics": {**metrics(0.81, low=0, high=0.01), "non_finite": 1.0}}, "do not ship", "are NaN or infinite"),
        ({"latency": latency(1.0)}, "do not ship", "accurate enough, but it is not faster"),
        ({"latency": None}, "not settled", "its speed was not measured there (evaluate with --latency-s)"),
        (
            {"latency": replace(latency(0.2), speedup_interval=(1.1, 50.0))},
            "not settled",
            "accurate enough, but its speed is not settled (use a longer --latency-s)",
        ),
    ],
)
def test_what_fails_goes_before_what_is_not_known(changes, word, reason):
    target, found, sentence = decided(replace(of_int8(**changes), deploy="cpu"))
    assert (target, found) == ("cpu", word)
    assert reason in sentence


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"top1": 0.1, "num_classes": 10.0}, "fp32 is no better than chance"),
        ({"top1": 0.9, "named_classes": 1.0}, "fp32 names a single class on all samples"),
    ],
)
def test_nothing_is_shipped_because_it_is_as_useless_as_the_baseline(found, reason):
    report = of_int8()
    useless = replace(report.baseline, metrics={**report.baseline.metrics, **found})
    same = replace(report.evaluations[1], metrics={**metrics(found["top1"], low=0, high=0), **found})
    _, word, sentence = decided(replace(report, evaluations=(useless, same)))
    assert word == "not settled"
    assert f"faster, but {reason}." in sentence


def test_an_engine_is_decided_for_tensorrt():
    target, word, sentence = decided(make_engines())
    assert (target, word) == ("tensorrt", "ship")
    assert "ship trt-int8" in sentence


def test_nothing_is_shipped_on_tensorrt_where_nothing_ran_on_it():
    report = make_report()
    int8 = replace(report.evaluations[2], representative=False, target="tensorrt")
    report = replace(report, evaluations=(report.baseline, int8))
    target, word, sentence = decided(report)
    assert (target, word) == ("tensorrt", "not settled")
    assert "accurate enough (expected on TensorRT, where it has not run), but its speed was not measured" in sentence
    _, word, sentence = decided(replace(report, deploy="cpu"))
    assert (word, sentence) == ("not settled", "For the CPU: not settled: no INT8 variant for it was evaluated.")


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_a_model_whose_target_is_not_known_is_decided_on_for_any(target):
    report = make_report()
    other = replace(report.evaluations[2], name="other", latency=None, target=None)
    report = replace(report, evaluations=(report.baseline, other), deploy=target)
    assert "not settled for other: accurate enough" in decided(report)[2]
    assert not is_expected(report, other)


def test_another_format_is_decided_on_as_int8_is():
    report = make_report()
    fp8 = replace(report.evaluations[2], name="fp8", precision="fp8", latency=None, target="tensorrt")
    report = replace(report, evaluations=(report.baseline, fp8))
    target, word, sentence = decided(report)
    assert (target, word) == ("tensorrt", "not settled")
    assert sentence.startswith("For TensorRT: not settled for fp8: accurate enough")
    assert "no INT8 variant for it" in decided(replace(report, deploy="cpu"))[2]


@pytest.mark.parametrize(
    ("changes", "is_said"),
    [
        ({"target": "tensorrt"}, True),
        ({"target": None}, True),
        ({"target": "cpu"}, False),
        ({"target": "tensorrt", "precision": "fp8"}, False),
    ],
)
def test_activations_in_float_are_said_of_int8_for_tensorrt_alone(changes, is_said):
    """The model for a CPU quantizes them, and FP8 has a choice of its own."""
    report = make_report()
    variant = replace(report.evaluations[2], latency=None, **changes)
    report = replace(report, evaluations=(report.baseline, variant), float_tensors={"x": "it costs too much"})
    assert ("; 1 activation left in float." in decided(report)[2]) is is_said


def test_without_int8_there_is_nothing_to_decide_and_without_a_score_nothing_is_settled():
    report = make_report()
    assert decide(replace(report, evaluations=report.evaluations[:2])) is None
    assert decided(make_unlabeled())[1] == "not settled"


def test_what_is_for_tensorrt_and_has_not_run_there_is_expected():
    report = make_report()
    fp32, fp16, int8 = report.evaluations
    mine = replace(int8, name="mine", latency=None, target="tensorrt")
    on_gpu = replace(mine, device="gpu", representative=False)
    assert [is_expected(report, e) for e in (fp32, fp16, int8, mine)] == [False, True, False, True]
    assert is_expected(report, on_gpu)
    assert not is_expected(report, replace(fp32, device="gpu", representative=False))
    engines = make_engines()
    assert not any(is_expected(engines, e) for e in engines.evaluations[1:])
    assert not is_expected(replace(report, evaluations=(fp16, int8)), fp16)


@pytest.mark.parametrize("target", ["cpu", None])
@pytest.mark.parametrize("name", ["int8-cpu", "int8", "fp8", "mine"])
def test_a_form_for_the_cpu_or_of_none_is_not_expected_whatever_its_name(name, target):
    report = make_report()
    model = replace(report.evaluations[2], name=name, target=target)
    on_gpu = replace(model, device="gpu", representative=False)
    untimed = [replace(e, latency=None) for e in (model, on_gpu)]
    assert not any(is_expected(report, e) for e in (model, on_gpu, *untimed))


def test_a_model_for_the_cpu_that_ran_on_a_gpu_is_no_candidate_for_tensorrt():
    report = make_report()
    on_gpu = {"device": "gpu", "representative": False}
    better = metrics(0.82, low=0.005, high=0.02)
    for_cpu = replace(report.evaluations[2], name="int8-cpu", metrics=better, **on_gpu)
    for_gpu = replace(report.evaluations[2], target="tensorrt", **on_gpu)
    found = decide(replace(report, evaluations=(report.baseline, for_cpu, for_gpu)))
    assert found is not None
    assert (found.target, found.variant) == ("tensorrt", "int8")


def test_an_accuracy_that_was_not_measured_is_not_called_expected():
    _, _, sentence = decided(make_unlabeled())
    assert "its accuracy has no score and its speed" in sentence
