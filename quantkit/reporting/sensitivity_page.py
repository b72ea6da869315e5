"""The ranking of tensors and operators by what they cost, as JSON and as one HTML file with bars."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from quantkit.errors import EvaluationError
from quantkit.machine import read_file
from quantkit.notices import plural
from quantkit.reporting.formatting import format_decibels, format_percent, format_significant, single_line
from quantkit.reporting.html import load_template
from quantkit.storage import write_text
from quantkit.types.sensitivity import Sensitivity, UnitSensitivity

COLUMNS = ("name", "alone", "saved in company", "SQNR dB", "clipped %", "codes", "multiply-adds %")
"""Headings of `unit_cells`."""

_SECTIONS = {"tensor": "Tensors", "operator": "Operators"}


def unit_cells(unit: UnitSensitivity) -> tuple[str, ...]:
    """What a table says of a unit, in the order of `COLUMNS`."""
    return (
        single_line(unit.name),
        format_significant(unit.damage),
        format_significant(unit.saved, 2),
        "∞" if unit.sqnr_db is None else format_decibels(unit.sqnr_db),
        format_percent(unit.clipped),
        str(unit.codes),
        format_percent(unit.work),
    )


def describe_total(found: Sensitivity) -> str:
    """The damage of everything that calibration quantizes, and on how many samples it was measured."""
    left = f" but {plural(len(found.in_float), 'tensor')} that calibration left in float" if found.in_float else ""
    count = max((unit.num_samples for unit in found.of_kind("operator") or found.units), default=found.num_samples)
    figure = f"{found.measure} {format_significant(found.damage)} ({plural(count, 'sample')})"
    return f"everything in INT8{left}: {figure}"


def sensitivity_json(found: Sensitivity) -> str:
    """Everything, without rounding; the units in the order of the ranking."""
    return json.dumps(msgspec.to_builtins(found), indent=2) + "\n"


def load_sensitivity(path: Path) -> Sensitivity:
    """Reads what `sensitivity_json` wrote.

    Raises:
        EvaluationError: it is not that.
    """
    try:
        return msgspec.json.decode(read_file(path), type=Sensitivity)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is not a ranking of quantkit sensitivity: {error}") from error


def sensitivity_html(found: Sensitivity) -> str:
    """A page that needs nothing else; everything that comes from outside is escaped."""
    largest = max((unit.damage for unit in found.units), default=0.0)
    sections = {
        title: [(unit_cells(unit), 100 * unit.damage / largest if largest else 0.0) for unit in units]
        for kind, title in _SECTIONS.items()
        if (units := [unit for unit in found.units if unit.kind == kind])
    }
    template = load_template("sensitivity.html.jinja")
    return template.render(found=found, sections=sections, columns=COLUMNS, total=describe_total(found))


def write_sensitivity(found: Sensitivity, path: Path) -> tuple[Path, Path]:
    """Writes the page beside the numbers at `path`, atomically. Returns both paths, the page first.

    Raises:
        OutputError: a file cannot be written.
    """
    page = path.with_suffix(".html")
    write_text(page, sensitivity_html(found))
    write_text(path, sensitivity_json(found))
    return page, path
