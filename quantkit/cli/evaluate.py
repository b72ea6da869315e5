"""The command `evaluate`: compares the variants of a model in one report, and checks limits on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import typer

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.open import check_no_input
from quantkit.cli.arguments import DataOption, ModelArgument
from quantkit.cli.as_json import echo_document
from quantkit.cli.compare import gate
from quantkit.cli.forecast import RunOptions, print_forecast
from quantkit.cli.generate import with_options
from quantkit.cli.interruption import stop_on_interrupt
from quantkit.cli.output import command_line, make_printer, output_path
from quantkit.cli.text import make_console
from quantkit.commands.calibrate import calibrate as calibrate_model
from quantkit.commands.evaluate import evaluate as evaluate_variants
from quantkit.commands.evaluation_data import EvaluationData, open_evaluation
from quantkit.commands.evaluation_forecast import forecast_evaluation
from quantkit.commands.extensions import with_extensions
from quantkit.commands.fixed_inputs import fix_inputs
from quantkit.commands.on_device import on_device
from quantkit.commands.wanted_variants import round_variants
from quantkit.errors import EvaluationError
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.models import VARIANTS, choose_variants, known_variants, no_table
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, announcing
from quantkit.reporting import print_report, report_json, write_report
from quantkit.storage import check_writable
from quantkit.types import SCHEMES, PathLike
from quantkit.types.option import option
from quantkit.types.options import DATA, DATA_PATH, CalibrationOptions, EvaluationOptions, Target


@dataclass(frozen=True, kw_only=True)
class CommandOptions(EvaluationOptions):
    """Those of `quantkit.evaluate`, and what the command does first."""

    calibrate_data: PathLike | None = option(
        None,
        "Calibrate on these data first where there is no up-to-date table, as `quantkit calibrate` does with its "
        "defaults, and keep the table.",
        group=DATA,
        form=DATA_PATH,
        unit="path",
    )
    deploy: Target | None = option(
        None,
        "Target that the decision at the top of the report is for.",
        default_text="an engine that is evaluated, else INT8 timed on this CPU, else TensorRT",
    )


@with_options
def evaluate(
    model: ModelArgument,
    data: DataOption,
    options: CommandOptions,
    task: TaskOptions,
    limits: Limits,
    messages: RunOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Report folder, or report (.json) (default: MODEL.report next to it)."),
    ] = None,
    gate_variant: Annotated[
        list[str] | None,
        typer.Option(
            "--gate-variant",
            metavar="NAME",
            help="Variant to check against the limits (default: all INT8 variants). Repeatable.",
            rich_help_panel="Gate",
        ),
    ] = None,
) -> None:
    """Compare FP32, FP16 and INT8: accuracy, agreement, latency and size, in one report.

    Images are preprocessed as for calibration unless options override it. Writes report.html, report.md and
    report.json. With a limit such as --max-drop, exits with code 3 if a variant violates it, after writing the report.
    """
    folder = model.with_name(f"{model.stem}.report")
    path = output_path(output or folder, Path("report.json"), data=(data, options.calibrate_data))
    notify = make_printer(messages.quiet)
    options = replace(options, command=command_line(), progress=not messages.quiet)
    samples: PathLike | EvaluationData = data
    beside = CalibrationFiles.of_model(model).table
    if options.table is None and (options.calibrate_data is not None or beside.is_file()):
        options = replace(options, table=beside)
    known_variants(options.variants or ())
    _check_limits(limits, task, options, gate_variant or [])
    if limits and not (options.table or options.models or options.engines):
        raise EvaluationError(f"{beside} is missing: {no_table(model)} to check limits on it")
    if options.variants is not None:
        choose_variants(options.variants, options.table)
    if options.table is beside and options.calibrate_data is None:
        notify(Notice("info", "ranges", f"calibration: {beside}"))
    elif options.table is None and options.variants is None:
        text = f"No calibration table {beside}; skipping INT8 variants. {no_table(model)}."
        notify(Notice("warning", "ranges", text))
    check_no_input(path, data, options.table, task.labels)
    pages = [path.with_suffix(suffix) for suffix in (".json", ".md", ".html")]
    if messages.dry_run:
        about = (model, data, options, pages)
        found = forecast_evaluation(*about, task=task, limits=limits, calibrate_data=options.calibrate_data)
        print_forecast(found, as_json=messages.as_json)
        return
    calibrated = [] if options.calibrate_data is None else [Path(str(options.table))]
    check_writable(*pages, *calibrated)
    if options.calibrate_data is not None:
        with with_extensions(options), on_device(options, announcing(None)):  # refused first what would be later
            _, samples = open_evaluation(model, data, None, options, task, limits)
        _calibrate(model, options.calibrate_data, options, notify)
    with stop_on_interrupt() as should_stop:
        result = evaluate_variants(
            model, samples, options, task=task, limits=limits, should_stop=should_stop, notify=notify
        )
    result = replace(result, deploy=options.deploy)
    paths = write_report(result, path.parent, stem=path.stem)
    if messages.as_json:
        echo_document(report_json(result))
    else:
        print_report(result, make_console(), quiet=messages.quiet)
    for written in paths.values():
        typer.echo(f"wrote {written}", err=messages.as_json)
    if should_stop():
        raise KeyboardInterrupt
    gate(result, limits, variants=gate_variant or (), to_stderr=messages.as_json)


def _check_limits(limits: Limits, task: TaskOptions, options: EvaluationOptions, gated: list[str]) -> None:
    """Refuses limits that this evaluation could never judge, before it runs."""
    if not limits:
        return
    made = {*VARIANTS, *(name.lower() for name in options.variants or ())}
    names = {*made, *(options.models or {}), *(options.engines or {})}
    if unknown := [name for name in gated if name not in names]:
        raise typer.BadParameter(f"{unknown[0]!r} is not a variant of this run", param_hint="--gate-variant")
    if task.task == "none" and (limits.max_drop is not None or limits.gates):
        raise typer.BadParameter("--task none has no score; use --min-agreement", param_hint="--max-drop")
    if task.task in ("detect", "custom", "embed", "image") and limits.min_agreement is not None:
        raise typer.BadParameter(f"--task {task.task} has no agreement; use --max-drop", param_hint="--min-agreement")
    if limits.min_speedup is not None and not options.latency_s:
        raise typer.BadParameter("--latency-s 0 measures no latency", param_hint="--min-speedup")
    given = {*(options.models or {}), *(options.engines or {})}
    by_default = ("int8",) if options.variants is None and options.table else ()
    named = gated or [name.lower() for name in options.variants or by_default]
    asked = [name for name in named if name not in given]
    for name in asked if limits.min_speedup is not None else ():
        if name in SCHEMES and SCHEMES[name].activations is not None:
            raise EvaluationError(
                f"--min-speedup: {name} can only be timed on a device it is not made for: evaluate an --engine, or "
                "pass --gate-variant with a variant such as int8-cpu"
            )
    if limits.at_batch is not None and limits.at_batch not in options.batch_sizes:
        sizes = ",".join(map(str, options.batch_sizes))
        raise typer.BadParameter(f"--batch-sizes {sizes} does not include {limits.at_batch}", param_hint="--at-batch")


def _calibrate(model: Path, data: PathLike, options: EvaluationOptions, notify: Notify) -> None:
    """Makes the table or finds it up to date."""
    table = cast(PathLike, options.table)
    calibration = CalibrationOptions(
        table_path=table,
        preprocess=options.preprocess,
        workers=options.workers,
        strict=options.strict,
        device=options.device,
        ray=options.ray,
        ort_extension=options.ort_extension,
        plugins=options.plugins,
        progress=options.progress,
    )
    calibrate_model(model, data, calibration, notify=notify)
    with with_extensions(options), on_device(options, announcing(None)):  # the evaluation says which device
        round_variants(fix_inputs(FloatModel(model), options.preprocess), table, data, options, notify)
