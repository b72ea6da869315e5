from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from quantkit.reporting import report_html
from quantkit.reporting.charts.forest import make_forest
from tests.reporting.reports import any_report, make_unlabeled
from tests.reporting.samples import make_classification, make_error_score


def test_rows_lie_where_the_axis_says():
    forest = make_forest(make_classification())
    assert [row.name for row in forest.rows] == ["fp16", "int8", "int8-minmax"]
    first, last = forest.x_ticks[0], forest.x_ticks[-1]
    unit = (last.at - first.at) / (float(last.label) - float(first.label))
    int8 = forest.rows[1]
    for place, points in ((int8.x, -0.10), (int8.low, -0.35), (int8.high, 0.15)):
        assert place == pytest.approx(first.at + (points - float(first.label)) * unit, abs=0.05)
    assert int8.label == "-0.10 points (-0.35 to +0.15)"
    assert [row.tone for row in forest.rows] == ["", "", "bad"]


def test_mlperf_s_targets_are_marks_of_their_own():
    forest = make_forest(make_classification())
    assert [mark.label for mark in forest.marks] == ["99%", "99.9%", "100%"]
    first, last = forest.x_ticks[0], forest.x_ticks[-1]
    unit = (last.at - first.at) / (float(last.label) - float(first.label))
    limit = first.at + (-0.8103 - float(first.label)) * unit
    assert forest.marks[0].at == pytest.approx(limit, abs=0.05)


def test_better_is_right_where_less_of_the_score_is_better():
    forest = make_forest(make_error_score())
    fp16, int8, worst = forest.rows
    assert worst.x < int8.x < fp16.x
    assert worst.low < worst.x < worst.high
    assert worst.label == "+1.89 (+1.70 to +2.10)"
    assert float(forest.x_ticks[0].label) > 0 > float(forest.x_ticks[-1].label)


def test_a_variant_without_an_interval_is_a_bare_point():
    report = make_classification()
    fp32, fp16, int8, minmax = report.evaluations
    kept = {name: value for name, value in int8.metrics.items() if "_difference_" not in name}
    bare = replace(report, evaluations=(fp32, fp16, replace(int8, metrics=kept), minmax))
    forest = make_forest(bare)
    row = forest.rows[1]
    assert (row.low, row.high, row.x) == (None, None, make_forest(report).rows[1].x)
    assert row.label == "-0.10 points (no interval)"
    assert forest.has_bare
    assert not make_forest(report).has_bare
    page = report_html(bare)
    assert page.count("Hollow points have no interval.") == 1
    assert "Hollow points have no interval." not in report_html(report)


def test_without_intervals_there_is_none():
    assert make_forest(make_unlabeled()) is None


@given(any_report)
def test_any_report_has_a_plot_or_none(report):
    make_forest(report)
