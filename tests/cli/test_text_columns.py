"""Tables on terminals of any width: nothing is cut, and no row is without its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from quantkit.cli.text_columns import Layout, fold

WORDS = st.text(st.sampled_from("abc/_. é世"), max_size=60)
NUMBERS = st.text(st.sampled_from("0123456789."), min_size=1, max_size=12)


def laid_out(rows, width, **options):
    headings = ("tensor", "amax", "when calibrated", "")
    table = Layout(headings, rows, **({"right": (1, 2), "optional": ()} | options), width=width)
    return table, [*table.heading, *table.lines()]


@given(st.lists(st.tuples(WORDS, NUMBERS, NUMBERS, WORDS), min_size=1, max_size=5), st.integers(45, 130))
def test_rows_are_complete_within_the_terminal_width(rows, width):
    table, lines = laid_out(rows, width)
    assert max(map(cell_len, lines)) <= max(width, table.width)
    assert table.width <= width
    said = "".join("".join(lines).split())
    for row in rows:
        assert all(number in said for number in row[1:3])
        assert not set("".join(row[0].split())) - set(said)
    assert table.columns >= {0, 1, 2}


@pytest.mark.parametrize(
    ("width", "columns"),
    [(120, {0, 1, 2, 3}), (70, {0, 1, 2, 3}), (60, {0, 1, 2}), (44, {0, 1, 2, 3}), (24, {0, 1, 2})],
)
def test_narrow_terminals_drop_optional_columns_first(width, columns):
    name = "/features/block.1/conv/Conv_output_0"
    table, lines = laid_out([(name, "3.43799", "1.5", "not read by INT8")], width, optional=(3,))
    assert table.columns == columns
    is_whole = any(line.strip() == name for line in lines)
    assert is_whole == (width == 44)  # above its row; folded in or beside it otherwise
    assert max(map(len, lines)) <= width
    if width == 24:
        assert lines[-1].split() == ["3.43799", "1.5"]


def test_names_break_preferably_between_words():
    assert fold("one two three", 8) == ["one two", "three"]
    assert fold("abcdefgh", 3) == ["abc", "def", "gh"]
    assert fold("世世世", 4) == ["世世", "世"]


@given(WORDS, st.integers(2, 20))
def test_folding_keeps_every_character(text, width):
    lines = fold(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(line) <= width for line in lines)
