"""The report as one HTML file that needs nothing else: no network, no script, light and dark, screen and paper."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import jinja2

from quantkit.reporting.changes import change_groups
from quantkit.reporting.chart import make_charts, make_throughput_charts
from quantkit.reporting.classes import class_tables
from quantkit.reporting.coverage import coverages, left_in_float
from quantkit.reporting.definitions import definitions, term_of
from quantkit.reporting.forest_plot import make_forest
from quantkit.reporting.formatting import MISSING, format_significant, one_line, score_unit
from quantkit.reporting.measurement_setup import facts_from_mapping, facts_from_preprocessing, how_measured
from quantkit.reporting.tensors import tensor_tables
from quantkit.reporting.variants import AccuracyRow, SpeedRow, accuracy_rows, speed_rows, sweep_rows
from quantkit.reporting.verdict import Verdict, doubts, partial_notice, verdicts
from quantkit.types import Report

__all__ = ["report_html"]

COUNTED = {"classify": "Samples", "detect": "Objects", "segment": "Pixels"}
"""What a class is counted in, by task."""

_INTERVALS = {
    "difference": "interval",
    "median_ms": "median_interval",
    "p90_ms": "p90_interval",
    "p99_ms": "p99_interval",
    "speedup": "speedup_interval",
}
"""Fields that carry their interval in small type below."""


@dataclass(frozen=True)
class Column:
    """A column of a table: field of the row, heading, unit, and the field of the interval that stands below."""

    field: str
    heading: str
    unit: str = ""

    @property
    def interval(self) -> str:
        """Field of the interval; empty without one."""
        return _INTERVALS.get(self.field, "")


@dataclass(frozen=True)
class KeyFigure:
    """A number under the headline: field, value, unit, and the same of what stands below it in small type."""

    field: str
    heading: str
    value: str
    unit: str
    below_field: str
    below: str
    below_unit: str


def report_html(report: Report) -> str:
    """Writes a report as a self-contained HTML page; everything that comes from outside is escaped."""
    judged, table, speeds = verdicts(report), accuracy_rows(report), speed_rows(report)
    sweep = sweep_rows(report)
    page: dict[str, Any] = {
        "model_name": one_line(report.model_name),
        "model_hash": one_line(report.model_hash),
        "created": one_line(report.created),
        "baseline": one_line(report.baseline.name),
        "partial": partial_notice(report),
        "lead": judged[0] if judged else None,
        "others": judged[1:],
        "key_figures": _key_figures(report, judged[0], table, speeds) if judged else (),
        "doubts": doubts(report),
        "accuracy": table,
        "accuracy_columns": _measured(_accuracy_columns(report), table),
        "forest": make_forest(report),
        "metrics": _all_metrics(report),
        "speed": speeds,
        "speed_columns": _measured(_speed_columns(), speeds),
        "queries": [row for row in speeds if row.compute_ms != MISSING],
        "query_columns": _measured(_query_columns(), speeds),
        "sweep": sweep,
        "sweep_columns": _measured(_sweep_columns(), [row for rows in sweep.values() for row in rows]),
        "charts": make_charts(report),
        "throughput_charts": make_throughput_charts(report),
        "how_measured": how_measured(report),
        "classes": sorted(class_tables(report), key=lambda table: _rank(judged, table.variant)),
        "counted": COUNTED.get(report.task, "Count"),
        "smallest_class": min((c.count for c in report.classes if c.count > 0), default=0),
        "changes": dict(sorted(change_groups(report).items(), key=lambda item: _rank(judged, item[0]))),
        "tensors": sorted(tensor_tables(report), key=lambda table: _rank(judged, table.variant)),
        "coverages": sorted(coverages(report), key=lambda coverage: _rank(judged, coverage.variant)),
        "left_in_float": left_in_float(report),
        "notes": [(one_line(e.name), one_line(note)) for e in report.evaluations for note in e.notes],
        "warnings": [one_line(warning) for warning in report.warnings],
        "facts": {
            "Data": facts_from_mapping(report.dataset),
            "Preprocessing": facts_from_preprocessing(report.preprocessing),
            "Calibration": facts_from_mapping(report.calibration),
            "Environment": facts_from_mapping(report.environment),
        },
        "commands": [one_line(command) for command in report.commands],
        "score": report.score,
        "score_unit": score_unit(report.score) if report.score else "",
        "points": score_unit(report.score, of_difference=True) if report.score else "",
        "definitions": definitions(report),
        "term": lambda field: slug(term_of(field, report)),
        "num_tabs": len(report.evaluations),
    }
    return _load_template().render(page, contents=_contents(page))


def slug(term: str) -> str:
    """Name of a term's place on the page: "Fixed / broken" → "term-fixed-broken"."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


@cache
def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader("quantkit", "reporting"),
    )
    environment.filters["typographic"] = _typographic
    environment.filters["unbroken"] = _unbroken
    environment.filters["slug"] = slug
    environment.globals["MISSING"] = MISSING
    return environment.get_template("report.html.jinja")


