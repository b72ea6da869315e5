"""A quantization plan on disk: JSON that names the model and the calibration table that it was found for.

`docs/reference/plan_format.md` specifies it; this module reads version 1. People may edit a plan: only what a reader
needs is checked.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import msgspec

from quantkit.calibration.json_text import check_format, decode_json
from quantkit.calibration.table import open_table, table_checksum
from quantkit.errors import CalibrationError, StaleTableError
from quantkit.machine import read_input
from quantkit.provenance import MODEL_HASH, TABLE_CHECKSUM, why_stale
from quantkit.storage import write_text
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.plan import QuantizationPlan

_FORMAT, _VERSION = "quantkit quantization plan", 1


def save_plan(plan: QuantizationPlan, path: str | os.PathLike[str]) -> Path:
    """Writes the plan atomically. Returns its path.

    Raises:
        OutputError: the file cannot be written.
    """
    members = {"format": _FORMAT, "format_version": _VERSION, **msgspec.to_builtins(plan)}
    write_text(path, json.dumps(members, indent=2, ensure_ascii=False) + "\n")
    return Path(path)


def load_plan(path: str | os.PathLike[str]) -> QuantizationPlan:
    """Reads a plan.

    Raises:
        CalibrationError: one line: the file is missing, no plan, cut short, or of a newer format.
    """
    file = Path(path)
    content = read_input(file, CalibrationError, "plan")
    kind, fix = "a quantization plan", "run quantkit tune again"
    data = decode_json(content, name=str(file), kind=kind, fix=fix)
    data = check_format(data, name=str(file), kind=kind, written=(_FORMAT, _VERSION), fix=fix)
    try:
        return msgspec.convert(data, QuantizationPlan)
    except msgspec.ValidationError as error:
        raise CalibrationError(f"{file} is not a valid quantization plan: {error}") from error


def open_plan(plan: QuantizationPlan | PathLike) -> QuantizationPlan:
    """The plan, read first where a path is given."""
    return plan if isinstance(plan, QuantizationPlan) else load_plan(plan)


def apply_plan(table: CalibrationTable, plan: QuantizationPlan | PathLike | None) -> CalibrationTable:
    """The table with the plan's tensors left in float, or in another format; the table itself without a plan.

    Raises:
        StaleTableError: the plan was found for another model or table.
        CalibrationError: the plan names a tensor that the table does not have.
    """
    if plan is None:
        return table
    name = "the plan" if isinstance(plan, QuantizationPlan) else str(plan)
    plan = open_plan(plan)
    stored = {MODEL_HASH: plan.model_hash, TABLE_CHECKSUM: plan.table_checksum}
    if reason := why_stale(name, stored, {MODEL_HASH: table.model_hash, TABLE_CHECKSUM: table_checksum(table)}):
        raise StaleTableError(f"{reason}: run `quantkit tune` again")
    if unknown := sorted((plan.float_tensors.keys() | plan.formats.keys()) - table.tensors.keys()):
        raise CalibrationError(f"{name}: the calibration table has no tensor {unknown[0]!r}")
    # What a calibration for INT8 left in float need not stay there in another format.
    in_float = {name: reason for name, reason in table.float_tensors.items() if name not in plan.formats}
    return replace(table, float_tensors={**in_float, **plan.float_tensors}, formats=plan.formats)


def open_planned_table(
    table: CalibrationTable | PathLike | None, plan: QuantizationPlan | PathLike | None
) -> CalibrationTable | None:
    """The table, read first where a path is given, with the plan applied; None without a table.

    Raises:
        CalibrationError: see `load_table` and `apply_plan`; or there is a plan and no table.
    """
    if table is not None:
        return apply_plan(open_table(table), plan)
    if plan is not None:
        raise CalibrationError("--plan needs the calibration table that it was found for: pass --table")
    return None
