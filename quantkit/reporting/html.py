"""The report as one HTML file that needs nothing else: no network, no script, light and dark, screen and paper."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from quantkit.reporting.chart import make_chart
from quantkit.reporting.figures import (
    DEFINITIONS,
    MISSING,
    Row,
    facts_from_mapping,
    facts_from_preprocessing,
    format_significant,
    how_measured,
    one_line,
    rows,
)
from quantkit.reporting.verdict import remarks, verdicts
from quantkit.types import Report

if TYPE_CHECKING:
    import jinja2

__all__ = ["report_html"]

_COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("size_mb", "Size", "MB", "File"),
    ("size_ratio", "Ratio", "", "File"),
    ("top1", "Top-1", "%", "Accuracy"),
    ("top5", "Top-5", "%", "Accuracy"),
    ("difference", "Difference", "points", "Accuracy"),
    ("interval", "95 % interval", "points", "Accuracy"),
    ("flips", "Fixed / broken", "", "Accuracy"),
    ("p_value", "p", "", "Accuracy"),
    ("agreement", "Agreement", "%", "Fidelity"),
    ("sqnr_db", "SQNR", "dB", "Fidelity"),
    ("cosine", "Cosine", "", "Fidelity"),
    ("median_ms", "Median", "ms", "Speed"),
    ("p90_ms", "p90", "ms", "Speed"),
    ("p99_ms", "p99", "ms", "Speed"),
    ("compute_ms", "Compute", "ms", "Speed"),
    ("compute_p99_ms", "Compute p99", "ms", "Speed"),
    ("h2d_ms", "H2D", "ms", "Speed"),
    ("d2h_ms", "D2H", "ms", "Speed"),
    ("enqueue_ms", "Enqueue", "ms", "Speed"),
    ("speedup", "Speed-up", "", "Speed"),
    ("throughput", "Throughput", "samples/s", "Speed"),
)
"""Field of `Row`, heading, unit, table."""

_CAPTIONS = {
    "Accuracy": "Accuracy and size. Differences are to the first row, on the same samples.",
    "Speed": "Latency of one call and throughput. A speed-up is to the first variant of the same backend.",
}


def report_html(report: Report) -> str:
    """Writes a report as a self-contained HTML page; everything that comes from outside is escaped."""
    table = rows(report)
    judged = verdicts(report)
    return _load_template().render(
        model_name=one_line(report.model_name),
        model_hash=one_line(report.model_hash),
        created=one_line(report.created),
        lead=judged[0] if judged else None,
        others=judged[1:],
        remarks=remarks(report),
        rows=table,
        tables=_tables(table),
        metrics=_all_metrics(report),
        chart=make_chart(report),
        how_measured=how_measured(report),
        notes=[(one_line(e.name), one_line(note)) for e in report.evaluations for note in e.notes],
        warnings=[one_line(warning) for warning in report.warnings],
        facts={
            "Data": facts_from_mapping(report.dataset),
            "Preprocessing": facts_from_preprocessing(report.preprocessing),
            "Calibration": facts_from_mapping(report.calibration),
            "Environment": facts_from_mapping(report.environment),
        },
        skipped={one_line(name): one_line(reason) for name, reason in report.skipped.items()},
        definitions=DEFINITIONS,
    )


@cache
def _load_template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["typographic"] = _typographic
    return environment.from_string(
        files("quantkit.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )


def _tables(table: tuple[Row, ...]) -> list[dict[str, object]]:
    """Two tables, accuracy with size and speed, of the columns in which something was measured."""
    groups = {"Accuracy": ("Accuracy", "Fidelity", "File"), "Speed": ("Speed",)}
    result: list[dict[str, object]] = []
    for title, members in groups.items():
        columns = [
            (field, heading, unit)
            for member in members
            for field, heading, unit, group in _COLUMNS
            if group == member and any(getattr(row, field) != MISSING for row in table)
        ]
        if columns:
            result.append({"title": title, "caption": _CAPTIONS[title], "columns": columns})
    return result


def _all_metrics(report: Report) -> dict[str, list[str]]:
    """Every metric by name, a cell for each variant: also those that have no column, such as one output's own SQNR."""
    names = dict.fromkeys(name for evaluation in report.evaluations for name in evaluation.metrics)
    return {one_line(name): [format_significant(e.metrics.get(name), 6) for e in report.evaluations] for name in names}


def _typographic(text: str) -> str:
    """A real minus and a real times sign, which line up with tabular digits; only at numbers, never within names."""
    text = re.sub(r"(?<![\w.)\]-])-(?=[\d∞])", "−", text)
    return re.sub(r"(?<![\w.-])(\d+(?:\.\d+)?)x(?![\w-])", r"\1×", text)
