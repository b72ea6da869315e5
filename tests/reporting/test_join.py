import re
from dataclasses import replace

import pytest

from quantkit.errors import EvaluationError
from quantkit.reporting import load_report, report_html, report_json, report_markdown
from quantkit.reporting.join import join_reports
from quantkit.reporting.verdict import remarks
from quantkit.types import PlanPoint, QuantizationPlan, Score
from tests.reporting import samples
from tests.reporting.reports import latency, make_report


def test_variants_stand_side_by_side_under_the_name_of_their_run():
    joined = join_reports({"a": make_report(), "b": make_report()})
    assert [e.name for e in joined.evaluations] == ["a/fp32", "a/fp16", "a/int8", "b/fp32", "b/fp16", "b/int8"]
    assert joined.baseline.name == "a/fp32"
    assert any("not compared" in warning for warning in joined.warnings)
    assert not any("different backends" in remark for remark in remarks(joined))


def test_no_speedup_is_between_runs():
    slow = make_report()
    quick = replace(
        slow, evaluations=tuple(replace(e, latency=latency(0.01 * (i + 1))) for i, e in enumerate(slow.evaluations))
    )
    joined = join_reports({"a": slow, "b": quick})
    for evaluation in joined.evaluations:
        run = evaluation.name.partition("/")[0]
        assert joined.speed_reference(evaluation).name == f"{run}/fp32"
        alone = {"a": slow, "b": quick}[run]
        own = next(e for e in alone.evaluations if evaluation.name.endswith(f"/{e.name}"))
        assert joined.speedup(evaluation) == alone.speedup(own)


def test_paired_intervals_stay_only_where_the_baselines_are_equal():
    first = make_report()
    fp32, *others = first.evaluations
    second = replace(first, evaluations=(replace(fp32, metrics={**fp32.metrics, "top1": 0.8}), *others))
    same = join_reports({"a": first, "b": first}).evaluations[-1]
    assert "top1_difference_low" in same.metrics
    other = join_reports({"a": first, "b": second}).evaluations[-1]
    assert not {"top1_difference_low", "fixed", "p_value"} & other.metrics.keys()
    assert "agreement" in other.metrics


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_hash": "0123456789abcdef", "model_name": "other.onnx"}, "other.onnx"),
        ({"dataset": {"name": "elsewhere", "num_samples": 5, "fingerprint": "ff"}}, "elsewhere"),
        ({"preprocessing": None}, "prepared"),
        ({"planned_samples": 20_000}, "b is partial: 10000 of 20000"),
        ({"score": Score("map", "mAP"), "task": "detect"}, "judged by Top-1.*mAP"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_named(change, named):
    reports = {"a": make_report(), "b": make_report(**change)}
    with pytest.raises(EvaluationError, match=named):
        join_reports(reports)
    assert re.search(named, join_reports(reports, force=True).warnings[0])


@pytest.mark.parametrize("fact", ["labels_fingerprint", "detections", "decoder", "ignored_value", "metric"])
def test_scores_of_other_annotations_or_thresholds_are_not_compared(fact):
    first = make_report()
    second = replace(first, dataset={**first.dataset, fact: 0.5})
    with pytest.raises(EvaluationError, match=f"scored with {fact.replace('_', ' ')} None, b with 0.5"):
        join_reports({"a": first, "b": second})


def test_what_was_joined_by_force_stays_partial():
    joined = join_reports({"a": make_report(), "b": make_report(planned_samples=20_000)}, force=True)
    assert joined.is_partial


def test_classes_changes_tensors_and_layers_come_along():
    report = samples.make_classification()
    joined = join_reports({"a": report, "b": report})
    assert len(joined.changes) == 2 * len(report.changes)
    assert {c.variant for c in joined.changes} == {f"{r}/{c.variant}" for r in "ab" for c in report.changes}
    assert [c.label for c in joined.classes] == [c.label for c in report.classes]
    assert joined.classes[0].scores.keys() == {f"{r}/{v}" for r in "ab" for v in report.classes[0].scores}
    assert {t.variant for t in joined.tensors} == {f"{r}/{t.variant}" for r in "ab" for t in report.tensors}
    assert len(joined.layers) == 2 * len(report.layers)
    assert joined.commands == report.commands


def test_a_plan_stays_where_all_runs_share_it():
    point = PlanPoint(1, 0.9, 0.81, 0.0)
    plan = QuantizationPlan("m.onnx", "", "", {}, (), "1%", "met", "", "top1", True, "%", point, (point,), "", 500)
    report = make_report(plan=plan)
    assert join_reports({"a": report, "b": report}).plan == plan
    assert join_reports({"a": report, "b": make_report()}).plan is None


def test_one_report_is_not_joined():
    with pytest.raises(EvaluationError, match="two"):
        join_reports({"a": make_report()})


def test_environments_that_differ_name_the_run():
    joined = join_reports({"a": make_report(), "b": make_report(environment={"cpu": "Other", "python": "3.11.7"})})
    assert joined.environment == {"cpu": "a: Some CPU; b: Other", "python": "3.11.7"}


def test_a_joined_report_renders_and_comes_back(tmp_path):
    joined = join_reports({"a": make_report(), "b": make_report(), "c": make_report()})
    path = tmp_path / "joined.json"
    path.write_text(report_json(joined))
    assert load_report(path) == joined
    assert "b/int8" in report_markdown(joined)
    assert "c/int8" in report_html(joined)
