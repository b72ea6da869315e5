"""Where JSON is broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.calibration.json_text import decode_json
from quantkit.errors import CalibrationError

VALUE = {"format": "x", "list": [1, 2.5, True, None], "text": "é\n", "inner": {"a": {"b": False}}}
TEXT = json.dumps(VALUE, indent=1, ensure_ascii=False)


@pytest.mark.parametrize("size", range(1, len(TEXT.encode())))
def test_cut_anywhere_is_said_to_be_cut(size):
    content = TEXT.encode()[:size]
    with pytest.raises(CalibrationError, match=r"^f is cut short after") as error:
        decode_json(content, name="f", kind="a thing")
    line = content.count(b"\n") + 1
    assert f"line {line}" in str(error.value) or f"line {line - 1}" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f is not a thing: it is empty"),
        (b" \n", "f is not a thing: it is empty"),
        (b'{\n"a": \xff}', "f is not a thing: line 2 (byte 7) is not UTF-8 text"),
        (b'{"a" 1}', "f is not a thing: line 1, column 6: Expecting ':' delimiter"),
        (b'{"a": 1}}', "f is not a thing: line 1, column 9: Extra data"),
        (b'{"a": "b\nc"}', "f is not a thing: line 1, column 9: Invalid control character at"),
        (b"1" * 5000, "f is not a thing: Exceeds the limit"),
        (b"[" * 100_000, "f is "),
    ],
)
def test_what_is_wrong_and_where(content, message):
    with pytest.raises(CalibrationError) as error:
        decode_json(content, name="f", kind="a thing")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert decode_json(b"\xef\xbb\xbf[1]", name="f", kind="a thing") == [1]


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_one_line(content):
    try:
        decode_json(content, name="f", kind="a thing")
    except CalibrationError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("depth", [99, 100, 101, 500, 985, 990, 995, 2000])
def test_deep_nesting_is_refused(depth):
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        content = opening * depth + b"1" + closing * depth
        if depth < 100:
            decode_json(content, name="f", kind="a thing")
        else:
            with pytest.raises(
                CalibrationError, match=r"f is not a thing: (it is nested more than 100 deep|maximum rec)"
            ):
                decode_json(content, name="f", kind="a thing")
