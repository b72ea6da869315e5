from __future__ import annotations

from dataclasses import replace

from quantkit.reporting import load_report, report_html, report_json, report_markdown
from quantkit.reporting.coverage import left_in_float
from quantkit.reporting.range_choices import float_tensor_rows, method_rows, unit_tables
from quantkit.types import PlanPoint, QuantizationPlan, RankedUnit, SensitivityRanking

from .samples import make_classification


def test_methods_are_counted_the_most_frequent_first():
    rows = method_rows(make_classification())
    assert [(row.method, row.num_tensors) for row in rows] == [
        ("mse", 21),
        ("minmax", 7),
        ("percentile 99.999", 3),
        ("tensorrt", 2),
    ]
    assert sum(row.share for row in rows) == 1


def test_float_tensors_come_with_the_reason_and_are_not_named_again():
    report = make_classification()
    rows = float_tensor_rows(report)
    assert [row.tensor for row in rows] == ["/features/se/Mul_output_0", "/head/Relu_output_0"]
    assert "KL divergence 0.031" in rows[0].reason
    again = replace(report, skipped={**report.skipped, **report.float_tensors})
    assert left_in_float(again) == left_in_float(report)


def test_a_plan_shows_every_choice_that_tune_evaluated(tmp_path):
    front = (PlanPoint(0, 1.0, 0.79, 0.02, (0.01, 0.03)), PlanPoint(2, 0.9, 0.81, 0.0))
    plan = QuantizationPlan(
        *("m.onnx", "00", "11", {"x": "it costs most"}, ("conv",), "0.5pt", "met", "<b>met</b>"),
        *("top1", True, "pt", front[1], front, "22", 500),
    )
    report = replace(make_classification(), plan=plan)
    text = report_markdown(report)
    assert "| 0 | 100.00 | 79.00 | 2.00 pt | 1.00 to 3.00 |  |" in text
    assert "| 2 | 90.00 | 81.00 | 0.00 pt | – | chosen |" in text
    page = report_html(report)
    assert "Choices of tune" in page
    assert "&lt;b&gt;met&lt;/b&gt;" in page
    path = tmp_path / "report.json"
    path.write_text(report_json(report), encoding="utf-8")
    assert load_report(path).plan == plan


def test_units_are_drawn_to_the_scale_of_the_worst():
    tensors, operators = unit_tables(make_classification())
    assert (tensors.title, operators.title) == ("Tensors", "Operators")
    assert [row.rank for row in tensors.rows] == list(range(1, 15))
    assert len(tensors.worst) == 10
    assert tensors.rows[0].share == 1
    assert operators.rows[0].share == 0.02 / 0.031


def test_nothing_is_drawn_where_no_unit_does_damage():
    units = (RankedUnit("a", "tensor", 0.0, 0.0), RankedUnit("b", "tensor", -0.1, 0.0))
    report = replace(make_classification(), sensitivity=SensitivityRanking("relative error", 0.0, units))
    (table,) = unit_tables(report)
    assert [row.share for row in table.rows] == [0, 0]


def test_the_section_is_left_out_where_there_is_nothing_to_say():
    report = make_classification()
    bare = replace(report, range_methods={}, float_tensors={}, sensitivity=None)
    for text in (report_html, report_markdown):
        assert "Ranges and sensitivity" in text(report)
        assert "Ranges and sensitivity" not in text(bare)
