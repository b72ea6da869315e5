"""The report as GitHub-flavored Markdown, for a pull request or a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from quantkit.reporting.changes import change_groups
from quantkit.reporting.classes import NUM_CLASSES_SHOWN, class_tables
from quantkit.reporting.column import Column
from quantkit.reporting.columns import TABLES, shown_columns, terms_by_field
from quantkit.reporting.coverage import ReasonGroup, coverage_title, coverages, left_in_float
from quantkit.reporting.decision import decide
from quantkit.reporting.formatting import MISSING, format_significant, single_line
from quantkit.reporting.measurement_setup import how_measured, reproduction_facts
from quantkit.reporting.range_choices import unit_tables
from quantkit.reporting.tensors import tensor_tables
from quantkit.reporting.verdict import doubts, partial_notice, verdicts
from quantkit.types import Report


def report_markdown(report: Report) -> str:
    """Writes a report as Markdown: verdicts, tables, caveats, reproduction and glossary.

    Names of files, tensors and variants are escaped: they cannot make markup. Pictures are left to the other forms.
    """
    parts = [f"# Quantization report: {escape(report.model_name)}"]
    if notice := partial_notice(report):
        parts.append(f"> [!WARNING]\n> **{escape(notice)}.** All results are for these samples only.")
    parts += [f"**Caution:** {escape(doubt)}" for doubt in doubts(report)]
    if (decision := decide(report)) is not None:
        parts.append(f"**{escape(decision.sentence)}**")
    for verdict in verdicts(report):
        gates = " ".join(f"MLPerf {gate.name}: {gate.word} ({gate.why})." for gate in verdict.gates)
        parts.append(f"**{escape(verdict.headline)}.** {escape(' '.join([*verdict.sentences, gates]))}".rstrip())
    notes = [f"{e.name}: {note}" for e in report.evaluations for note in e.notes]
    if notes or report.warnings:
        parts += ["## Caveats", _bullets([*report.warnings, *notes])]
    parts += ["## Accuracy and size", *_whole_table(report, "accuracy"), *_speed(report)]
    parts += [*_classes(report), *_changes(report), *_tensors(report), *_ranges(report), *_coverage(report)]
    parts += ["## Reproduction"]
    if report.commands:
        parts.append(_fenced(report.commands))
    for title, facts in reproduction_facts(report).items():
        parts += [f"### {title}", _bullets([f"{name}: {value}" for name, value in facts.items()])]
    glossary = {term.name: term.definition for term in terms_by_field(report).values()}
    parts += ["## Glossary", _bullets([f"{name}: {words}" for name, words in glossary.items()])]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text on one line that cannot make markup: a backslash takes the meaning from any ASCII punctuation."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", single_line(text))


def _whole_table(report: Report, name: str, heading: str = "") -> list[str]:
    """A table of all its rows below its heading; nothing where there is nothing but names."""
    rows = TABLES[name].rows(report)
    columns = shown_columns(name, rows, report, "markdown") if rows else ()
    return [*([heading] if heading else []), _table(columns, rows)] if len(columns) > 1 else []


def _speed(report: Report) -> list[str]:
    parts = _whole_table(report, "speed", "## Speed")
    parts += _whole_table(report, "query", "### Within a query") + _whole_table(report, "sweep", "### By batch size")
    return [*parts, *map(escape, how_measured(report))]


def _classes(report: Report) -> list[str]:
    parts = ["## Classes"] if (tables := class_tables(report)) else []
    for table in tables:
        parts += [f"### {escape(table.variant)}", escape(table.summary or "No class changed.")]
        columns = shown_columns("classes", table.rows, report, "markdown", variant=table.variant)
        first, rest = table.rows[:NUM_CLASSES_SHOWN], table.rows[NUM_CLASSES_SHOWN:]
        parts += [_table(columns, first)] if first else []
        parts += _folded(f"{len(rest)} more", _table(columns, rest)) if rest else []
    return parts


def _changes(report: Report) -> list[str]:
    parts = ["## Changed samples"] if (groups := change_groups(report)) else []
    for variant, found in groups.items():
        parts.append(f"### {escape(variant)}")
        for group in found:
            parts.append(f"{escape(group.title)}; {group.change_shown} of {group.change_total} shown.")
            columns = shown_columns("changes", group.cards, report, "markdown", variant=variant)
            parts += [_table(columns, group.cards)] if group.cards else []
    return parts


def _tensors(report: Report) -> list[str]:
    parts = ["## Layer-wise error"] if (tables := tensor_tables(report)) else []
    for table in tables:
        columns = shown_columns("tensors", table.all, report, "markdown")
        parts += [f"### {escape(table.variant)}", _table(columns, table.worst or table.all)]
        if len(table.all) > len(table.worst):
            parts += _folded(f"All {len(table.all)} activations, in network order", _table(columns, table.all))
    return parts


def _ranges(report: Report) -> list[str]:
    parts = _whole_table(report, "methods", "### Method of each range")
    parts += _whole_table(report, "float_tensors", "### Left in float for accuracy")
    if report.plan is not None:
        parts += [*_whole_table(report, "choices", "### Choices of tune"), escape(f"{report.plan.explanation}.")]
    found = report.sensitivity
    for table in unit_tables(report) if found is not None else ():
        columns = shown_columns("sensitivity", table.rows, report, "markdown")
        total = "" if found is None else f"All of these in INT8: {found.measure} {format_significant(found.damage)}"
        parts += [f"### Sensitivity: {table.title.lower()}", escape(total), _table(columns, table.worst)]
        if len(table.rows) > len(table.worst):
            parts += _folded(f"All {len(table.rows)}", _table(columns, table.rows))
    return ["## Ranges and sensitivity", *parts] if parts else []


def _coverage(report: Report) -> list[str]:
    parts = []
    for coverage in coverages(report):
        columns = shown_columns("coverage", coverage.rows, report, "markdown")
        parts += [f"**{escape(coverage.variant)}:** {coverage.sentence}.", _table(columns, coverage.rows)]
        parts += _reasons(coverage.groups)
    if left := left_in_float(report):
        parts += ["### Kept in float", *_reasons(left)]
    return [f"## {coverage_title(report)}", *parts] if parts else []


def _reasons(groups: Sequence[ReasonGroup]) -> list[str]:
    return [
        part for group in groups for part in _folded(f"{group.reason_count}: {group.reason}", _bullets(group.names))
    ]


def _folded(summary: str, content: str) -> list[str]:
    return [f"<details><summary>{escape(summary)}</summary>", content, "</details>"]


def _table(columns: Sequence[Column[Any]], rows: Sequence[Any]) -> str:
    headings = [f"{column.heading}, {column.unit}" if column.unit else column.heading for column in columns]
    lines = ["| " + " | ".join(map(escape, headings)) + " |"]
    lines.append("|" + "|".join(":--" if column.align == "left" else "--:" for column in columns) + "|")
    lines += ["| " + " | ".join(escape(_cell(column, row)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(column: Column[Any], row: Any) -> str:
    """The value, its interval in parentheses, whether a speed-up is not representative and a variant has not run."""
    text = column.text(row)
    if column.field == "measured_variant":
        return f"{text} ({row.expected})" if row.expected else text
    interval = column.interval.text(row) if column.interval else MISSING
    text = text if interval == MISSING else f"{text} ({interval})"
    is_elsewhere = column.field == "speedup" and text != MISSING and not row.representative
    return f"{text} (not representative)" if is_elsewhere else text


def _fenced(commands: Iterable[str]) -> str:
    """A block that no run of backticks within can end."""
    lines = [single_line(command) for command in commands]
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}sh", *lines, fence])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
