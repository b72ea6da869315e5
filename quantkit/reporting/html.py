"""The report as one HTML file that needs nothing else: no network, no script, light and dark, screen and paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jinja2

from quantkit.reporting import changes, classes
from quantkit.reporting.changes import change_groups
from quantkit.reporting.charts.forest import make_forest
from quantkit.reporting.charts.legend import COLORS, NIGHT_COLORS, NUM_COLORS, shape_of
from quantkit.reporting.charts.speed import make_charts, make_throughput_charts
from quantkit.reporting.classes import class_tables
from quantkit.reporting.column import Column
from quantkit.reporting.columns import COUNTED, TABLES, shown_columns, terms_by_field
from quantkit.reporting.coverage import coverage_title, coverages, left_in_float
from quantkit.reporting.decision import decide
from quantkit.reporting.formatting import MISSING, format_significant, score_unit, single_line
from quantkit.reporting.measurement_setup import how_measured, reproduction_facts
from quantkit.reporting.range_choices import unit_tables
from quantkit.reporting.tensors import tensor_tables
from quantkit.reporting.variants import Variant, variant_rows
from quantkit.reporting.verdict import Verdict, doubts, partial_notice, verdicts
from quantkit.types import Report

_KEY_FIGURES = {
    "difference": "{score} difference",
    "agreement": "Agreement",
    "speedup": "Speed-up",
    "median_ms": "Median latency",
    "size_ratio": "Model size",
}
"""Columns whose values of the leading variant stand below the headline, and their headings there."""


@dataclass(frozen=True)
class TableView:
    """A table of the page: its columns with their headings, and its rows."""

    columns: tuple[Column[Any], ...]
    rows: Sequence[Any]


def report_html(report: Report) -> str:
    """Writes a report as a self-contained HTML page; everything that comes from outside is escaped."""
    judged = verdicts(report)
    order = {verdict.variant: i for i, verdict in enumerate(judged)}

    def place(variant: str) -> int:
        """The variant that leads the page comes first everywhere."""
        return order.get(variant, len(order))

    page: dict[str, Any] = {
        "report": report,
        "baseline": single_line(report.baseline.name),
        "variants": variant_rows(report),
        "table": partial(_view, report),
        "partial": partial_notice(report),
        "decision": decide(report),
        "verdicts": judged,
        "key_figures": _key_figures(report, judged[0]) if judged else (),
        "doubts": doubts(report),
        "forest": make_forest(report),
        "metrics": _all_metrics(report),
        "charts": make_charts(report),
        "throughput_charts": make_throughput_charts(report),
        "how_measured": how_measured(report),
        "classes": sorted(class_tables(report), key=lambda table: place(table.variant)),
        "counted": COUNTED.get(report.task, "Count"),
        "smallest_class": min((c.count for c in report.classes if c.count > 0), default=0),
        "changes": dict(sorted(change_groups(report).items(), key=lambda item: place(item[0]))),
        "tensors": sorted(tensor_tables(report), key=lambda table: place(table.variant)),
        "coverages": sorted(coverages(report), key=lambda coverage: place(coverage.variant)),
        "coverage_title": coverage_title(report),
        "left_in_float": left_in_float(report),
        "has_choices": bool(report.range_methods or report.float_tensors or report.plan or report.sensitivity),
        "unit_tables": unit_tables(report),
        "total_damage": MISSING if report.sensitivity is None else format_significant(report.sensitivity.damage),
        "notes": [(single_line(e.name), single_line(note)) for e in report.evaluations for note in e.notes],
        "facts": reproduction_facts(report),
        "score": report.score,
        "unit": score_unit(report.score),
        "terms": (terms := terms_by_field(report)),
        "glossary": {term.name: term.definition for term in terms.values()},
        "num_shown": {"classes": classes.NUM_CLASSES_SHOWN, "changes": changes.NUM_CHANGES_SHOWN},
    }
    return load_template("report.html.jinja").render(page, contents=_contents(page))


def slug(term: str) -> str:
    """Name of a term's place on the page: "Fixed / broken" → "term-fixed-broken"."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


@cache
def load_template(name: str) -> jinja2.Template:
    """A template of this package, with the filters that all pages have; everything from outside is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader("quantkit", "reporting/templates"),
    )
    environment.filters |= {"typographic": _typographic, "slug": slug, "single_line": single_line}
    environment.globals |= {"MISSING": MISSING, "shape_of": shape_of}
    environment.globals |= {"COLORS": COLORS, "NIGHT_COLORS": NIGHT_COLORS, "NUM_COLORS": NUM_COLORS}
    return environment.get_template(name)


def _view(report: Report, name: str, rows: Sequence[Any] | None = None, variant: str = "") -> TableView:
    """A table, of all its rows if none are given; without columns where there is nothing but names."""
    chosen = TABLES[name].rows(report) if rows is None else rows
    columns = shown_columns(name, chosen, report, "html", variant=variant) if chosen else ()
    return TableView(columns if len(columns) > 1 else (), chosen)


def _contents(page: dict[str, Any]) -> list[tuple[str, str]]:
    """Identifier and title of each section that the page has."""
    report: Report = page["report"]
    sections = (
        ("caveats", "Caveats", report.warnings or page["notes"]),
        ("accuracy", "Accuracy and size", True),
        ("speed", "Speed", any(e.latency for e in report.evaluations)),
        ("trade", f"{'Accuracy' if report.score else 'Agreement'} vs latency", page["charts"]),
        ("classes", "Classes", page["classes"]),
        ("changes", "Changed samples", page["changes"]),
        ("tensors", "Layer-wise error", page["tensors"]),
        ("ranges", "Ranges and sensitivity", page["has_choices"]),
        ("coverage", coverage_title(report), page["coverages"] or page["left_in_float"]),
        ("reproduction", "Reproduction", True),
        ("glossary", "Glossary", True),
    )
    return [(name, title) for name, title, is_there in sections if is_there]


def _key_figures(report: Report, lead: Verdict) -> list[tuple[Column[Variant], Variant]]:
    """The numbers by which a team decides: column and row of the leading variant, a time only if representative."""
    row = next(row for row in variant_rows(report) if row.name == lead.variant)
    names = ("accuracy", "speed") if row.representative else ("accuracy",)
    columns = {c.field: c for name in names for c in shown_columns(name, [row], report, "html")}
    label = single_line(report.score.label) if report.score else ""
    return [
        (replace(columns[field], heading=heading.format(score=label)), row)
        for field, heading in _KEY_FIGURES.items()
        if field in columns
    ]


def _all_metrics(report: Report) -> dict[str, list[str]]:
    """Every metric by name, a cell for each variant: also those that have no column, such as one output's own SQNR."""
    names = dict.fromkeys(name for evaluation in report.evaluations for name in evaluation.metrics)
    return {
        single_line(name): [format_significant(e.metrics.get(name), 6) for e in report.evaluations] for name in names
    }


def _typographic(text: str) -> str:
    """A real minus and a real times sign, which line up with tabular digits; only at numbers, never within names."""
    text = re.sub(r"(?<![\w.)\]-])-(?=[\d∞])", "−", text)
    return re.sub(r"(?<![\w.-])(\d+(?:\.\d+)?)x(?![\w-])", r"\1×", text)
