"""A report in every form: JSON for programs, Markdown for a pull request, HTML for people, tables for the terminal."""

from __future__ import annotations

import os
from pathlib import Path

from quantkit.reporting.html import report_html
from quantkit.reporting.json import load_report, report_json
from quantkit.reporting.junit import gate_json, gate_junit, gate_markdown
from quantkit.reporting.markdown import report_markdown
from quantkit.reporting.terminal import print_report
from quantkit.reporting.verdict import cautions, remarks
from quantkit.storage import write_text
from quantkit.types import Report

__all__ = [
    "cautions",
    "gate_json",
    "gate_junit",
    "gate_markdown",
    "load_report",
    "print_report",
    "remarks",
    "report_html",
    "report_json",
    "report_markdown",
    "write_report",
]


def write_report(report: Report, folder: str | os.PathLike[str], *, stem: str = "report") -> dict[str, Path]:
    """Writes report.json, report.md and report.html (or of another stem) to `folder`, each whole or not at all.

    Returns:
        "json", "markdown" and "html" → path.

    Raises:
        OutputError: a file cannot be written.
        EvaluationError: the report cannot be written as JSON.
    """
    texts = {
        "json": (f"{stem}.json", report_json(report)),
        "markdown": (f"{stem}.md", report_markdown(report)),
        "html": (f"{stem}.html", report_html(report)),
    }
    paths = {}
    for form, (name, text) in texts.items():
        paths[form] = Path(folder) / name
        write_text(paths[form], text)
    return paths
