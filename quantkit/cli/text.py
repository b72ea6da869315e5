"""Text and tables for a terminal: what comes from files (names of tensors and nodes) is never markup, never control."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantkit.cli.text_columns import Layout
from quantkit.notices import visible

_PIPED_WIDTH = 10_000
"""Columns where nobody looks: a line of a file is cut by nothing, so that grep finds it whole."""


def make_console(*, stderr: bool = False) -> Console:
    """A console of the terminal's width; piped text is not wrapped."""
    piped = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=_PIPED_WIDTH if piped else None)


def print_line(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """One line or, on a narrow terminal, several, all of them indented."""
    if not indent:
        _write(console, _text(console, text, style))
        return
    table = Table.grid(padding=0)
    table.add_column(width=indent, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("", _text(console, text, style))
    _write(console, table)


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    optional: Sequence[int] = (),
) -> frozenset[int]:
    """A table without frame, of which nothing is cut; an empty column is left out.

    Where the terminal is narrower, headings and names fold, numbers (the columns `right`) never do. Where that leaves
    too little for a name, the columns `optional` go, the first of them first; then the first column gets lines of its
    own, above the rest of its row.

    Returns:
        The columns that are there.
    """
    titles = [_plain(console, heading) for heading in headings]
    cells = [[_plain(console, cell) for cell in row] for row in rows]
    table = Layout(titles, cells, right=right, optional=optional, width=console.width)
    for line in table.heading:
        console.print(Text(line, style="bold"), soft_wrap=True)
    if table.heading:
        console.file.write(" " + ("-" if console.options.ascii_only else "─") * (table.width - 1) + "\n")
    console.file.write("".join(f"{line}\n" for line in table.lines() if line))
    return table.columns


def bytes_text(size: int) -> str:
    """1234567 → "1.23 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def _write(console: Console, what: Table | Text) -> None:
    """Prints without the spaces that fill a cell, and without empty lines."""
    with console.capture() as captured:
        console.print(what, soft_wrap=False)
    for line in captured.get().split("\n"):
        if line.strip():
            console.file.write(f"{line.rstrip()}\n")


def _text(console: Console, text: str, style: str = "") -> Text:
    return Text(_plain(console, text), style=style)


def _plain(console: Console, text: str) -> str:
    plain = visible(text)
    if plain.isascii() or not console.options.ascii_only:
        return plain
    return plain.replace("→", "->").replace("≤", "<=").encode("ascii", "backslashreplace").decode()
