from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.notices import plural
from quantkit.reporting.formatting import (
    format_bounds,
    format_count,
    format_difference,
    format_percent,
    format_plus_minus,
    format_score,
    format_significant,
    format_speedup,
    score_unit,
    shorten,
    single_line,
)
from quantkit.types import TOP1, Score

from .reports import HOSTILE
from .samples import ERROR


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
        (0.0000123456, "1.23e-05"),
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
    assert format_difference(value, TOP1) == text


def test_percents_and_speedups():
    assert format_percent(0.81034) == "81.03"
    assert [format_speedup(v) for v in (0.8913, 2.0408, 9.996, 123.4)] == ["0.89", "2.04", "10.0", "123"]


@given(st.text())
def test_names_become_one_printable_line(text):
    assert single_line(text).isprintable()


def test_escape_sequences_and_direction_marks_are_taken_out():
    assert "\x1b" not in single_line(HOSTILE)
    assert "\u202e" not in single_line(HOSTILE)
    assert single_line("a\n  b") == "a b"


def test_scores_are_percent_of_a_share_and_plain_otherwise():
    assert (format_score(0.81034, TOP1), score_unit(TOP1)) == ("81.03", "%")
    assert (format_difference(-0.0012, TOP1), score_unit(TOP1, of_difference=True)) == ("-0.12", "points")
    assert (format_score(4.21349, ERROR), score_unit(ERROR)) == ("4.213", "")
    assert [format_difference(v, ERROR) for v in (0.05, -0.05, 0.0, None)] == ["+0.05", "-0.05", "0", "–"]
    assert format_score(math.nan, TOP1) == "NaN"


@given(st.floats(), st.sampled_from([TOP1, ERROR]))
def test_any_number_is_a_text(value, score):
    assert format_score(value, score)
    assert format_difference(value, score)
    assert len(format_count(value)) < 25


def test_words_for_people():
    assert [plural(n, "class") for n in (1, 2, 1200)] == ["1 class", "2 classes", "1,200 classes"]


@given(st.text(), st.integers(3, 30))
def test_shortened_names_keep_both_ends(text, length):
    whole, short = single_line(text), shorten(text, length)
    assert len(short) <= length
    if short != whole:
        head, tail = short.split("…", 1) if short.count("…") == 1 else (short[:1], short[-1:])
        assert whole.startswith(head)
        assert whole.endswith(tail)


def test_a_difference_has_the_digits_of_its_interval():
    loss = Score("loss", "Loss", is_fraction=False)
    assert format_plus_minus(0.0000113, (-0.0004653, 0.0004879), loss) == "+0.00001 ± 0.00048"
    assert format_plus_minus(0.0000113, (-0.0001, 0.0004879), loss) == "+0.00001 (-0.00010 to +0.00049)"
    assert format_plus_minus(-0.001, (-0.0035, 0.0015), TOP1) == "-0.10 ± 0.25"
    assert format_plus_minus(0.0, (-0.00002, 0.00002), TOP1) == "0.00 ± 0.00"
    assert format_difference(0.0000113, loss, (-0.0004653, 0.0004879)) == "+0.00001"
    assert format_bounds((-1.25e-12, 1.25e-12), loss) == "-1.25e-12 to +1.25e-12"
    assert format_bounds((-1200.4, 800.2), loss) == "-1200 to +800"
    assert format_bounds((-1.7e308, 1.7e308), loss) == "-1.70e+308 to +1.70e+308"
    assert format_plus_minus(1e308, (-1.7e308, 1.7e308), loss).startswith("+1.00e+308 ")
    assert format_plus_minus(1.0, (-math.inf, math.inf), loss) == "+1 (-∞ to ∞)"
