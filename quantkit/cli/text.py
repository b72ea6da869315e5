"""Text and tables for a terminal: what comes from files (names of tensors and nodes) is never markup, never control."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["bytes_text", "count_text", "make_console", "print_line", "print_table", "visible"]

_PIPED_WIDTH = 10_000
"""Columns where nobody looks: a line of a file is cut by nothing, so that grep finds it whole."""


def make_console() -> Console:
    """A console of the terminal's width; piped text is not wrapped."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=_PIPED_WIDTH if piped else None)


def visible(text: str) -> str:
    r"""The text with line breaks, escape sequences and other invisible signs written out: "\x1b[31m"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def print_line(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """One line or, on a narrow terminal, several, all of them indented."""
    table = Table.grid(padding=0)
    table.add_column(width=indent, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("", _text(console, text, style))
    _write(console, table if indent else _text(console, text, style))


def print_table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """A table without frame. Names fold where they do not fit; numbers (the columns `right`) never do."""
    has_heading = any(headings)
    table = Table(box=box.SIMPLE_HEAD if has_heading else None, pad_edge=False, padding=(0, 2, 0, 0))
    table.show_header = has_heading
    for i, heading in enumerate(headings):
        if i in right:
            table.add_column(_text(console, heading, "bold"), justify="right", no_wrap=True)
        else:
            table.add_column(_text(console, heading, "bold"), overflow="fold")
    for row in rows:
        table.add_row(*(_text(console, cell) for cell in row))
    _write(console, table)


def bytes_text(size: int) -> str:
    """1234567 → "1.23 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def count_text(number: int, noun: str) -> str:
    """1, "layer" → "1 layer"; 2 → "2 layers"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _write(console: Console, what: Table | Text) -> None:
    """Prints without the spaces that fill a cell, and without empty lines."""
    with console.capture() as captured:
        console.print(what, soft_wrap=False)
    for line in captured.get().split("\n"):
        if line.strip():
            console.file.write(f"{line.rstrip()}\n")


def _text(console: Console, text: str, style: str = "") -> Text:
    plain = visible(text)
    if console.options.ascii_only:
        plain = plain.replace("→", "->").replace("≤", "<=").encode("ascii", "backslashreplace").decode()
    return Text(plain, style=style)
