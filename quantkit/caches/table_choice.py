"""The calibration table that a command takes where none is named."""

from __future__ import annotations

import shlex
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
    fitting: dict[str, Path] = {}
    stale: list[str] = []
    for path in filter(Path.is_file, paths):
        try:
            table = load_table(path)
            check_table(table, model)
            apply_plan(table, plan)
            fitting.setdefault(table_checksum(table), path)
        except StaleTableError as error:
            stale.append(f"{path}: {error}")
    if len(fitting) > 1:
        raise CalibrationError(f"{' and '.join(map(str, fitting.values()))} differ: pass one of them with --table")
    if not fitting and stale:
        raise StaleTableError(stale[0])
    if not fitting:
        text = f"there is no calibration table {' or '.join(map(str, paths))}: run `quantkit calibrate "
        raise CalibrationError(f"{text}{shlex.quote(str(model.path))} --data DATA` first, or pass --table")
    (found,) = fitting.values()
    notify(Notice("info", "ranges", f"calibration: {found}"))
    return found
