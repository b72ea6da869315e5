from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from quantkit.reporting.variants import speed_rows, sweep_rows, variant_rows

from .reports import any_report, cells, make_engines, make_report
from .samples import make_classification, make_detection, make_error_score, make_unlabeled_arrays


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("score", ["81.03", "81.04", "80.93"]),
        ("difference", ["–", "+0.01", "-0.10"]),
        ("interval", ["–", "-0.03 to +0.05", "-0.35 to +0.15"]),
        ("with_interval", ["–", "+0.01 ± 0.04", "-0.10 ± 0.25"]),
        ("mlperf", ["–", "99%: pass, 99.9%: pass", "99%: pass, 99.9%: inconclusive"]),
        ("flips", ["–", "78 / 88", "78 / 88"]),
        ("p_value", ["–", "0.485", "0.485"]),
        ("agreement", ["–", "97.48", "97.48"]),
        ("sqnr_db", ["–", "24.9", "24.9"]),
        ("cosine", ["–", "0.99838", "0.99838"]),
        ("size_mb", ["1.10", "0.561", "0.331"]),
        ("size_ratio", ["1.00x", "0.51x", "0.30x"]),
    ],
)
def test_rows_show_what_the_report_holds(field, texts):
    assert cells("accuracy", variant_rows(make_report()), field) == texts


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("batch_size", ["4", "4", "4"]),
        ("median_ms", ["0.500", "0.561", "0.245"]),
        ("p99_ms", ["0.650", "0.729", "0.319"]),
        ("speedup", ["–", "0.89x", "2.04x"]),
        ("throughput", ["8,000", "7,130", "16,327"]),
        ("compute_ms", ["–", "–", "–"]),
    ],
)
def test_rows_show_the_speed(field, texts):
    rows = speed_rows(make_report())
    assert cells("speed", rows, field) == texts
    assert [row.representative for row in rows] == [True, False, True]


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("median_ms", ["0.500", "1.75", "1.00"]),
        ("compute_ms", ["–", "1.00", "0.250"]),
        ("speedup", ["–", "–", "4.00x"]),
        ("h2d_ms", ["–", "0.500", "0.500"]),
        ("d2h_ms", ["–", "0.250", "0.250"]),
        ("enqueue_ms", ["–", "0.0625", "0.0625"]),
    ],
)
def test_rows_of_a_device_compare_computations_on_that_device(field, texts):
    name = "query" if field in ("h2d_ms", "d2h_ms", "enqueue_ms") else "speed"
    assert cells(name, speed_rows(make_engines()), field) == texts


def test_any_score_is_shown_in_its_own_unit():
    def last(report):
        row = variant_rows(report)[-1:]
        return [cells("accuracy", row, field)[0] for field in ("score", "difference", "interval", "mlperf")]

    assert last(make_error_score()) == ["6.100", "+1.89", "+1.70 to +2.10", "99%: fail, 99.9%: fail"]
    assert last(make_detection())[:3] == ["37.21", "-1.93", "-2.36 to -1.51"]
    assert last(make_unlabeled_arrays()) == ["–", "–", "–", "–"]


def test_percentiles_and_speed_ups_carry_their_intervals():
    int8 = speed_rows(make_classification())[2:3]
    for field, text in (
        ("median_interval", "1.03 to 1.05"),
        ("p99_interval", "1.29 to 1.49"),
        ("speedup_interval", "2.28 to 2.36"),
    ):
        assert cells("speed", int8, field) == [text]


def test_the_sweep_has_every_batch_size_with_its_own_speed_ups():
    report = make_classification()
    rows = sweep_rows(report)
    assert [row.latency.batch_size for row in rows] == [1] * 4 + [8] * 4 + [32] * 4
    assert [row.name for row in rows] == 3 * [e.name for e in report.evaluations]
    assert cells("sweep", rows[2::4], "speedup") == ["2.31x", "2.59x", "2.86x"]
    assert cells("sweep", rows[::4], "speedup") == ["–", "–", "–"]
    assert sweep_rows(make_report()) == ()


def test_a_variant_without_a_batch_size_is_not_in_its_rows():
    report = make_detection()
    rows = [row.name for row in sweep_rows(report) if row.latency.batch_size == 64]
    assert rows == ["trt-fp32", "trt-fp16", "trt-int8"]
    untimed = tuple(replace(e, latency=None, sweep=()) for e in report.evaluations)
    assert speed_rows(replace(report, evaluations=untimed)) == ()


@given(any_report)
def test_rows_exist_for_any_report(report):
    assert len(variant_rows(report)) == len(report.evaluations)
    assert len(speed_rows(report)) in (0, len(report.evaluations))
    sweep_rows(report)
