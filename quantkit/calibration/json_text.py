"""JSON of files that people edit and disks cut short: what is wrong, and in which line and byte."""

from __future__ import annotations

import json
from typing import Any

from quantkit.errors import CalibrationError, NewerFormatError

_DEEPEST = 100
"""Levels: what reads the result may recurse. No format here has ten."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def decode_json(content: bytes, *, name: str, kind: str, fix: str = "") -> Any:
    """The decoded JSON of a file.

    Args:
        content: all of the file.
        name: of the file, for the message.
        kind: what the file should be, with its article: "a calibration table".
        fix: what to do about a file that is cut short.

    Raises:
        CalibrationError: one line: the file is cut short, or is no JSON, and where.
    """
    then = f": {fix}" if fix else ""
    if content.startswith(_UTF_16):
        raise CalibrationError(
            f"{name} is not {kind}: it is UTF-16 text, as written by > in PowerShell: save it as UTF-8"
        )
    if not content.strip():
        raise CalibrationError(f"{name} is not {kind}: it is empty")
    try:
        data = json.loads(content.decode("utf-8-sig"))
        if _is_deeper(data, _DEEPEST):
            raise CalibrationError(f"{name} is not {kind}: it is nested more than {_DEEPEST} deep")
        if b"\\u" in content:  # half a surrogate pair is valid JSON, and no character that can be written
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except UnicodeEncodeError as error:
        raise CalibrationError(
            f"{name} is not {kind}: {error.object[error.start]!a} in it is not a character"
        ) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if error.reason == "unexpected end of data":
            raise CalibrationError(f"{name} is cut short after {len(content)} bytes, in line {line}{then}") from error
        raise CalibrationError(f"{name} is not {kind}: line {line} (byte {error.start}) is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if _ends_early(error):
            raise CalibrationError(f"{name} is cut short after {len(content)} bytes, in {place}{then}") from error
        raise CalibrationError(f"{name} is not {kind}: {place}: {error.msg}") from error
    except RecursionError as error:
        raise CalibrationError(f"{name} is not {kind}: it is nested more than {_DEEPEST} deep") from error
    except ValueError as error:
        raise CalibrationError(f"{name} is not {kind}: {str(error)[:200]}") from error


def check_format(data: Any, *, name: str, kind: str, written: tuple[str, int], fix: str) -> dict[str, Any]:
    """The members of a file of ours, if it says the format and the version that this quantkit writes.

    Args:
        data: decoded.
        name: of the file, for the message.
        kind: what it should be, with its article.
        written: format and version.
        fix: what makes a new file.

    Raises:
        CalibrationError: one line that says what it is instead.
    """
    known, newest = written
    if not isinstance(data, dict) or data.get("format") != known:
        raise CalibrationError(f"{name} is not {kind}: it does not say format {known!r}")
    if (version := data.get("format_version")) != newest:
        raise wrong_version(name, version, newest, fix=fix)
    return data


def wrong_version(name: str, version: object, newest: int, *, fix: str) -> CalibrationError:
    """What to raise for a file of another format version than this quantkit reads."""
    text = f"{name} has format version {version!r}, this quantkit reads version {newest}"
    if isinstance(version, int) and not isinstance(version, bool) and version > newest:
        return NewerFormatError(f"{text}: upgrade quantkit")
    return CalibrationError(f"{text}: {fix}")


def _is_deeper(data: Any, depth: int) -> bool:
    level = [data]
    for _ in range(depth):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def _ends_early(error: json.JSONDecodeError) -> bool:
    """Whether the text ended where more had to come: at its end, in a text, or in a word or number."""
    if error.msg == "Extra data":
        return False
    text = error.doc.rstrip()
    rest = text[error.pos :]
    in_word = len(rest) < len("false") and not rest.endswith(("}", "]"))
    return in_word or error.msg.startswith("Unterminated string")
