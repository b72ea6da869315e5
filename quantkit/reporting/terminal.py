"""The report on a terminal: small tables that fit 80 columns, then what to know before using a number."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantkit.reporting.changes import change_groups
from quantkit.reporting.classes import class_tables
from quantkit.reporting.coverage import coverages
from quantkit.reporting.formatting import MISSING, one_line, score_unit, shorten
from quantkit.reporting.tensors import tensor_tables
from quantkit.reporting.variants import AccuracyRow, SpeedRow, accuracy_rows, speed_rows, sweep_rows
from quantkit.reporting.verdict import doubts, partial_notice, verdicts
from quantkit.types import Report

__all__ = ["print_report"]

_TONES = {"good": "green", "neutral": "", "bad": "red"}

_MOST_LINES = 4
"""Of a heading."""

_NUM_NAMED = 3
"""Classes and tensors that a terminal names; the files name all."""


_NAME_ROOM, _GAP = 12, 3
"""Characters that a variant's name gets at least, and those between two columns."""


def print_report(report: Report, console: Console) -> None:
    """Prints the verdicts, accuracy and speed of each variant, and the notes; plain text where it is piped."""
    speeds = speed_rows(report)
    console.print(_text(console, report.model_name, "bold"))
    if notice := partial_notice(report):
        console.print(_text(console, f"{notice}.", "bold white on red"))
    for verdict in verdicts(report):
        console.print(_text(console, f"{verdict.headline}.", _TONES[verdict.tone]))
    console.print(_accuracy_table(console, report, accuracy_rows(report)))
    if sweep := sweep_rows(report):
        console.print(_speed_table(console, [row for found in sweep.values() for row in found], with_batch=True))
    elif speeds:
        console.print(_speed_table(console, speeds, with_batch=False))
    for line in _findings(report):
        console.print(_text(console, line))
    notes = [*((r, "yellow") for r in doubts(report)), *((w, "yellow") for w in report.warnings)]
    notes += [(f"{e.name}: {note}", "") for e in report.evaluations for note in e.notes]
    if elsewhere := [row.name for row in speeds if not row.representative and row.median_ms != MISSING]:
        notes.append((f"* {', '.join(elsewhere)}: timed on a device that the variant is not made for", ""))
    for note, style in notes:
        console.print(_text(console, f"- {note}", style))


def _accuracy_table(console: Console, report: Report, table: Sequence[AccuracyRow]) -> Table:
    score = report.score
    label = "score" if score is None else f"{_broken(score.label)} {score_unit(score)}".strip()
    return _table(
        console,
        {
            "": [r.name for r in table],
            "MB": [r.size_mb for r in table],
            "ratio": [r.size_ratio for r in table],
            label: [r.score for r in table],
            f"vs {shorten(report.baseline.name, 14)}": [r.with_interval for r in table],
            "agree %": [r.agreement for r in table],
            "SQNR dB": [r.sqnr_db for r in table],
        },
    )


def _broken(label: str) -> str:
    """A heading in lines of at most 12 characters, between words where that is possible."""
    lines = textwrap.wrap(one_line(label), 12, break_long_words=False) or [""]
    shown = [shorten(line, 12) for line in lines[:_MOST_LINES]]
    return "\n".join([*shown[:-1], f"{shown[-1]}…"] if len(lines) > _MOST_LINES else shown)


def _speed_table(console: Console, table: Sequence[SpeedRow], *, with_batch: bool) -> Table:
    return _table(
        console,
        {
            "": [r.name for r in table],
            **({"batch": [r.batch_size for r in table]} if with_batch else {}),
            "median ms": [r.median_ms for r in table],
            "p90": [r.p90_ms for r in table],
            "p99": [r.p99_ms for r in table],
            "compute": [r.compute_ms for r in table],
            "speed-up": [_speedup(r) for r in table],
            "samples/s": [r.throughput for r in table],
        },
    )


def _speedup(row: SpeedRow) -> str:
    return row.speedup if row.representative else f"*{row.speedup}"


def _findings(report: Report) -> Iterator[str]:
    """What the files show at length: a line for each variant and subject."""
    for table in class_tables(report):
        lost = [f"{row.label} {row.class_change}" for row in table.first if row.gain < 0][:_NUM_NAMED]
        worst = f" Most: {', '.join(lost)}." if lost else ""
        yield f"{table.variant}: {table.summary}{worst}"
    for variant, groups in change_groups(report).items():
        counts = ", ".join(f"{group.change_total} {group.kind}" for group in groups)
        yield f"{variant}: changed samples: {counts}."
    for coverage in coverages(report):
        yield f"{coverage.variant}: {coverage.sentence}."
    for tensors in tensor_tables(report):
        named = [f"{shorten(row.tensor, 44)} {row.tensor_own_sqnr} dB" for row in tensors.worst[:_NUM_NAMED]]
        if named:
            yield f"{tensors.variant}: lowest own SQNR: {', '.join(named)}."


def _table(console: Console, columns: Mapping[str, Sequence[str]]) -> Table:
    """A table of the columns in which something was measured, without frame; names may wrap, numbers never do.

    On a narrow terminal the last columns are left out rather than the names.
    """
    shown = {name: cells for name, cells in columns.items() if any(cell.strip("*") != MISSING for cell in cells)}
    widths = [
        max(cell_len(part) for text in (name, *cells) for part in text.split("\n")) for name, cells in shown.items()
    ]
    room = min(_NAME_ROOM, widths[0])
    while len(shown) > 2 and room + sum(width + _GAP for width in widths[1:]) > console.width - 2:
        shown.popitem()
        widths.pop()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(shown):
        heading = Text("\n").join(_text(console, line, "bold") for line in name.split("\n"))
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
        for sign, words in {"±": "+/-", "–": "-", "∞": "inf", "×": "x", "…": "..."}.items():
            plain = plain.replace(sign, words)
        plain = plain.encode("ascii", "backslashreplace").decode()
    return Text(plain, style=style)
