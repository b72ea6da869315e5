from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.reporting.charts.axes import Scale, log_ticks, nice_ticks
from quantkit.reporting.charts.legend import SHAPES
from quantkit.reporting.charts.speed import make_charts, make_throughput_charts
from tests.reporting.reports import any_report, latency, make_engines, make_report, make_unlabeled
from tests.reporting.samples import make_classification, make_detection, make_error_score, make_joined


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e4), st.integers(3, 8))
def test_ticks_are_few_even_and_enclose_the_range(low, span, target):
    ticks = nice_ticks(low, low + span, target)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= target + 3
    assert ticks[0] <= low + step * 1e-3
    assert ticks[-1] >= low + span - step * 1e-3
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in pairwise(ticks))


@pytest.mark.parametrize("at", [0.0, -20.0, 40.0, 1e-30, 1e17, -1e300])
def test_a_range_of_no_width_gets_an_axis(at):
    ticks = nice_ticks(at, at, 4)
    scale = Scale(ticks[0], ticks[-1], 0, 100)
    assert ticks[0] <= at <= ticks[-1]
    assert 0 <= scale(at) <= 100


def test_points_lie_where_the_axes_say():
    (chart,) = make_charts(make_report())
    fp32, fp16, int8 = chart.points
    assert int8.x < fp32.x < fp16.x
    assert fp32.y == pytest.approx(chart.baseline_y)
    assert int8.y > fp32.y
    first, last = chart.x_ticks[0], chart.x_ticks[-1]
    expected = first.at + (last.at - first.at) * 0.245 / float(last.label)
    assert int8.x == pytest.approx(expected, abs=0.01)
    assert int8.high < int8.y < int8.low
    assert (fp32.low, fp32.high) == (None, None)
    assert "int8: 80.93%, 0.245 ms" in chart.description


def test_the_vertical_axis_spans_a_point_at_least():
    (chart,) = make_charts(make_report())
    labels = [float(tick.label) for tick in chart.y_ticks]
    assert max(labels) - min(labels) >= 1


def test_labels_of_close_points_do_not_cover_each_other():
    report = make_report()
    base = report.evaluations[2]
    same = tuple(replace(base, name=f"variant{i}", latency=latency(0.25 + i / 500)) for i in range(4))
    points = make_charts(replace(report, evaluations=(report.baseline, *same)))[0].points
    boxes = []
    for p in (p for p in points if p.is_labeled):
        left = p.label_x if p.anchor == "start" else p.label_x - 7 * len(p.name)
        boxes.append((left, p.label_y - 12, left + 7 * len(p.name), p.label_y))
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_is_beside_its_own_point_or_missing():
    for chart in (*make_charts(make_classification()), *make_throughput_charts(make_classification())):
        for p in (p for p in chart.points if p.is_labeled):
            assert abs(p.label_x - p.x) <= 12.01
            assert abs(p.label_y - p.y) <= 30
        assert any(p.is_labeled for p in chart.points)
        assert [item.name for item in chart.legend] == [p.name for p in chart.points]  # the legend has all of them


def test_a_variant_has_one_color_and_shape_in_all_charts():
    report = make_classification()
    places = {e.name: i for i, e in enumerate(report.evaluations)}
    for chart in (*make_charts(report), *make_throughput_charts(report)):
        for item, series in zip(chart.legend, chart.series, strict=True):
            assert item.index == series.index == places[item.name]
            assert item.is_hollow == (not series.representative)
        assert len({item.shape for item in chart.legend}) == len(chart.legend)


def test_the_legend_has_as_many_rows_as_it_needs():
    report = make_report()
    names = [f"a variant with a long name {i}" for i in range(9)]
    copies = tuple(replace(report.evaluations[2], name=name, latency=latency(0.2)) for name in names)
    (chart,) = make_charts(replace(report, evaluations=(report.baseline, *copies)))
    rows = {item.y for item in chart.legend}
    assert len(rows) >= 4
    assert max(rows) < chart.frame.height
    assert len({item.shape for item in chart.legend}) == len(SHAPES) < len(names)


def test_points_for_the_target_choose_their_labels_first():
    report = make_report()
    aside = tuple(
        replace(report.evaluations[1], name=f"aside{i}", latency=latency(0.25), representative=False) for i in range(8)
    )
    evaluations = (report.baseline, *aside, replace(report.evaluations[2], latency=latency(0.25)))
    (chart,) = make_charts(replace(report, evaluations=evaluations))
    assert chart.points[-1].is_labeled
    assert not all(point.is_labeled for point in chart.points[1:-1])


