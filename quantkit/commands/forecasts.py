"""What commands that calibrate would do: `calibrate`, `sensitivity` and `tune` with `--dry-run`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from quantkit.backends.devices import choose_devices
from quantkit.backends.ray_cluster import check_cluster
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import check_replaced, stored_table
from quantkit.calibration.methods import bind_method
from quantkit.calibration.refinement_file import refinement_path
from quantkit.commands.calibrate import settle_calibrator
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.commands.cluster import cluster_line
from quantkit.commands.extensions import cut_to_runnable, with_extensions
from quantkit.commands.fixed_inputs import fix_as_calibrated, fix_inputs
from quantkit.commands.sensitivity import find_fitting_table
from quantkit.datasets.open import prepared_as
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.notices import announcing, plural
from quantkit.pass_cost import (
    Forecast,
    PassCost,
    data_line,
    forecast,
    measure_pass,
    model_line,
)
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.options import CalibrationOptions, Effort, SensitivityOptions, TuneOptions


def forecast_calibration(
    model: PathLike | FloatModel, data: PathLike, options: CalibrationOptions, outputs: Sequence[Path]
) -> Forecast:
    """Forecasts `calibrate`, which writes `outputs`, the table first."""
    bind_method(options.method, options.method_options)
    model = fix_inputs(FloatModel.open(model), options.preprocess)
    model.check_float()
    choose_devices(options.device)
    settle_calibrator(options)
    dataset = open_calibration_samples(model, data, options.preprocess, options)
    if not options.force:
        check_replaced(outputs[0], stored_table(outputs[0]), model.hash, len(dataset), asked=options.num_samples)
    with with_extensions(options):
        part = cut_to_runnable(model, announcing(None))
        cost, count = measure_pass(part, dataset), len(dataset)
    observed = observed_tensors(part.prepared(), all_tensors=options.all_tensors)
    runs = [f"{plural(count, 'sample')} through the float model, of which {len(observed.names)} tensors get a range"]
    runs += cluster_line("statistics", options.ray)
    if options.effort == "fast":
        outputs = [path for path in outputs if path != refinement_path(outputs[0])]
    else:
        runs.append(f"--accuracy {options.effort}: ranges tried on the model, weights rounded with error feedback")
    reused = f"if {outputs[0]} is of the same model, data and settings, it is reused, and nothing runs"
    return forecast(
        [model_line(model), data_line(dataset, data)],
        runs,
        outputs,
        cost=cost,
        processor_s=cost.calibration_s(count, options.effort),
        memory_bytes=cost.memory(count, options.effort),
        grounds=reused if outputs[0].exists() else "",
    )


def forecast_sensitivity(
    model: PathLike, data: PathLike, options: SensitivityOptions, outputs: Sequence[Path]
) -> Forecast:
    """Forecasts `sensitivity`; raises what that would refuse."""
    check_cluster(options.ray)
    choose_devices(options.device)
    found = FloatModel.open(model)
    found.check_float()
    with with_extensions(options):
        table = find_fitting_table(found, options, announcing(None))
        opened = fix_as_calibrated(found, table, options.preprocess)
        dataset = open_calibration_samples(opened, data, prepared_as(table, options.preprocess, data), options)
        cost = measure_pass(opened, dataset)
    runs, seconds = _calibration(table, cost, len(dataset), "fast")
    return forecast(
        [model_line(opened), data_line(dataset, data), *_table_line(opened, options, table)],
        [*runs, _ranks(cost, 2), *cluster_line("the ranking", options.ray)],
        outputs,
        cost=cost,
        processor_s=seconds + cost.ranking_s(2),
        memory_bytes=cost.memory(len(dataset)),
    )


def forecast_tuning(
    model: PathLike, data: PathLike, val: PathLike, options: TuneOptions, task: TaskOptions, output: Path
) -> Forecast:
    """Forecasts `tune`, which keeps evaluations and a calibration beside `output`; raises what that would refuse."""
    from quantkit.commands.tune import open_tuning  # it loads evaluation and reports, which calibrate does without

    check_cluster(options.ray)
    choose_devices(options.device)
    with with_extensions(options):
        opened, table, validation = open_tuning(FloatModel.open(model), val, options, task, announcing(None))
        dataset = open_calibration_samples(opened, data, prepared_as(table, options.preprocess, data), options)
        cost, num_val = measure_pass(opened, dataset), len(validation.dataset)
    evaluations = 2 + 2 * math.ceil(math.log2(max(cost.num_tensors, 2)))
    runs, seconds = _calibration(table, cost, len(dataset), "balanced")
    outputs = [output]
    if table is None and options.table_path is not None:
        outputs += [Path(options.table_path), refinement_path(options.table_path)]
    if options.runs is not None:
        outputs.append(Path(options.runs) / "*.json")
    return forecast(
        [
            model_line(opened),
            data_line(dataset, data),
            f"validation: {data_line(validation.dataset, val)}",
            *_table_line(opened, options, table),
        ],
        [*runs, _ranks(cost, 1), f"up to {evaluations} evaluations", *cluster_line("both", options.ray)],
        outputs,
        cost=cost,
        processor_s=seconds + cost.ranking_s(1) + evaluations * cost.evaluation_s(num_val, 1),
        memory_bytes=cost.memory(len(dataset), "balanced"),
        grounds="if the first evaluation meets the budget, the search ends with it",
    )


def _table_line(model: FloatModel, options: SensitivityOptions, table: CalibrationTable | None) -> list[str]:
    given = CalibrationFiles.of_model(model.path).table if options.table is None else options.table
    return [] if table is None or isinstance(given, CalibrationTable) else [f"table: {given}"]


def _calibration(table: CalibrationTable | None, cost: PassCost, count: int, effort: Effort) -> tuple[list[str], float]:
    """What is run where there is no table, and the processor seconds."""
    if table is not None:
        return [], cost.calibration_s(0, "fast")
    return [f"a calibration with --accuracy {effort}"], cost.calibration_s(count, effort)


def _ranks(cost: PassCost, kinds: int) -> str:
    what = "tensors and operators" if kinds == 2 else "tensors"
    return f"a ranking of about {kinds * cost.num_tensors} {what}, each quantized alone and left out alone"
