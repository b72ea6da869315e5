from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.reporting.chart import make_chart, nice_ticks

from .reports import any_report, latency, make_engines, make_report, make_unlabelled


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e4), st.integers(3, 8))
def test_ticks_are_few_even_and_enclose_the_range(low, span, target):
    ticks = nice_ticks(low, low + span, target)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= target + 3
    assert ticks[0] <= low + step * 1e-3
    assert ticks[-1] >= low + span - step * 1e-3
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in pairwise(ticks))


def test_points_lie_where_the_axes_say():
    chart = make_chart(make_report())
    fp32, fp16, int8 = chart.points
    assert int8.x < fp32.x < fp16.x
    assert fp32.y == pytest.approx(chart.baseline_y)
    assert int8.y > fp32.y
    first, last = chart.x_ticks[0], chart.x_ticks[-1]
    expected = first.at + (last.at - first.at) * 0.245 / float(last.label)
    assert int8.x == pytest.approx(expected, abs=0.01)
    assert int8.high < int8.y < int8.low
    assert (fp32.low, fp32.high) == (None, None)
    assert "int8: 80.93 %, 0.245 ms" in chart.description


def test_the_vertical_axis_spans_a_point_at_least():
    chart = make_chart(make_report())
    labels = [float(tick.label) for tick in chart.y_ticks]
    assert max(labels) - min(labels) >= 1


def test_labels_of_close_points_do_not_cover_each_other():
    report = make_report()
    base = report.evaluations[2]
    same = tuple(replace(base, name=f"variant{i}", latency=latency(0.25 + i / 500)) for i in range(4))
    points = make_chart(replace(report, evaluations=(report.baseline, *same))).points
    boxes = []
    for p in points:
        left = p.label_x if p.anchor == "start" else p.label_x - 7 * len(p.name)
        boxes.append((left, p.label_y - 12, left + 7 * len(p.name), p.label_y))
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_without_labels_agreement_is_drawn_and_without_latency_nothing():
    unlabelled = make_unlabelled()
    assert make_chart(unlabelled) is None
    timed = tuple(replace(e, latency=latency(1.0)) for e in unlabelled.evaluations)
    chart = make_chart(replace(unlabelled, evaluations=timed))
    assert chart.title.startswith("Agreement with fp32")
    assert chart.points[0].label.startswith("100.00 %")


@given(any_report)
def test_any_report_has_a_chart_or_none(report):
    make_chart(report)


def test_only_times_that_can_be_compared_are_drawn_together():
    chart = make_chart(make_engines())
    assert [p.name for p in chart.points] == ["trt-fp32", "trt-int8"]
    assert chart.x_label == "Median GPU compute time, ms (left is faster)"
    assert not any(p.is_baseline for p in chart.points)
    assert chart.y_ticks[-1].at <= chart.baseline_y <= chart.y_ticks[0].at
