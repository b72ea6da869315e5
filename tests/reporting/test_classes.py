from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.paired_statistics import wilson_interval
from quantkit.reporting.classes import class_tables
from quantkit.types import ClassScore

from .reports import cells
from .samples import ERROR, make_classification, make_detection, make_imagenet, make_report_of_classes


def test_the_largest_loss_is_first_and_its_bar_the_longest():
    table = next(t for t in class_tables(make_classification()) if t.variant == "int8-minmax")
    gains = [row.gain for row in table.rows]
    assert gains == sorted(gains)
    everywhere = [row.gain for t in class_tables(make_classification()) for row in t.rows]
    assert max(map(abs, everywhere)) == 1


def test_a_row_holds_the_class_s_numbers():
    (table,) = class_tables(make_report_of_classes(ClassScore("cat", 40, {"fp32": 0.9, "int8": 0.75})))
    (row,) = table.rows
    fields = ("class_count", "class_before", "class_after", "class_change", "class_interval")
    assert [cells("classes", [row], field) for field in fields] == [
        ["40"], ["90.00"], ["75.00"], ["-15.00"], ["59.81 to 85.81"],
    ]  # fmt: skip
    assert not row.is_noise
    assert row.gain == -1


def test_a_change_within_the_interval_of_a_small_class_is_noise():
    (table,) = class_tables(make_report_of_classes(ClassScore("cat", 10, {"fp32": 0.9, "int8": 0.8})))
    assert table.rows[0].is_noise


def test_where_less_is_better_a_rise_is_a_loss():
    report = make_report_of_classes(ClassScore("cat", 40, {"fp32": 2.0, "int8": 2.5}))
    (table,) = class_tables(replace(report, score=ERROR))
    assert table.rows[0].gain == -1
    assert [cells("classes", table.rows, field) for field in ("class_change", "class_interval")] == [["+0.5"], ["–"]]
    assert table.summary == "1 of 1 class worse, 0 better, 0 unchanged."


def test_classes_without_a_score_come_last_and_are_counted():
    table = class_tables(make_detection())[-1]
    assert table.summary == "4 of 7 classes worse, 1 better, 1 unchanged, 1 without a score to compare."
    assert [row.label for row in table.rows] == [
        "traffic light", "toothbrush", "person", "bicycle", "car", "no such thing",
    ]  # fmt: skip
    assert (
        cells("classes", table.rows[-1:], "class_change") == cells("classes", table.rows[-1:], "class_before") == ["–"]
    )


def test_unchanged_classes_are_counted_and_where_none_changed_nothing_is_said():
    for table in class_tables(make_imagenet()):
        assert not table.rows or f"{1000 - len(table.rows):,} unchanged" in table.summary
        assert bool(table.rows) == bool(table.summary) == (table.variant != "fp16")


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_wilson_holds_its_share_and_is_never_a_point(count, share):
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert high - low > 1e-7


def test_wilson_is_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(30, 40).proportion_ci(method="wilson")
    assert wilson_interval(0.75, 40) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_classes_or_score_there_is_nothing():
    report = make_classification()
    assert class_tables(replace(report, classes=())) == ()
    assert class_tables(replace(report, score=None)) == ()


def test_a_change_that_is_shown_as_nothing_is_none():
    red = ClassScore("red", 10**6, {"fp32": 0.5, "int8": 0.49996})
    blue = ClassScore("blue", 10**6, {"fp32": 0.5, "int8": 0.4999})
    (table,) = class_tables(make_report_of_classes(red, blue))
    assert table.summary == "1 of 2 classes worse, 0 better, 1 unchanged."
    assert [row.label for row in table.rows] == ["blue"]
