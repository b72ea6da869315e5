"""The report on a terminal: small tables that fit 80 columns, then what to know before using a number."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantkit.notices import plural
from quantkit.reporting.changes import change_groups
from quantkit.reporting.classes import class_tables
from quantkit.reporting.column import Column
from quantkit.reporting.columns import TABLES, shown_columns
from quantkit.reporting.coverage import coverages
from quantkit.reporting.decision import decide, is_expected
from quantkit.reporting.formatting import (
    MISSING,
    format_decibels,
    format_difference,
    format_significant,
    score_unit,
    shorten,
    single_line,
)
from quantkit.reporting.range_choices import float_tensor_rows, method_rows, unit_tables
from quantkit.reporting.tensors import tensor_tables
from quantkit.reporting.variants import Variant, sweep_rows
from quantkit.reporting.verdict import doubts, partial_notice, verdicts
from quantkit.types import Report

_DECISIONS = {"ship": "bold green", "do not ship": "bold red", "not settled": "bold"}

_TONES = {"good": "green", "neutral": "", "bad": "red"}

_NUM_NAMED = 3
"""Classes and tensors that a terminal names; the files name all."""

_HEADING_WIDTH, _MOST_LINES = 12, 4
"""Characters of a line of a heading, and its lines, at most."""

_NAME_WIDTH, _GAP = 12, 3
"""Characters that a variant's name gets at least, and those between two columns."""


def print_report(report: Report, console: Console, *, quiet: bool = False) -> None:
    """Prints the verdicts, accuracy and speed of each variant, and the caveats; plain text where it is piped.

    If `quiet`, the verdicts and what must be read with any number, without tables.
    """
    console.print(_text(console, f"{report.model_name}: {plural(report.baseline.num_samples, 'sample')}", "bold"))
    if notice := partial_notice(report):
        console.print(_text(console, f"{notice}.", "bold white on red"))
    if (decision := decide(report)) is not None:
        console.print(_text(console, decision.sentence, _DECISIONS[decision.word]))
    for verdict in verdicts(report):
        console.print(_text(console, f"{verdict.headline}.", _TONES[verdict.tone]))
    if quiet:
        for caveat in doubts(report):
            console.print(_text(console, f"- {caveat}", "yellow"))
        return
    for name in ("accuracy", "sweep" if sweep_rows(report) else "speed"):
        rows: Sequence[Variant] = TABLES[name].rows(report)
        if rows:
            console.print(_table(console, shown_columns(name, rows, report, "terminal"), rows))
    for line in _findings(report):
        console.print(_text(console, line))
    for note, style in _notes(report):
        console.print(_text(console, f"- {note}", style))


def _notes(report: Report) -> Iterator[tuple[str, str]]:
    """Each caveat with its style."""
    for caveat in (*doubts(report), *report.warnings):
        yield caveat, "yellow"
    for e in report.evaluations:
        for note in e.notes:
            yield f"{e.name}: {note}", ""
    if expected := [single_line(e.name) for e in report.evaluations if is_expected(report, e)]:
        yield f"† {', '.join(expected)}: not run on TensorRT", ""
    if elsewhere := [single_line(e.name) for e in report.evaluations if e.latency and not e.representative]:
        yield f"* {', '.join(elsewhere)}: latency not representative of the target device", ""


def _findings(report: Report) -> Iterator[str]:
    """What the files show at length: a line for each variant and subject."""
    for table in class_tables(report):
        worst = [row for row in table.rows if row.gain < 0][:_NUM_NAMED]
        named = [
            f"{row.label} {format_difference(row.after - row.before, row.score)}"
            for row in worst
            if row.before is not None and row.after is not None
        ]
        if table.summary:
            unit = f" {score_unit(worst[0].score, of_difference=True)}".rstrip() if named else ""
            yield f"{table.variant}: {table.summary}" + (f" Worst: {', '.join(named)}{unit}." if named else "")
    for variant, groups in change_groups(report).items():
        counts = ", ".join(f"{group.change_total} {group.kind}" for group in groups)
        yield f"{variant}: changed samples: {counts}."
    for coverage in coverages(report):
        yield f"{coverage.variant}: {coverage.sentence}."
    if methods := ", ".join(f"{row.method} {row.num_tensors}" for row in method_rows(report)):
        yield f"Ranges by method: {methods}."
    if rows := float_tensor_rows(report):
        listed = "; ".join(f"{shorten(row.tensor, 44)} ({row.reason})" for row in rows[:_NUM_NAMED])
        more = f"; and {len(rows) - _NUM_NAMED} more" if len(rows) > _NUM_NAMED else ""
        yield f"Left in float for accuracy in INT8 for TensorRT: {listed}{more}."
    for units in unit_tables(report):
        worst_units = [f"{shorten(r.name, 44)} {format_significant(r.unit.damage)}" for r in units.rows[:_NUM_NAMED]]
        yield f"Most sensitive {units.title.lower()}: {', '.join(worst_units)}."
    for tensors in tensor_tables(report):
        lowest = [(row.name, row.quality.own_sqnr_db) for row in tensors.worst if row.quality.own_sqnr_db is not None]
        if shown := ", ".join(f"{shorten(name, 44)} {format_decibels(db)} dB" for name, db in lowest[:_NUM_NAMED]):
            yield f"{tensors.variant}: lowest local SQNR: {shown}."


def _table(console: Console, columns: Sequence[Column[Variant]], rows: Sequence[Variant]) -> Table:
    """A table without frame; names may wrap, numbers never do.

    On a narrow terminal the last columns are left out rather than the names.
    """
    headings = [_heading(column) for column in columns]
    cells = [[_cell(column, row) for row in rows] for column in columns]
    widths = [max(map(cell_len, (*lines, *texts))) for lines, texts in zip(headings, cells, strict=True)]
    count = len(columns)
    while count > 2 and min(_NAME_WIDTH, widths[0]) + sum(w + _GAP for w in widths[1:count]) > console.width - 2:
        count -= 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column, lines in zip(columns[:count], headings, strict=False):
        heading = Text("\n").join(_text(console, line, "bold") for line in lines)
        if column is columns[0]:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify=column.align, no_wrap=True)
    for texts in zip(*cells[:count], strict=True):
        table.add_row(*(_text(console, text) for text in texts))
    return table


def _heading(column: Column[Variant]) -> list[str]:
    """Lines of at most 12 characters, broken between words where that is possible; the unit on a line of its own."""
    lines = textwrap.wrap(column.heading, _HEADING_WIDTH, break_long_words=False) or [""]
    shown = [shorten(line, _HEADING_WIDTH) for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        shown[-1] += "…"
    return [*shown, column.unit] if column.unit else shown


def _cell(column: Column[Variant], row: Variant) -> str:
    text = column.text(row)
    if column.field == "measured_variant":
        return f"{text}†" if row.expected else text
    is_marked = column.field == "speedup" and not row.representative and text != MISSING
    return f"*{text}" if is_marked else text


def _text(console: Console, text: str, style: str = "") -> Text:
    """Text that is no markup; on an ASCII terminal, only characters that it can show."""
    plain = single_line(text)
    if console.options.ascii_only:
        for character, words in {"±": "+/-", "–": "-", "∞": "inf", "×": "x", "…": "...", "†": "^"}.items():
            plain = plain.replace(character, words)
        plain = plain.encode("ascii", "backslashreplace").decode()
    return Text(plain, style=style)
