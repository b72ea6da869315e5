"""The command `tune`: which tensors have to stay in float so that the score keeps a budget."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.open import check_no_input
from quantkit.calibration.plan_file import save_plan
from quantkit.cli.arguments import DATA_PANEL, PARSES_DATA, DataOption, ModelArgument
from quantkit.cli.as_json import echo_json
from quantkit.cli.forecast import RunOptions, print_forecast
from quantkit.cli.generate import with_options
from quantkit.cli.output import make_printer, output_path
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.forecasts import forecast_tuning
from quantkit.commands.tune import tune as find_plan
from quantkit.errors import GateFailedError
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.notices import plural
from quantkit.reporting.range_choices import choice_rows
from quantkit.storage import check_writable
from quantkit.types import title_of
from quantkit.types.options import TuneOptions

if TYPE_CHECKING:
    from rich.console import Console

    from quantkit.types.plan import QuantizationPlan


@with_options
def tune(
    model: ModelArgument,
    data: DataOption,
    val: Annotated[
        os.PathLike[str],
        typer.Option(
            "--val",
            help="Labeled validation data to choose by, as for evaluate.",
            **PARSES_DATA,
            show_default=False,
            rich_help_panel=DATA_PANEL,
        ),
    ],
    options: TuneOptions,
    task: TaskOptions,
    messages: RunOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Plan (.json) or folder (default: MODEL.plan.json next to it)."),
    ] = None,
) -> None:
    """Find the fewest tensors to leave in float so that the score meets a budget, and write them as a plan.

    Ranks the tensors on --data, evaluates a few choices on --val and writes the plan for quantize, build and evaluate
    (--plan). Finished evaluations are kept beside the plan, so that an interrupted search continues. Exits with code 3
    if the budget is missed.
    """
    path = output_path(output, model.with_name(f"{model.stem}.plan.json"), data=(data, val))
    options = replace(
        options,
        runs=path.with_suffix(".runs"),
        table_path=CalibrationFiles.of_model(model, path.parent).table,
        progress=not messages.quiet,
    )
    tables = options.table, options.table_path, CalibrationFiles.of_model(model).table
    check_no_input(path, data, val, *tables, task.labels)
    if messages.dry_run:
        print_forecast(forecast_tuning(model, data, val, options, task, path), as_json=messages.as_json)
        return
    check_writable(path, path.with_suffix(".runs") / "any")
    plan = find_plan(model, data, val, options, task=task, notify=make_printer(messages.quiet))
    save_plan(plan, path)
    if messages.as_json:
        echo_json(plan)
    else:
        _print(make_console(), plan, quiet=messages.quiet)
    typer.echo(f"wrote {path}", err=messages.as_json)
    if plan.verdict == "missed":
        raise GateFailedError(f"budget missed: {plan.explanation}")
    if not messages.quiet:
        typer.echo(f"next: {_quantize_command(model, path, options)}", err=True)


def _quantize_command(model: Path, plan: Path, options: TuneOptions) -> str:
    """What makes the model of the plan, ready to paste: `quantize` finds a table that nobody named."""
    words = ["quantkit", "quantize", str(model), "--plan", str(plan)]
    named = {"--table": [options.table], "--plugins": options.plugins, "--ort-extension": options.ort_extension}
    words += [word for flag, files in named.items() for file in files if file for word in (flag, str(file))]
    return shlex.join(words)


def _print(console: Console, plan: QuantizationPlan, *, quiet: bool) -> None:
    rows = [
        (
            str(row.point.num_float),
            *([str(row.point.num_other)] if plan.formats else []),
            *(row.work, row.score, row.loss, row.interval, row.mark),
        )
        for row in choice_rows(plan)
    ]
    score = f"{plan.score_name}{' %' if plan.is_fraction else ''}"
    others = [f"in {title_of(plan.formats.values())}"] if plan.formats else []
    headings = (
        "in float",
        *others,
        f"{'8-bit' if others else 'INT8'} multiply-adds %",
        score,
        f"drop {plan.loss_unit}".strip(),
        "95% interval",
        "",
    )
    if not quiet:
        print_table(console, headings, rows, right=range(5 + len(others)))
    if kept := plan.front[0].num_float:
        print_line(console, f"in float in every choice: {plural(kept, 'tensor')} by calibration")
    for name, form in plan.formats.items():
        print_line(console, f"in {title_of([form])}: {name}")
    for name, reason in plan.float_tensors.items():
        print_line(console, f"in float: {name}: {reason}")
    print_line(console, f"{plan.verdict}: {plan.explanation}")
