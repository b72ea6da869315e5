from __future__ import annotations

import re

from hypothesis import given

from quantkit.reporting import report_markdown

from .reports import any_report, make_engines, make_hostile, make_report, make_unlabelled


def tables(text):
    """Each table as rows of cells, split at the bars that are not escaped."""
    found, current = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            current.append([cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]])
        elif current:
            found.append(current)
            current = []
    return found


def test_tables_are_rectangular_and_hold_the_numbers():
    accuracy, speed = tables(report_markdown(make_report()))
    for table in (accuracy, speed):
        assert len(table) == 2 + 3
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch(r":--|--:", cell) for cell in table[1])
    int8 = dict(zip(accuracy[0], accuracy[4], strict=True))
    assert int8["Top-1, %"] == "80.93"
    assert int8["Difference, points"] == "-0.10"
    assert int8["SQNR, dB"] == "24.9"
    assert dict(zip(speed[0], speed[3], strict=True))["Speed-up"] == "0.89x (not representative)"


def test_what_was_not_measured_has_no_column():
    (accuracy,) = tables(report_markdown(make_unlabelled()))
    assert accuracy[0] == ["Variant", "Size, MB", "Ratio", "Agreement, %", "SQNR, dB", "Cosine"]


def test_hostile_names_make_no_markup():
    text = report_markdown(make_hostile())
    assert "<script" not in re.sub(r"\\.", "", text)
    assert "\x1b" not in text
    for table in tables(text):
        assert len({len(row) for row in table}) == 1


@given(any_report)
def test_tables_of_any_report_are_rectangular(report):
    for table in tables(report_markdown(report)):
        assert len({len(row) for row in table}) == 1
        assert len(table) == 2 + len(report.evaluations)


def test_a_device_s_own_times_are_shown_where_there_are_any():
    text = report_markdown(make_engines())
    for heading in ("Compute", "H2D", "D2H", "Enqueue"):
        assert f"{heading}, ms" in text
    assert "by events on the GPU" in text
    assert "not comparable between them" in text
    plain = report_markdown(make_report())
    assert "by events on the GPU" not in plain
    assert "Enqueue, ms" not in plain
