from __future__ import annotations

import re

from hypothesis import given

from quantkit.reporting import report_markdown

from .reports import any_report, make_engines, make_hostile, make_report, make_unlabeled
from .samples import make_classification, make_hostile_everywhere, make_partial


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
    assert [row[0] for row in accuracy[2:]] == ["fp32", "fp16 (expected on TensorRT)", "int8"]
    int8 = dict(zip(accuracy[0], accuracy[4], strict=True))
    assert int8["Top-1, %"] == "80.93"
    assert int8["Difference, points"] == "-0.10 (-0.35 to +0.15)"
    assert int8["SQNR, dB"] == "24.9"
    assert dict(zip(speed[0], speed[3], strict=True))["Speed-up"] == "0.89x (0.87 to 0.91) (not representative)"


def test_what_was_not_measured_has_no_column():
    (accuracy,) = tables(report_markdown(make_unlabeled()))
    assert accuracy[0] == ["Variant", "Agreement, %", "SQNR, dB", "Cosine", "Size, MB", "Ratio"]


def test_hostile_names_make_no_markup():
    text = report_markdown(make_hostile())
    assert "<script" not in re.sub(r"\\.", "", text)
    assert "\x1b" not in text
    for table in tables(text):
        assert len({len(row) for row in table}) == 1


@given(any_report)
def test_tables_of_any_report_are_rectangular(report):
    accuracy, *others = tables(report_markdown(report))
    assert len(accuracy) == 2 + len(report.evaluations)
    for table in (accuracy, *others):
        assert len({len(row) for row in table}) == 1


def test_a_device_s_own_times_are_shown_where_there_are_any():
    text = report_markdown(make_engines())
    for heading in ("Compute", "H2D", "D2H", "Enqueue"):
        assert f"{heading}, ms" in text
    assert "GPU events, as in trtexec" in text
    assert "not comparable across them" in text
    plain = report_markdown(make_report())
    assert "GPU events, as in trtexec" not in plain
    assert "Enqueue, ms" not in plain


def test_everything_is_told():
    text = report_markdown(make_classification())
    for words in (
        "MLPerf 99%: pass (the whole 95% interval meets it). MLPerf 99.9%: inconclusive (",
        "### By batch size",
        "| int8 | 32 | 16.6 (16.4 to 16.7) | 17.9 (17.6 to 18.4) | 21.7 (20.6 to 23.7) | 2.86x (2.82 to 2.92) |",
        "| horse | 1,000 | 61.80 | 58.50 (55.42 to 61.52) | -3.30 |",
        "Broken: fp32 is better; 24 of 57 shown.",
        "| airplane/0137.jpg | airplane | airplane (91%) | bird (48%) |",
        "**int8:** 21 of 24 weighted operators run in INT8.",
        "All 57 activations, in network order",
        "```sh\nquantkit calibrate resnet20\\_cifar10.onnx".replace("\\", ""),
    ):
        assert words in text, words
    assert "data:image" not in text


def test_a_partial_report_is_a_warning_at_the_top():
    assert report_markdown(make_partial()).splitlines()[2:4] == [
        "> [!WARNING]",
        "> **Partial: 200 of 10,000 samples; interrupted.** All results are for these samples only.",
    ]


def test_hostile_commands_cannot_end_their_block():
    text = report_markdown(make_hostile_everywhere())
    block = text[text.index("## Reproduction") : text.index("### Data")]
    assert block.count("````") == 2
    assert "<script" not in re.sub(r"\\.", "", text.replace(block, ""))
