from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from rich.console import Console

from quantkit.reporting import print_report

from .reports import any_report, make_engines, make_hostile, make_report, make_unlabeled
from .samples import SAMPLES, make_classification, make_error_score, make_partial


def printed(report, *, encoding="utf-8", **options):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    print_report(report, Console(file=file, **{"width": 80, **options}))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_numbers_stand_in_their_rows_within_80_columns():
    text = printed(make_report())
    assert max(map(len, text.splitlines())) <= 80
    accuracy, speed = (line.split() for line in text.splitlines() if line.strip().startswith("int8  "))
    assert accuracy == ["int8", "80.93", "-0.10", "±", "0.25", "97.48", "97.15", "to", "97.77", "24.9", "0.331"]
    assert speed == ["int8", "4", "0.245", "0.319", "2.04x", "2.00", "to", "2.08", "16,327"]
    assert "int8 is within 1% of fp32" in text
    assert "- fp16: computed by casting" in text
    assert any(line.startswith(" fp16†  ") for line in text.splitlines())
    assert "† fp16: not run on TensorRT" in text
    assert text.count("expected on TensorRT") == 1
    assert "* fp16: latency not representative of the target device" in text


def test_piped_output_is_plain():
    assert "\x1b" not in printed(make_report())
    assert "\x1b" in printed(make_report(), force_terminal=True)


def test_an_ascii_terminal_gets_ascii():
    text = printed(make_report(), encoding="ascii")
    assert "-0.10 +/- 0.25" in text
    assert "fp16^ " in text
    assert "^ fp16: not run on TensorRT" in text
    printed(make_hostile(), encoding="ascii")


def test_what_was_not_measured_is_not_shown():
    text = printed(make_unlabeled())
    assert "Median" not in text
    assert "Top-1" not in text
    assert "97.48" in text


def test_hostile_names_are_shown_and_change_nothing():
    text = printed(make_hostile())
    assert "\x1b" not in text
    assert "[red]" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [40, 80, 200])
@given(any_report)
@settings(max_examples=40)
def test_any_report_prints(width, report):
    printed(report, width=width)


def test_a_device_s_computation_has_a_column():
    assert "Compute" in printed(make_engines())
    assert "Compute" not in printed(make_report())


def test_a_partial_report_says_so_on_its_second_line():
    assert printed(make_partial()).splitlines()[1].strip() == "Partial: 200 of 10,000 samples; interrupted."


def test_the_findings_are_a_line_each():
    text = " ".join(printed(make_classification(), width=400).split())
    assert "int8: 9 of 10 classes worse, 1 better, 0 unchanged. Worst: horse -3.30," in text
    assert "int8: changed samples: 57 broken, 48 fixed, 5 changed." in text
    assert "int8: 21 of 24 weighted operators run in INT8." in text
    assert "int8: lowest local SQNR: /layer3/block0/" in text
    lines = [line.split() for line in printed(make_classification()).splitlines()]
    assert ["int8", "32", "16.6", "21.7", "2.86x", "2.82", "to", "2.92", "1,873"] in lines


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_fit_80_columns(name):
    assert max(map(len, printed(SAMPLES[name]()).splitlines())) <= 80


def test_an_interval_that_lies_askew_is_printed_as_it_is():
    text = printed(of_interval(-0.2157, -0.2422, -0.1982))
    assert "-21.57 (-24.22 to -19.82)" in text
    assert "±" not in text
    assert "-21.57 ± 2.20" in printed(of_interval(-0.2157, -0.2377, -0.1937))


def test_a_long_name_of_a_score_is_broken_between_words():
    report = make_error_score()
    report = replace(report, score=replace(report.score, label="Negative log likelihood"))
    text = printed(report, width=80)
    assert all(word in text for word in ("Negative log", "likelihood"))
    assert "…" not in text


def of_interval(difference, low, high):
    report = make_report()
    fp32, _, int8 = report.evaluations
    metrics = {**int8.metrics, "top1": 0.8103 + difference, "top1_difference_low": low, "top1_difference_high": high}
    return replace(report, evaluations=(fp32, replace(int8, metrics=metrics)))


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80])
def test_a_narrow_terminal_keeps_the_names(width):
    """Columns are left out from the right; no name vanishes and no number is cut."""
    report = make_classification()
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=width))
    lines = buffer.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if line.startswith(" ")]
    for evaluation in report.evaluations:
        assert any(row and row[0].rstrip("*") == evaluation.name for row in rows), evaluation.name
    assert not any("…" in cell for row in rows for cell in row)