def test_without_labels_agreement_is_drawn_and_without_latency_nothing():
    unlabeled = make_unlabeled()
    assert make_charts(unlabeled) == ()
    timed = tuple(replace(e, latency=latency(1.0)) for e in unlabeled.evaluations)
    chart = make_charts(replace(unlabeled, evaluations=timed))[0]
    assert chart.title.startswith("Agreement with fp32")
    assert chart.points[0].label.startswith("100.00%")


@given(any_report)
def test_any_report_has_a_chart_or_none(report):
    make_charts(report)
    make_throughput_charts(report)


def test_only_times_that_can_be_compared_are_drawn_together():
    (chart,) = make_charts(make_engines())
    assert [p.name for p in chart.points] == ["trt-fp32", "trt-int8"]
    assert chart.x_label == "Median GPU compute time of a batch of 4, ms (left is faster)"
    assert not any(p.is_baseline for p in chart.points)
    assert chart.y_ticks[-1].at <= chart.baseline_y <= chart.y_ticks[0].at


@given(st.floats(1e-5, 1e7), st.floats(1.0001, 1e7))
def test_logarithmic_ticks_enclose_the_range(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * 1.002
    assert ticks[-1] >= low * ratio * 0.998
    assert 2 <= len(ticks) <= 16
    assert ticks == sorted(set(ticks))


def test_intervals_go_both_ways_and_hold_their_point():
    (chart,) = make_charts(make_classification())
    int8 = chart.points[2]
    assert int8.left < int8.x < int8.right
    assert int8.high < int8.y < int8.low


def test_an_interval_ends_where_a_share_does():
    report = make_classification()
    base, *others = report.evaluations
    moved = 1 - 0.001 - base.metrics["top1"]
    raised = [replace(e, metrics={**e.metrics, "top1": e.metrics["top1"] + moved}) for e in (base, *others)]
    (chart,) = make_charts(replace(report, evaluations=tuple(raised)))
    ends = [end for point in chart.points for end in (point.low, point.high) if end is not None]
    assert ends
    assert all(chart.frame.top <= end <= chart.frame.bottom for end in ends)
    assert chart.y_ticks[-1].label.startswith("100")


def test_batch_sizes_are_beads_on_a_line_at_the_height_of_the_score():
    (chart,) = make_charts(make_classification())
    assert chart.x_label.startswith("Median latency per sample, ms")
    int8, point = chart.series[2], chart.points[2]
    assert [x < point.x for x, _, _ in int8.dots] == [True, True]
    assert {round(y) for _, y, _ in int8.dots} == {round(point.y)}
    first, last = chart.x_ticks[0], chart.x_ticks[-1]
    per_sample = make_classification().evaluations[2].sweep[1].median_ms / 32
    expected = first.at + (last.at - first.at) * per_sample / float(last.label)
    assert int8.dots[1][0] == pytest.approx(expected, abs=0.1)


def test_throughput_rises_and_latency_with_it_along_a_line():
    (chart,) = make_throughput_charts(make_classification())
    assert len(chart.series) == 4
    for line in chart.series:
        assert len(line.dots) == 3
        assert all(b[0] > a[0] and b[1] < a[1] for a, b in pairwise(line.dots))
    assert make_throughput_charts(make_report()) == ()


def test_every_backend_with_two_variants_has_a_chart_of_one_scale():
    charts = make_charts(make_joined())
    assert [len(chart.points) for chart in charts] == [4, 4]
    assert charts[0].y_ticks == charts[1].y_ticks
    assert "run xeon" in charts[0].heading
    (chart,) = make_charts(make_detection())
    assert [p.name for p in chart.points] == ["trt-fp32", "trt-fp16", "trt-int8"]
    assert chart.y_label == "mAP, %"
    assert chart.heading == ""


def test_a_score_that_is_no_share_has_its_own_axis():
    (chart,) = make_charts(make_error_score())
    assert chart.y_label == "RMSE"
    assert "6.100, 1.01 ms" in chart.description


def test_a_wide_range_of_times_is_logarithmic():
    report = make_report()
    fast = replace(report.evaluations[2], latency=latency(0.03))
    (chart,) = make_charts(replace(report, evaluations=(report.baseline, fast)))
    assert chart.is_log
    assert not make_charts(report)[0].is_log
    assert [tick.label for tick in chart.x_ticks] == ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]
