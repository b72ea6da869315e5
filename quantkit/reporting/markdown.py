"""The report as GitHub-flavoured Markdown, for a pull request or a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from quantkit.reporting.changes import ChangeGroup, change_groups
from quantkit.reporting.classes import ClassRow, class_tables
from quantkit.reporting.coverage import ReasonGroup, coverages, left_in_float
from quantkit.reporting.definitions import definitions
from quantkit.reporting.formatting import MISSING, one_line, score_unit
from quantkit.reporting.measurement_setup import facts_from_mapping, facts_from_preprocessing, how_measured
from quantkit.reporting.tensors import TensorRow, tensor_tables
from quantkit.reporting.variants import AccuracyRow, SpeedRow, accuracy_rows, speed_rows, sweep_rows
from quantkit.reporting.verdict import doubts, partial_notice, verdicts
from quantkit.types import Report

__all__ = ["escape", "report_markdown"]


def report_markdown(report: Report) -> str:
    """Writes a report as Markdown: verdicts, the tables, how it was measured, warnings and definitions.

    Names of files, tensors and variants are escaped: they cannot make markup. Pictures are left to the other forms.
    """
    parts = [f"# Quantization report: {escape(report.model_name)}"]
    if notice := partial_notice(report):
        parts.append(f"> [!WARNING]\n> **{escape(notice)}.** Every number here is of these samples alone.")
    parts += [f"**Caution:** {escape(doubt)}" for doubt in doubts(report)]
    for verdict in verdicts(report):
        gates = " ".join(f"MLPerf {gate.name}: {gate.word} ({gate.why})." for gate in verdict.gates)
        parts.append(f"**{escape(verdict.headline)}.** {escape(' '.join([*verdict.sentences, gates]))}".rstrip())
    parts += ["## Accuracy and size", _accuracy_table(report, accuracy_rows(report))]
    parts += _speed(report)
    notes = [f"{e.name}: {note}" for e in report.evaluations for note in e.notes]
    if notes or report.warnings:
        parts += ["## Notes", _bullets([*report.warnings, *notes])]
    parts += [*_classes(report), *_changes(report), *_tensors(report), *_coverage(report)]
    for title, facts in _facts(report).items():
        parts += [f"## {title}", _bullets([f"{name}: {value}" for name, value in facts.items()])]
    if report.commands:
        parts += ["## Commands", _fenced(report.commands)]
    parts += ["## Definitions", _bullets([f"{name}: {words}" for name, words in definitions(report).items()])]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text on one line that cannot make markup: a backslash takes the meaning from any ASCII punctuation."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", one_line(text))


def _accuracy_table(report: Report, table: Sequence[AccuracyRow]) -> str:
    score = report.score
    unit, points = ("", "") if score is None else (score_unit(score), score_unit(score, of_difference=True))
    label = "Score" if score is None else one_line(score.label)
    columns = [
        ("Variant", [r.name for r in table]),
        ("Size, MB", [r.size_mb for r in table]),
        ("Ratio", [r.size_ratio for r in table]),
        (_heading(label, unit), [r.score for r in table]),
        ("Top-5, %", [r.top5 for r in table]),
        (_heading("Difference", points), [r.difference for r in table]),
        ("95 % interval", [r.interval for r in table]),
        ("MLPerf", [r.mlperf for r in table]),
        ("Fixed / broken", [r.flips for r in table]),
        ("p", [r.p_value for r in table]),
        ("Agreement, %", [r.agreement for r in table]),
        ("SQNR, dB", [r.sqnr_db for r in table]),
        ("Cosine", [r.cosine for r in table]),
    ]
    return _table(columns)


def _speed(report: Report) -> list[str]:
    table = speed_rows(report)
    if not table:
        return []
    parts = ["## Speed", _speed_table(table)]
    if sweep := sweep_rows(report):
        parts += ["### By batch size", _sweep_table([row for found in sweep.values() for row in found])]
    return [*parts, *map(escape, how_measured(report))]


def _speed_table(table: Sequence[SpeedRow]) -> str:
    columns = {
        "Variant": [r.name for r in table],
        "Batch": [r.batch_size for r in table],
        "Median, ms": [_with(r.median_ms, r.median_interval) for r in table],
        "p90, ms": [_with(r.p90_ms, r.p90_interval) for r in table],
        "p99, ms": [_with(r.p99_ms, r.p99_interval) for r in table],
        "Compute, ms": [r.compute_ms for r in table],
        "Compute p99, ms": [r.compute_p99_ms for r in table],
        "H2D, ms": [r.h2d_ms for r in table],
        "D2H, ms": [r.d2h_ms for r in table],
        "Enqueue, ms": [r.enqueue_ms for r in table],
        "Speed-up": [_speedup(r) for r in table],
        "Samples/s": [r.throughput for r in table],
        "Backend": [r.backend for r in table],
    }
    return _table(columns.items())


def _sweep_table(table: Sequence[SpeedRow]) -> str:
    columns = {
        "Variant": [r.name for r in table],
        "Batch": [r.batch_size for r in table],
        "Median, ms": [_with(r.median_ms, r.median_interval) for r in table],
        "p99, ms": [_with(r.p99_ms, r.p99_interval) for r in table],
        "Compute, ms": [r.compute_ms for r in table],
        "Speed-up": [_speedup(r) for r in table],
        "Samples/s": [r.throughput for r in table],
    }
    return _table(columns.items())


def _with(value: str, interval: str) -> str:
    return value if interval == MISSING else f"{value} ({interval})"


def _speedup(row: SpeedRow) -> str:
    text = _with(row.speedup, row.speedup_interval)
    return text if row.representative else f"{text} (not representative)"


def _classes(report: Report) -> list[str]:
    tables = class_tables(report)
    if not tables or report.score is None:
        return []
    parts = ["## Classes"]
    for table in tables:
        parts += [f"### {escape(table.variant)}", escape(table.summary)]
        if table.first:
            parts.append(_class_table(report, table.variant, table.first))
        if table.rest:
            parts += _folded(f"{len(table.rest)} more", _class_table(report, table.variant, table.rest))
    return parts


def _class_table(report: Report, variant: str, table: Sequence[ClassRow]) -> str:
    score = report.score
    assert score is not None
    columns = {
        "Class": [r.label for r in table],
        "Count": [r.class_count for r in table],
        _heading(f"Before: {one_line(report.baseline.name)}", score_unit(score)): [r.class_before for r in table],
        _heading(f"After: {variant}", score_unit(score)): [_with(r.class_after, r.class_interval) for r in table],
        _heading("Change", score_unit(score, of_difference=True)): [r.class_change for r in table],
    }
    return _table(columns.items())


def _changes(report: Report) -> list[str]:
    groups = change_groups(report)
    parts = ["## Changed samples"] if groups else []
    for variant, found in groups.items():
        parts.append(f"### {escape(variant)}")
        for group in found:
            parts.append(f"{escape(group.title)}; {group.change_shown} of {group.change_total} shown.")
            if group.first:
                parts.append(_change_table(report, variant, group))
    return parts


def _change_table(report: Report, variant: str, group: ChangeGroup) -> str:
    cards = (*group.first, *group.rest)
    columns = {
        "Sample": [card.sample for card in cards],
        "Truth": [card.truth or MISSING for card in cards],
        f"Before: {one_line(report.baseline.name)}": [card.before for card in cards],
        f"After: {variant}": [card.after for card in cards],
    }
    return _table(columns.items())


def _tensors(report: Report) -> list[str]:
    tables = tensor_tables(report)
    parts = ["## Where the error comes in"] if tables else []
    for table in tables:
        parts += [f"### {escape(table.variant)}", _tensor_table(table.worst or table.all)]
        if len(table.all) > len(table.worst):
            parts += _folded(f"All {len(table.all)} activations, in network order", _tensor_table(table.all))
    return parts


def _tensor_table(table: Sequence[TensorRow]) -> str:
    columns = {
        "Activation": [r.tensor for r in table],
        "Made by": [r.producer for r in table],
        "Place": [r.tensor_position for r in table],
        "Own SQNR, dB": [r.tensor_own_sqnr for r in table],
        "SQNR so far, dB": [r.tensor_sqnr for r in table],
        "amax": [r.tensor_amax for r in table],
        "Seen": [r.tensor_range for r in table],
        "Clipped, %": [r.tensor_clipped for r in table],
    }
    return _table(columns.items())


def _coverage(report: Report) -> list[str]:
    parts = []
    for coverage in coverages(report):
        parts.append(f"**{escape(coverage.variant)}:** {coverage.sentence}.")
        parts += _reasons(coverage.groups)
    if left := left_in_float(report):
        parts += ["### Left in float", *_reasons(left)]
    return ["## What computes on INT8", *parts] if parts else []


def _reasons(groups: Sequence[ReasonGroup]) -> list[str]:
    return [
        part for group in groups for part in _folded(f"{group.reason_count}: {group.reason}", _bullets(group.names))
    ]


def _folded(summary: str, content: str) -> list[str]:
    return [f"<details><summary>{escape(summary)}</summary>", content, "</details>"]


def _heading(text: str, unit: str) -> str:
    return f"{text}, {unit}" if unit else text


def _table(columns: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table of the columns in which something was measured; all but the first are aligned to the right."""
    # The first column names the row: it is there whatever it holds.
    shown = [(name, cells) for i, (name, cells) in enumerate(columns) if i == 0 or set(cells) != {MISSING}]
    names, content = zip(*shown, strict=True)
    lines = ["| " + " | ".join(map(escape, names)) + " |", "|:--" + "|--:" * (len(names) - 1) + "|"]
    lines += ["| " + " | ".join(map(escape, cells)) + " |" for cells in zip(*content, strict=True)]
    return "\n".join(lines)


def _facts(report: Report) -> dict[str, dict[str, str]]:
    sections = {
        "Data": facts_from_mapping(report.dataset),
        "Preprocessing": facts_from_preprocessing(report.preprocessing),
        "Calibration": facts_from_mapping(report.calibration),
        "Environment": facts_from_mapping({**report.environment, **_identity(report)}),
    }
    return {title: facts for title, facts in sections.items() if facts}


def _identity(report: Report) -> dict[str, str]:
    return {"model hash": report.model_hash, **({"created": report.created} if report.created else {})}


def _fenced(commands: Iterable[str]) -> str:
    """A block that no run of backticks within can end."""
    lines = [one_line(command) for command in commands]
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}sh", *lines, fence])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
