from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from quantkit.reporting.variants import accuracy_rows, batch_sizes, speed_rows, sweep_rows

from .reports import any_report, make_engines, make_report
from .samples import make_classification, make_detection, make_error_score, make_unlabelled_arrays


def test_rows_show_what_the_report_holds():
    fp32, _, int8 = accuracy_rows(make_report())
    assert (fp32.difference, fp32.mlperf, fp32.sqnr_db, fp32.size_ratio) == ("–", "–", "–", "1.00x")
    assert (int8.score, int8.difference, int8.interval) == ("80.93", "-0.10", "-0.35 to +0.15")
    assert int8.with_interval == "-0.10 ± 0.25"
    assert (int8.flips, int8.p_value, int8.agreement, int8.cosine) == ("78 / 88", "0.485", "97.48", "0.99838")
    assert (int8.size_mb, int8.mlperf) == ("0.331", "99 % kept, 99.9 % open")
    fp32, fp16, int8 = speed_rows(make_report())
    assert (fp32.speedup, fp32.batch_size) == ("–", "4")
    assert (int8.median_ms, int8.p99_ms, int8.speedup, int8.throughput) == ("0.245", "0.319", "2.04x", "16,327")
    assert not fp16.representative


def test_rows_of_a_device_compare_computations_on_that_device():
    fp32, trt_fp32, trt_int8 = speed_rows(make_engines())
    assert (fp32.compute_ms, fp32.speedup) == ("–", "–")
    assert (trt_fp32.median_ms, trt_fp32.compute_ms, trt_fp32.speedup) == ("1.75", "1.00", "–")
    assert (trt_int8.median_ms, trt_int8.compute_ms, trt_int8.speedup) == ("1.00", "0.250", "4.00x")
    assert (trt_int8.h2d_ms, trt_int8.d2h_ms, trt_int8.enqueue_ms) == ("0.500", "0.250", "0.0625")
    assert trt_int8.compute_p99_ms in ("0.312", "0.313")


def test_any_score_is_shown_in_its_own_unit():
    *_, last = accuracy_rows(make_error_score())
    assert (last.score, last.difference, last.interval) == ("6.100", "+1.89", "+1.70 to +2.10")
    assert last.mlperf == "99 % missed, 99.9 % missed"
    *_, last = accuracy_rows(make_detection())
    assert (last.score, last.difference, last.interval) == ("37.21", "-1.93", "-2.36 to -1.51")
    *_, last = accuracy_rows(make_unlabelled_arrays())
    assert (last.score, last.difference, last.mlperf, last.agreement) == ("–", "–", "–", "93.12")


def test_percentiles_and_speed_ups_carry_their_intervals():
    int8 = speed_rows(make_classification())[2]
    assert (int8.median_ms, int8.median_interval) == ("1.04", "1.03 to 1.05")
    assert (int8.p99_ms, int8.p99_interval) == ("1.37", "1.29 to 1.49")
    assert (int8.speedup, int8.speedup_interval) == ("2.31x", "2.28 to 2.36")


def test_the_sweep_has_every_batch_size_with_its_own_speed_ups():
    report = make_classification()
    assert batch_sizes(report) == (1, 8, 32)
    sweep = sweep_rows(report)
    assert list(sweep) == [1, 8, 32]
    assert [row.name for row in sweep[8]] == [e.name for e in report.evaluations]
    assert [sweep[size][2].speedup for size in sweep] == ["2.31x", "2.59x", "2.86x"]
    assert sweep[32][0].speedup == "–"
    assert sweep_rows(make_report()) == {}


def test_a_variant_without_a_batch_size_is_not_in_its_rows():
    report = make_detection()
    assert [row.name for row in sweep_rows(report)[64]] == ["trt-fp32", "trt-fp16", "trt-int8"]
    untimed = tuple(replace(e, latency=None, sweep=()) for e in report.evaluations)
    assert speed_rows(replace(report, evaluations=untimed)) == ()


@given(any_report)
def test_rows_exist_for_any_report(report):
    assert len(accuracy_rows(report)) == len(report.evaluations)
    assert len(speed_rows(report)) in (0, len(report.evaluations))
    sweep_rows(report)
