"""The command `sensitivity`: ranks what quantizing each tensor and each operator costs the output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.open import check_no_input
from quantkit.cli.arguments import DataOption, ModelArgument
from quantkit.cli.as_json import echo_document
from quantkit.cli.forecast import RunOptions, print_forecast
from quantkit.cli.generate import with_options
from quantkit.cli.output import make_printer, output_path
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.forecasts import forecast_sensitivity
from quantkit.commands.sensitivity import sensitivity as rank_units
from quantkit.notices import plural
from quantkit.reporting.sensitivity_page import COLUMNS, describe_total, sensitivity_json, unit_cells, write_sensitivity
from quantkit.storage import check_writable
from quantkit.types.options import SensitivityOptions

if TYPE_CHECKING:
    from rich.console import Console

    from quantkit.types.sensitivity import Sensitivity


@with_options
def sensitivity(
    model: ModelArgument,
    data: DataOption,
    options: SensitivityOptions,
    messages: RunOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for sensitivity.json and its page, or ranking (.json)."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Rows to print of each ranking (0: all).")] = 20,
) -> None:
    """Rank tensors and operators by what quantizing each costs the output.

    Alone: everything else stays in float. In company: everything else is quantized and this one left in float; the
    number is the damage that this saves. Also shows local SQNR, clipping, occupied quantized values and the share of
    the multiply-adds. No labels are needed.
    """
    path = None if output is None else output_path(output, Path("sensitivity.json"), data=[data])
    pages = [] if path is None else [path.with_suffix(".html"), path]
    if path is not None:
        check_no_input(path, data, options.table, CalibrationFiles.of_model(model).table)
    if messages.dry_run:
        print_forecast(forecast_sensitivity(model, data, options, pages), as_json=messages.as_json)
        return
    check_writable(*pages)
    options = replace(options, progress=not messages.quiet)
    found = rank_units(model, data, options, notify=make_printer(messages.quiet))
    if messages.as_json:
        echo_document(sensitivity_json(found))
    elif path is None or not messages.quiet:
        _print(make_console(), found, top)
    if path is not None:
        for written in write_sensitivity(found, path):
            typer.echo(f"wrote {written}", err=messages.as_json)


def _print(console: Console, found: Sensitivity, top: int) -> None:
    print_line(console, describe_total(found))
    for kind in ("tensor", "operator"):
        units = found.of_kind(kind)
        shown = units[: top or None]
        rows = [(str(rank), *unit_cells(unit)) for rank, unit in enumerate(shown, start=1)]
        print_line(console, "")
        print_table(console, ("", kind, *COLUMNS[1:]), rows, right=(0, *range(2, len(COLUMNS) + 1)), optional=(7, 6, 5))
        if len(shown) < len(units):
            print_line(console, f"and {plural(len(units) - len(shown), kind)} more (--top 0 lists them)")
    for name, reason in found.in_float.items():
        print_line(console, f"in float: {name}: {reason}")
