"""The calibration table that a command takes where none is named."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import check_table
from quantkit.calibration.plan_file import apply_plan
from quantkit.calibration.table import load_table, table_checksum
from quantkit.errors import CalibrationError, StaleTableError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify
from quantkit.types import PathLike
from quantkit.types.plan import QuantizationPlan


def find_table_of(
    model: FloatModel, plan: QuantizationPlan | PathLike | None, output: PathLike, notify: Notify
) -> Path:
    """The table of a model, and of a plan, which `calibrate` or `tune` left beside model, plan or output.

    Raises:
        CalibrationError: there is none, or there are several.
        StaleTableError: those that are there were made from another model, or are not the plan's.
    """
    beside = (model.path, *([] if plan is None or isinstance(plan, QuantizationPlan) else [plan]), output)
    folders = dict.fromkeys(Path(path).parent for path in beside)
    paths = [CalibrationFiles.of_model(model.path, folder).table for folder in folders]
    there = [path for path in paths if path.is_file()]
    if not there:
        text = f"there is no calibration table {' or '.join(map(str, paths))}: run `quantkit calibrate "
        raise CalibrationError(f"{text}{shlex.quote(str(model.path))} --data DATA` first, or pass --table")
    if len(there) > 1:  # who takes a single one checks it
        there = _those_that_fit(there, model, plan)
    if len(there) > 1:
        raise CalibrationError(f"{' and '.join(map(str, there))} differ: pass one of them with --table")
    notify(Notice("info", "ranges", f"calibration: {there[0]}"))
    return there[0]


def _those_that_fit(paths: Sequence[Path], model: FloatModel, plan: QuantizationPlan | PathLike | None) -> list[Path]:
    """The first of each content."""
    fitting: dict[str, Path] = {}
    stale: list[str] = []
    for path in paths:
        try:
            table = load_table(path)
            check_table(table, model)
            apply_plan(table, plan)
            fitting.setdefault(table_checksum(table), path)
        except StaleTableError as error:
            stale.append(f"{path}: {error}")
    if not fitting:
        raise StaleTableError(stale[0])
    return list(fitting.values())
