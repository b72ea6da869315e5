"""The accuracy-against-speed chart as a picture for a slide, and every table as CSV."""

from __future__ import annotations

import csv
import importlib
import io
import re
from pathlib import Path
from typing import Any

from quantkit.errors import BackendUnavailableError, EvaluationError
from quantkit.reporting.charts.legend import COLORS
from quantkit.reporting.charts.speed import make_charts
from quantkit.reporting.column import Column
from quantkit.reporting.columns import TABLES, shown_columns
from quantkit.reporting.formatting import MISSING, single_line
from quantkit.reporting.html import load_template
from quantkit.storage import write_bytes, write_text
from quantkit.types import PathLike, Report

_STYLE = """
svg { background: #fff; font-family: system-ui, sans-serif; font-size: 13px; }
text { fill: #1c2023; } text.axis, text.size { fill: #565d63; } text.size { font-size: 11px; }
text.halo { stroke: #fff; stroke-width: 4px; stroke-linejoin: round; }
.grid { stroke: #e3e6e8; } .base { stroke: #8a9197; stroke-dasharray: 4 3; }
.rail, .bar-line { fill: none; stroke-width: 1.5; } .aside { opacity: .45; }
"""
_STYLE += "".join(
    f".v{i} {{ stroke: {color}; }} .dot.v{i}, .bead.v{i} {{ fill: {color}; }}\n" for i, color in enumerate(COLORS)
)  # written out, and with halos as texts of their own: CairoSVG knows neither variables nor paint-order
_STYLE += ".dot.hollow, .bead.hollow { fill: #fff; stroke-width: 1.25; opacity: .75; }\n"

_PNG_SCALE = 2
_MARGIN = 12
"""Pixels above the frame, where the title of the axis stands."""


def chart_svg(report: Report) -> str:
    """The chart of the backend with the most variants, as an SVG document that needs nothing else.

    Raises:
        EvaluationError: fewer than two variants were timed on one backend, or there is nothing to judge them by.
    """
    charts = make_charts(report)
    if not charts:
        raise EvaluationError(
            f"the report of {single_line(report.model_name)} has no chart: two variants must be timed on one backend "
            "and have a score or an agreement"
        )
    drawn = str(load_template("charts.html.jinja").module.speed_chart(charts[0], "chart"))  # type: ignore[attr-defined]
    body = drawn[drawn.index("<svg") :].strip()
    opening, _, rest = body.partition(">")
    rest = re.sub(r'<text class="((?:name|size)".*?</text>)', r'<text class="halo \1<text class="\1', rest)
    frame = charts[0].frame
    margin = f'viewBox="0 {-_MARGIN} {frame.width} {frame.height + _MARGIN}"'
    opening = opening.replace(f'viewBox="0 0 {frame.width} {frame.height}"', margin)
    size = f'width="{frame.width}" height="{frame.height + _MARGIN}"'
    return f'{opening} xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>{rest}\n'


def check_chart(report: Report, path: PathLike) -> None:
    """Raises what `write_chart` would raise before it writes."""
    chart_svg(report)
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        _import_cairosvg()
    elif suffix != ".svg":
        raise EvaluationError(f"{path}: a chart is .svg or .png")


def write_chart(report: Report, path: PathLike) -> None:
    """Writes the chart: .svg as it is, .png by CairoSVG where that is installed.

    Raises:
        EvaluationError: there is no chart, or the suffix is another.
        BackendUnavailableError: CairoSVG is missing.
    """
    check_chart(report, path)
    text = chart_svg(report)
    if Path(path).suffix.lower() == ".svg":
        write_text(path, text)
    else:
        found = _import_cairosvg().svg2png(text.encode(), scale=_PNG_SCALE, background_color="white")
        write_bytes(path, found)


def _import_cairosvg() -> Any:
    try:
        return importlib.import_module("cairosvg")
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            "a chart as PNG needs CairoSVG: pip install cairosvg, or write an .svg"
        ) from error


def tables_csv(report: Report) -> dict[str, str]:
    """Each table that has rows, as CSV text by its name; headings and digits as in Markdown, intervals beside them.

    Notes of a row, which stand below or beside its cells on a page, have a column of their own.
    """
    found = {}
    for name, table in TABLES.items():
        rows = table.rows(report)
        columns = shown_columns(name, rows, report, "markdown", variant="variant") if rows else ()
        if len(columns) < 2:
            continue
        shown = []
        for column in columns:
            shown.append((f"{column.heading} ({column.unit})" if column.unit else column.heading, column))
            if column.interval is not None and column.interval.is_measured(rows):
                shown.append((f"{column.heading}, {column.interval.heading}", column.interval))
        lines = [[heading for heading, _ in shown], *([_cell(column, row) for _, column in shown] for row in rows)]
        if table.parts is not None:
            variants = ["Variant", *(variant for variant, part in table.parts(report) for _ in part)]
            lines = [[variant, *line] for variant, line in zip(variants, lines, strict=True)]
        if any(notes := [_note(name, row) for row in rows]):
            lines = [[*line, note] for line, note in zip(lines, ["Note", *notes], strict=True)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        found[name] = text.getvalue()
    return found


def _cell(column: Column[Any], row: Any) -> str:
    """What programs read as a number where it is one: empty if missing, no x and no separators of thousands."""
    text = column.text(row)
    if column.align == "left":
        return text
    plain = text.removesuffix("x").replace(",", "")
    return plain if re.fullmatch(r"[-+]?\d+(\.\d+)?", plain) else {MISSING: "", "∞": "inf"}.get(text, text)


def _note(table: str, row: Any) -> str:
    if table == "accuracy":
        return str(row.expected)
    is_timed = table in ("speed", "query", "sweep")
    return "not representative of the target device" if is_timed and not row.representative else ""
