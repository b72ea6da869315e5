"""What `evaluate` would do: with `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.backends.ray_cluster import check_cluster
from quantkit.calibration.plan_file import open_planned_table
from quantkit.calibration.refinement_file import refinement_path
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.commands.cluster import cluster_line
from quantkit.commands.evaluation_data import open_evaluation
from quantkit.commands.extensions import with_extensions
from quantkit.commands.on_device import on_device
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.models import OTHER_FORMATS, choose_variants
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.model import float_precision
from quantkit.notices import announcing, plural
from quantkit.pass_cost import (
    Forecast,
    data_line,
    forecast,
    measure_pass,
    model_line,
)
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.options import CalibrationOptions, EvaluationOptions


def forecast_evaluation(
    model: PathLike,
    data: PathLike,
    options: EvaluationOptions,
    outputs: Sequence[Path],
    *,
    task: TaskOptions,
    limits: Limits | None = None,
    calibrate_data: PathLike | None = None,
) -> Forecast:
    """Forecasts `evaluate` with the table that it found or that `calibrate_data` make; raises what it would refuse."""
    check_cluster(options.ray)
    made, effort, calibrated = calibrate_data is not None, CalibrationOptions().effort, 0
    reads, runs, writes = [], [], list(outputs)
    with with_extensions(options), on_device(options, announcing(None)):
        table = None if made else open_planned_table(options.table, options.plan)
        opened, found = open_evaluation(model, data, table, options, task, limits)
        dataset = found.dataset
        chosen = choose_variants(options.variants, options.table, float_precision(opened.graph))
        names = [*chosen, *(options.models or {}), *(options.engines or {})]
        cost, count = measure_pass(opened, dataset), len(dataset)
        if calibrate_data is not None and isinstance(options.table, str | Path):
            samples = open_calibration_samples(opened, calibrate_data, options.preprocess, CalibrationOptions())
            calibrated = len(samples)
            reads.append(f"calibration: {data_line(samples, calibrate_data)}")
            runs.append(f"a calibration with --accuracy {effort}, unless {options.table} is up to date")
            formats = ["int8", *(name for name in chosen if name in OTHER_FORMATS)]
            writes = [Path(options.table), *(refinement_path(options.table, name) for name in formats), *writes]
    if not made and not isinstance(options.table, CalibrationTable | None):
        reads.append(f"table: {options.table}")
    timed = len(names) * len(options.batch_sizes) * options.latency_s
    runs.append(f"{plural(count, 'sample')} through {', '.join(names)}")
    runs += cluster_line("accuracy", options.ray)
    if timed:
        sizes = ",".join(map(str, options.batch_sizes))
        runs.append(f"latency at batch {sizes}: {options.latency_s:g} s for each of {len(names)} variants and sizes")
    effort = effort if calibrated else "fast"
    return forecast(
        [model_line(opened), data_line(dataset, data), *reads, *([str(options.plan)] if options.plan else [])],
        runs,
        writes,
        cost=cost,
        processor_s=cost.calibration_s(calibrated, effort)
        + cost.evaluation_s(count, len(names) - 1, options.layer_samples),
        fixed_s=timed,
        memory_bytes=max(cost.memory(options.batch_size), cost.memory(calibrated, effort))
        + len(names) * cost.model_bytes,
    )