def _contents(page: dict[str, Any]) -> list[tuple[str, str]]:
    """Identifier and title of each section that the page has."""
    sections = (
        ("notes", "Before using a number", page["warnings"] or page["notes"]),
        ("accuracy", "Accuracy and size", True),
        ("speed", "Speed", page["speed"]),
        ("trade", f"{'Accuracy' if page['score'] else 'Agreement'} against speed", page["charts"]),
        ("classes", "Classes", page["classes"]),
        ("changes", "Changed samples", page["changes"]),
        ("tensors", "Where the error comes in", page["tensors"]),
        ("coverage", "What computes on INT8", page["coverages"] or page["left_in_float"]),
        ("made", "How it was made", True),
        ("definitions", "What the numbers mean", True),
    )
    return [(name, title) for name, title, is_there in sections if is_there]


def _accuracy_columns(report: Report) -> tuple[Column, ...]:
    score = report.score
    own = () if score is None else (
        Column("score", one_line(score.label), score_unit(score)),
        Column("difference", "Difference", score_unit(score, of_difference=True)),
        Column("mlperf", "MLPerf"),
    )  # fmt: skip
    return (
        *own,
        Column("top5", "Top-5", "%"),
        Column("flips", "Fixed / broken"),
        Column("p_value", "p"),
        Column("agreement", "Agreement", "%"),
        Column("sqnr_db", "SQNR", "dB"),
        Column("cosine", "Cosine"),
        Column("size_mb", "Size", "MB"),
        Column("size_ratio", "Ratio"),
    )


def _speed_columns() -> tuple[Column, ...]:
    return (
        Column("batch_size", "Batch"),
        Column("median_ms", "Median", "ms"),
        Column("p90_ms", "p90", "ms"),
        Column("p99_ms", "p99", "ms"),
        Column("compute_ms", "Compute", "ms"),
        Column("throughput", "Throughput", "samples/s"),
        Column("speedup", "Speed-up"),
    )


def _query_columns() -> tuple[Column, ...]:
    """The parts of a query, where a device measures itself."""
    return (
        Column("h2d_ms", "H2D", "ms"),
        Column("compute_p99_ms", "Compute p99", "ms"),
        Column("d2h_ms", "D2H", "ms"),
        Column("enqueue_ms", "Enqueue", "ms"),
    )


def _sweep_columns() -> tuple[Column, ...]:
    kept = ("median_ms", "p99_ms", "compute_ms", "throughput", "speedup")
    return tuple(column for column in _speed_columns() if column.field in kept)


def _measured(columns: tuple[Column, ...], rows: tuple[Any, ...] | list[Any]) -> tuple[Column, ...]:
    """The columns in which something was measured."""
    return tuple(c for c in columns if any(getattr(row, c.field) != MISSING for row in rows))


def _key_figures(
    report: Report, lead: Verdict, table: tuple[AccuracyRow, ...], speeds: tuple[SpeedRow, ...]
) -> tuple[KeyFigure, ...]:
    """The numbers of the leading variant by which a team decides."""
    found = asdict(next(row for row in table if row.name == lead.variant))
    found |= next((asdict(row) for row in speeds if row.name == lead.variant and row.representative), {})
    points = score_unit(report.score, of_difference=True) if report.score else ""
    label = one_line(report.score.label) if report.score else ""
    shown = (
        ("difference", f"{label} difference", points, "interval", ""),
        ("agreement", "Agreement", "%", "", ""),
        ("speedup", "Speed-up", "", "speedup_interval", ""),
        ("median_ms", "Median latency", "ms", "median_interval", ""),
        ("size_ratio", "Size", "", "size_mb", "MB"),
    )
    return tuple(
        KeyFigure(field, heading, found[field], unit, below, found.get(below, MISSING), below_unit)
        for field, heading, unit, below, below_unit in shown
        if found.get(field, MISSING) != MISSING
    )


def _rank(judged: tuple[Verdict, ...], variant: str) -> int:
    """Place of a variant among the verdicts: the one that leads the page comes first everywhere."""
    return next((i for i, verdict in enumerate(judged) if verdict.variant == variant), len(judged))


def _all_metrics(report: Report) -> dict[str, list[str]]:
    """Every metric by name, a cell for each variant: also those that have no column, such as one output's own SQNR."""
    names = dict.fromkeys(name for evaluation in report.evaluations for name in evaluation.metrics)
    return {one_line(name): [format_significant(e.metrics.get(name), 6) for e in report.evaluations] for name in names}


def _typographic(text: str) -> str:
    """A real minus and a real times sign, which line up with tabular digits; only at numbers, never within names."""
    text = re.sub(r"(?<![\w.)\]-])-(?=[\d∞])", "−", text)
    return _unbroken(re.sub(r"(?<![\w.-])(\d+(?:\.\d+)?)x(?![\w-])", r"\1×", text))


def _unbroken(text: str) -> str:
    """No line ends between a number and its percent sign."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)
