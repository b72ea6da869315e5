"""The report on a terminal: two small tables that fit 80 columns, then what to know before using a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantkit.reporting.figures import MISSING, Row, one_line, rows
from quantkit.reporting.verdict import remarks, verdicts
from quantkit.types import Report

__all__ = ["print_report"]

_TONES = {"good": "green", "neutral": "", "bad": "red"}


def print_report(report: Report, console: Console) -> None:
    """Prints the verdicts, accuracy and speed of each variant, and the notes; plain text where it is piped."""
    table = rows(report)
    console.print(_text(console, report.model_name, "bold"))
    for verdict in verdicts(report):
        console.print(_text(console, f"{verdict.headline}.", _TONES[verdict.tone]))
    console.print(_accuracy_table(console, report, table))
    if any(row.median_ms != MISSING for row in table):
        console.print(_speed_table(console, table))
    notes = [*((r, "yellow") for r in remarks(report)), *((w, "yellow") for w in report.warnings)]
    notes += [(f"{e.name}: {note}", "") for e in report.evaluations for note in e.notes]
    if elsewhere := [row.name for row in table if not row.representative and row.median_ms != MISSING]:
        notes.append((f"* {', '.join(elsewhere)}: timed on a device that the variant is not made for", ""))
    for note, style in notes:
        console.print(_text(console, f"- {note}", style))


def _accuracy_table(console: Console, report: Report, table: Sequence[Row]) -> Table:
    joined = [f"{r.difference} ± {r.plus_minus}" if r.plus_minus != MISSING else r.difference for r in table]
    return _table(
        console,
        {
            "": [r.name for r in table],
            "MB": [r.size_mb for r in table],
            "ratio": [r.size_ratio for r in table],
            "top-1 %": [r.top1 for r in table],
            f"vs {one_line(report.baseline.name)}": joined,
            "agree %": [r.agreement for r in table],
            "SQNR dB": [r.sqnr_db for r in table],
        },
    )


def _speed_table(console: Console, table: Sequence[Row]) -> Table:
    return _table(
        console,
        {
            "": [r.name for r in table],
            "median ms": [r.median_ms for r in table],
            "p90": [r.p90_ms for r in table],
            "p99": [r.p99_ms for r in table],
            "compute": [r.compute_ms for r in table],
            "speed-up": [f"{_mark(r)}{r.speedup}" for r in table],
            "samples/s": [r.throughput for r in table],
        },
    )


def _mark(row: Row) -> str:
    return "" if row.representative else "*"


def _table(console: Console, columns: Mapping[str, Sequence[str]]) -> Table:
    """A table of the columns in which something was measured, without frame; names may wrap, numbers never do."""
    shown = {name: cells for name, cells in columns.items() if any(cell.strip("*") != MISSING for cell in cells)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(shown):
        heading = _text(console, name, "bold")
        if i == 0:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*(_text(console, cell) for cell in cells))
    return table


def _text(console: Console, text: str, style: str = "") -> Text:
    """Text that is no markup; on an ASCII terminal, only signs that it can show."""
    plain = one_line(text)
    if console.options.ascii_only:
        for sign, words in {"±": "+/-", "–": "-", "∞": "inf", "×": "x"}.items():
            plain = plain.replace(sign, words)
        plain = plain.encode("ascii", "backslashreplace").decode()
    return Text(plain, style=style)
