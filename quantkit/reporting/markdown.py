"""The report as GitHub-flavoured Markdown, for a pull request or a README."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from quantkit.reporting.figures import (
    DEFINITIONS,
    MISSING,
    Row,
    facts_from_mapping,
    facts_from_preprocessing,
    how_measured,
    one_line,
    rows,
)
from quantkit.reporting.verdict import remarks, verdicts
from quantkit.types import Report

__all__ = ["escape", "report_markdown"]


def report_markdown(report: Report) -> str:
    """Writes a report as Markdown: verdicts, the tables, how it was measured, warnings and definitions.

    Names of files, tensors and variants are escaped: they cannot make markup.
    """
    table = rows(report)
    parts = [f"# Quantization report: {escape(report.model_name)}"]
    parts += [f"**Caution:** {escape(remark)}" for remark in remarks(report)]
    for verdict in verdicts(report):
        parts.append(f"**{escape(verdict.headline)}.** {escape(' '.join(verdict.sentences))}")
    parts += ["## Accuracy and size", _accuracy_table(table)]
    if any(e.latency for e in report.evaluations):
        parts += ["## Speed", _speed_table(table), *map(escape, how_measured(report))]
    notes = [f"{e.name}: {note}" for e in report.evaluations for note in e.notes]
    if notes or report.warnings:
        parts += ["## Notes", _bullets([*report.warnings, *notes])]
    for title, facts in _facts(report).items():
        parts += [f"## {title}", _bullets([f"{name}: {value}" for name, value in facts.items()])]
    if report.skipped:
        left = [f"{name}: {reason}" for name, reason in report.skipped.items()]
        parts += [
            "## Left in float",
            f"<details><summary>{len(left)} tensors or nodes</summary>",
            _bullets(left),
            "</details>",
        ]
    parts += ["## Definitions", _bullets([f"{name}: {words}" for name, words in DEFINITIONS.items()])]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text on one line that cannot make markup: a backslash takes the meaning from any ASCII punctuation."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", one_line(text))


def _accuracy_table(table: Sequence[Row]) -> str:
    columns = {
        "Variant": [r.name for r in table],
        "Size, MB": [r.size_mb for r in table],
        "Ratio": [r.size_ratio for r in table],
        "Top-1, %": [r.top1 for r in table],
        "Top-5, %": [r.top5 for r in table],
        "Difference, points": [r.difference for r in table],
        "95 % interval": [r.interval for r in table],
        "Fixed / broken": [r.flips for r in table],
        "p": [r.p_value for r in table],
        "Agreement, %": [r.agreement for r in table],
        "SQNR, dB": [r.sqnr_db for r in table],
        "Cosine": [r.cosine for r in table],
    }
    return _table(columns)


def _speed_table(table: Sequence[Row]) -> str:
    columns = {
        "Variant": [r.name for r in table],
        "Median, ms": [r.median_ms for r in table],
        "p90, ms": [r.p90_ms for r in table],
        "p99, ms": [r.p99_ms for r in table],
        "Compute, ms": [r.compute_ms for r in table],
        "Compute p99, ms": [r.compute_p99_ms for r in table],
        "H2D, ms": [r.h2d_ms for r in table],
        "D2H, ms": [r.d2h_ms for r in table],
        "Enqueue, ms": [r.enqueue_ms for r in table],
        "Speed-up": [r.speedup if r.representative else f"{r.speedup} (not representative)" for r in table],
        "Samples/s": [r.throughput for r in table],
        "Backend": [r.backend for r in table],
    }
    return _table(columns)


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    """A table of the columns in which something was measured; all but the first are aligned to the right."""
    shown = {name: cells for name, cells in columns.items() if any(cell != MISSING for cell in cells)}
    lines = ["| " + " | ".join(shown) + " |", "|:--" + "|--:" * (len(shown) - 1) + "|"]
    lines += ["| " + " | ".join(escape(cell) for cell in cells) + " |" for cells in zip(*shown.values(), strict=True)]
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


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
