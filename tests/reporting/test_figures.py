from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.reporting.figures import (
    facts_from_mapping,
    facts_from_preprocessing,
    format_difference,
    format_percent,
    format_significant,
    format_speedup,
    how_measured,
    one_line,
    rows,
)
from quantkit.types import Preprocessing

from .reports import HOSTILE, any_report, make_engines, make_report, make_unlabelled


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.24549, "0.245"),
        (9.996, "10.0"),
        (99.96, "100"),
        (4081.6, "4082"),
        (0.0, "0"),
        (-1.234, "-1.23"),
        (0.000123456, "0.000123"),
        (1.796e308, "1.80e+308"),
        (3e-20, "3.00e-20"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "NaN"),
        (None, "–"),
    ],
)
def test_significant_digits(value, text):
    assert format_significant(value) == text


@given(st.floats(1e-9, 1e9))
def test_three_digits_are_within_half_a_percent(value):
    assert float(format_significant(value)) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"), [(-0.00103, "-0.10"), (0.002, "+0.20"), (-0.00001, "0.00"), (0.0, "0.00"), (None, "–")]
)
def test_differences_carry_a_sign_unless_they_round_to_nothing(value, text):
    assert format_difference(value) == text


def test_percents_and_speedups():
    assert format_percent(0.81034) == "81.03"
    assert [format_speedup(v) for v in (0.8913, 2.0408, 9.996, 123.4)] == ["0.89", "2.04", "10.0", "123"]


@given(st.text())
def test_names_become_one_printable_line(text):
    assert one_line(text).isprintable()


def test_escape_sequences_and_direction_marks_are_taken_out():
    assert "\x1b" not in one_line(HOSTILE)
    assert "\u202e" not in one_line(HOSTILE)
    assert one_line("a\n  b") == "a b"


def test_rows_show_what_the_report_holds():
    fp32, fp16, int8 = rows(make_report())
    assert (fp32.difference, fp32.speedup, fp32.sqnr_db, fp32.size_ratio) == ("–", "–", "–", "1.00x")
    assert (int8.top1, int8.difference, int8.interval, int8.plus_minus) == ("80.93", "-0.10", "-0.35 to +0.15", "0.25")
    assert (int8.flips, int8.p_value, int8.agreement, int8.cosine) == ("78 / 88", "0.485", "97.48", "0.99838")
    assert (int8.median_ms, int8.p99_ms, int8.speedup, int8.size_mb) == ("0.245", "0.319", "2.04x", "0.331")
    assert not fp16.representative


def test_rows_of_a_device_compare_computations_on_that_device():
    fp32, trt_fp32, trt_int8 = rows(make_engines())
    assert (fp32.compute_ms, fp32.speedup) == ("–", "–")
    assert (trt_fp32.median_ms, trt_fp32.compute_ms, trt_fp32.speedup) == ("1.75", "1.00", "–")
    assert (trt_int8.median_ms, trt_int8.compute_ms, trt_int8.speedup) == ("1.00", "0.250", "4.00x")
    assert (trt_int8.h2d_ms, trt_int8.d2h_ms, trt_int8.enqueue_ms) == ("0.500", "0.250", "0.0625")
    assert trt_int8.compute_p99_ms in ("0.312", "0.313")


def test_how_it_was_measured_is_told_for_each_method():
    (host,) = how_measured(make_report())
    assert "by the host's clock" in host
    assert "threads within a call: 1" in host
    assert "1,234 calls of each" in host
    both = how_measured(make_engines())
    assert len(both) == 2
    assert "by events on the GPU, as trtexec" in both[1]
    assert "CUDA graph" not in both[1]
    graphs = tuple(e for e in make_engines().evaluations if e.latency.cuda_graph)
    (device,) = how_measured(replace(make_engines(), evaluations=graphs))
    assert "replayed from a CUDA graph" in device
    assert how_measured(make_unlabelled()) == ()


@given(any_report)
def test_rows_exist_for_any_report(report):
    assert len(rows(report)) == len(report.evaluations)


def test_facts_are_for_people():
    assert facts_from_mapping({"num_samples": 5, "a": None, "b": True, "c": 1 / 3}) == {
        "num samples": "5",
        "a": "–",
        "b": "yes",
        "c": "0.333333",
    }
    assert facts_from_preprocessing(None) == {}
    crop = facts_from_preprocessing(Preprocessing(size=(224, 224), resize="crop", shorter_side=256))
    assert crop["resize"] == "shorter side to 256 px, centre cropped, bilinear"
