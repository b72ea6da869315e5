"""Variants of a model, side by side on the same data: made or taken, run, timed, looked into, reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.backends.ray_cluster import check_cluster
from quantkit.calibration.plan_file import open_plan, open_planned_table
from quantkit.commands.cluster_evaluation import judge_on_cluster
from quantkit.commands.evaluation_data import EvaluationData, open_evaluation_data
from quantkit.commands.evaluation_report import Measured, find_ranking, make_report
from quantkit.commands.extensions import open_runnable, with_extensions
from quantkit.commands.on_device import on_device
from quantkit.commands.variants import OpenVariants, open_variants
from quantkit.commands.wanted_variants import check_variants
from quantkit.datasets.batching import make_batches
from quantkit.datasets.description import describe_choice
from quantkit.datasets.open import warn_of_batch_axes
from quantkit.evaluation import Measurement, describe_environment
from quantkit.evaluation import evaluate as measure
from quantkit.evaluation.accurate_session import open_as_run
from quantkit.evaluation.engines import describe_gpu, largest_batch
from quantkit.evaluation.latency.sweep import Timing, time_batches
from quantkit.evaluation.layer_analysis import LayerAnalysis, analyze_layers
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.graph.randomness import warn_of_randomness
from quantkit.notices import Notice, Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.reporting.privacy import without_paths, without_thumbnails
from quantkit.types import CalibrationTable, Dataset, PathLike, Report
from quantkit.types.option import make_options
from quantkit.types.options import EvaluationOptions


@accepts_tell
def evaluate(
    model: PathLike | FloatModel,
    data: PathLike | EvaluationData,
    options: EvaluationOptions | None = None,
    *,
    task: str | TaskOptions = "classify",
    limits: Limits | None = None,
    should_stop: Callable[[], bool] | None = None,
    notify: Notify | None = None,
    **keywords: Any,
) -> Report:
    """Compares variants of a model on the same data: its score by the task, agreement with FP32, latency, size.

    Args:
        model: the FP32 model: the baseline.
        data: what to evaluate on; labels, if there are any, give accuracy.
        options: settings; None takes the defaults of `EvaluationOptions`.
        task: what the outputs mean; "detect", "segment" and "custom" need `TaskOptions`.
        limits: that the report will be checked against: what cannot be judged is refused before anything runs.
        should_stop: asked after each batch and each turn of the timing: whether to end with what there is; the report
            says what is missing. `quantkit.cli.interruption.stop_on_interrupt` makes it of Ctrl-C.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `EvaluationOptions`, instead of those in `options`.

    Returns:
        The report; `quantkit.reporting.write_report` writes it.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    options = make_options(EvaluationOptions, options, keywords)
    notify = announcing(notify)
    task_options = task if isinstance(task, TaskOptions) else TaskOptions(task)
    with with_extensions(options), on_device(options, notify):
        return _evaluate(model, data, options, task_options, limits, should_stop or (lambda: False), notify)


def _evaluate(
    model: PathLike | FloatModel,
    data: PathLike | EvaluationData,
    options: EvaluationOptions,
    task_options: TaskOptions,
    limits: Limits | None,
    should_stop: Callable[[], bool],
    notify: Notify,
) -> Report:
    check_cluster(options.ray)
    table = open_planned_table(options.table, options.plan)
    model = open_runnable(model, table)
    check_variants(model, options, table, limits)  # what is wrong is said first
    warn_of_randomness(model.graph, notify)
    environment = describe_environment()  # now: later the machine is busy with us
    data = open_evaluation_data(model, data, table, options, task_options, limits)
    describe_choice(data.dataset, data.path, options.seed, notify)
    warn_of_batch_axes(model.inputs, data.dataset, data.prepared, notify)
    measured = _measure(model, data, options, table, environment, should_stop, notify)
    if measured.is_partial(data.dataset):
        count = f"{measured.accuracy.num_samples} of {len(data.dataset)}"
        text = f"Interrupted after {count} samples; the report is partial."
        notify(Notice("info", "interrupted", text))
    model.check_unchanged()
    ranking = find_ranking(options.table, notify)
    plan = None if options.plan is None else open_plan(options.plan)
    report = make_report(measured, model, data, table, plan=plan, sensitivity=ranking, command=options.command)
    report = report if options.thumbnails else without_thumbnails(report)
    return report if options.with_paths else without_paths(report, (model.path, data.path))


_NOT_ANALYZED = ("interrupted: the layer-wise error was not analyzed",)


def _measure(
    model: FloatModel,
    data: EvaluationData,
    options: EvaluationOptions,
    table: CalibrationTable | None,
    environment: Mapping[str, str],
    should_stop: Callable[[], bool],
    notify: Notify,
) -> Measured:
    """Opens the variants; measures accuracy, latency and layers, as far as nobody stops it."""
    dataset, skipped_files = data.dataset, dict[str, str]()
    with open_variants(model, table, options, dataset) as opened:
        gpu = describe_gpu() if opened.engines else {}
        fitting = replace(options, batch_size=largest_batch(opened.engines, options.batch_size))
        if options.ray is None:
            accuracy = _judge_here(data, fitting, opened, skipped_files, should_stop)
        else:
            accuracy = judge_on_cluster(
                model, data, table, fitting, opened, skipped=skipped_files, should_stop=should_stop, notify=notify
            )
        timing = Timing({}, ("interrupted: latency was not measured",) if options.latency_s and should_stop() else ())
        if options.latency_s and not should_stop():
            with open_as_run(opened.models, threads=options.threads) as timed:
                timing = time_batches({**opened.runners, **timed}, dataset, options, should_stop=should_stop)
        layer_analysis = _analyze(model, dataset, options, opened, should_stop)
        evaluations = opened.describe(
            accuracy.metrics, timing.latencies, num_samples=accuracy.num_samples, model_hash=model.hash
        )
    return Measured(
        accuracy=accuracy,
        timing=timing,
        layer_analysis=layer_analysis,
        evaluations=evaluations,
        skipped=opened.skipped,
        skipped_files=skipped_files,
        environment={**environment, **gpu},
        warnings=opened.warnings,
    )


def _judge_here(
    data: EvaluationData,
    options: EvaluationOptions,
    opened: OpenVariants,
    skipped_files: dict[str, str],
    should_stop: Callable[[], bool],
) -> Measurement:
    with show_progress(None, "evaluating", len(data.dataset), options.progress) as bar:
        return measure(
            opened.runners,
            make_batches(
                data.dataset,
                options.batch_size,
                strict=options.strict,
                workers=options.workers,
                skipped=skipped_files,
                min_readable=options.min_readable,
            ),
            baseline=next(iter(opened.runners)),
            task=data.task.task,
            on_batch=bar.update,
            should_stop=should_stop,
        )


def _analyze(
    model: FloatModel,
    dataset: Dataset,
    options: EvaluationOptions,
    opened: OpenVariants,
    should_stop: Callable[[], bool],
) -> LayerAnalysis:
    """The layer-wise error; none of it after an interruption, since few samples would look like all."""
    if not options.layer_samples:
        return LayerAnalysis()
    if should_stop():
        return LayerAnalysis(warnings=_NOT_ANALYZED)
    found = analyze_layers(
        model,
        dataset,
        options,
        variants=opened.models,
        engines=opened.engines,
        skipped=opened.skipped,
        should_stop=should_stop,
    )
    return replace(found, tensors=(), warnings=(*found.warnings, *_NOT_ANALYZED)) if should_stop() else found
