"""What commands that run the model would do: `calibrate`, `evaluate`, `sensitivity` and `tune` with `--dry-run`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from quantkit.backends.devices import choose_devices
from quantkit.calibration.methods import bind_method
from quantkit.calibration.table import open_table
from quantkit.commands.calibrate import settle_calibrator
from quantkit.commands.fixed_inputs import fix_inputs
from quantkit.commands.on_device import runnable
from quantkit.commands.pass_cost import Forecast, PassCost, data_line, forecast, measure_pass, model_line
from quantkit.datasets.open import on_split, open_samples, prepared_as
from quantkit.evaluation.models import choose_variants
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision
from quantkit.types import CalibrationTable, Dataset, PathLike, Preprocessing
from quantkit.types.options import (
    CalibrationOptions,
    DataOptions,
    Effort,
    EvaluationOptions,
    ImageOptions,
    SensitivityOptions,
    TuneOptions,
)

_VARIANT_PASSES = 2.0
"""Of a variant beside the float model: Q/DQ and FP16 are computed in float, rounded in between."""

_LAYER_PASSES = 4.0

_RANKED_SAMPLES = 32
"""Per unit of a ranking: all on few samples, the worst on more."""


def forecast_calibration(
    model: PathLike | FloatModel, data: PathLike, options: CalibrationOptions, outputs: Sequence[Path]
) -> Forecast:
    """Of `calibrate`, which writes `outputs`, the table first."""
    bind_method(options.method, options.method_options)
    model = fix_inputs(FloatModel.open(model), options.preprocess)
    model.check_float()
    choose_devices(options.device)
    settle_calibrator(options)
    dataset = _open(model, data, options, on_split(options.preprocess, "train"), options.num_samples)
    cost, count = measure_pass(model, dataset), len(dataset)
    runs = [f"{count} samples through the float model, of which {cost.num_tensors} tensors get a range"]
    if options.effort != "fast":
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


def forecast_evaluation(
    model: PathLike, data: PathLike, options: EvaluationOptions, outputs: Sequence[Path]
) -> Forecast:
    """Of `evaluate` with the table that it has found."""
    opened = FloatModel.open(model)
    table = None if options.table is None else _open_existing(options.table)
    names = [*choose_variants(options.variants, table, float_precision(opened.graph)), *(options.models or {})]
    names += options.engines or {}
    dataset = _open(opened, data, options, prepared_as(table, options.preprocess, data), options.num_samples)
    cost, count = measure_pass(opened, dataset), len(dataset)
    passes = count * (1 + _VARIANT_PASSES * (len(names) - 1)) + options.layer_samples * _LAYER_PASSES * len(names)
    timed = len(names) * len(options.batch_sizes) * options.latency_s
    runs = [f"{count} samples through {', '.join(names)}"]
    if timed:
        sizes = ",".join(map(str, options.batch_sizes))
        runs.append(f"latency at batch {sizes}: {options.latency_s:g} s for each of {len(names)} variants and sizes")
    return forecast(
        [model_line(opened), data_line(dataset, data), *([] if table is None else [f"table: {options.table}"])],
        runs,
        outputs,
        cost=cost,
        processor_s=cost.calibration_s(0, "fast") + cost.passes_s(passes, count),
        fixed_s=timed,
        memory_bytes=cost.memory(options.batch_size) + len(names) * cost.model_bytes,
    )


def forecast_sensitivity(
    model: PathLike, data: PathLike, options: SensitivityOptions, outputs: Sequence[Path]
) -> Forecast:
    """Of `sensitivity`."""
    opened = FloatModel.open(model)
    dataset = _open(opened, data, options, on_split(options.preprocess, "train"), options.num_samples)
    cost = measure_pass(opened, dataset)
    return forecast(
        [model_line(opened), data_line(dataset, data)],
        [*_calibrates(options.table, "fast"), _ranks(cost, 2)],
        outputs,
        cost=cost,
        processor_s=_table_s(cost, options, len(dataset), "fast") + cost.passes_s(_ranking_passes(cost, 2)),
        memory_bytes=cost.memory(len(dataset)),
    )


def forecast_tuning(
    model: PathLike, data: PathLike, val: PathLike, options: TuneOptions, outputs: Sequence[Path]
) -> Forecast:
    """Of `tune`."""
    opened = FloatModel.open(model)
    dataset = _open(opened, data, options, on_split(options.preprocess, "train"), options.num_samples)
    judged = _open(opened, val, options, on_split(options.preprocess, "val"), options.num_val_samples)
    cost = measure_pass(opened, dataset)
    evaluations = 2 + 2 * math.ceil(math.log2(max(cost.num_tensors, 2)))
    passes = _ranking_passes(cost, 1) + evaluations * len(judged) * (1 + _VARIANT_PASSES)
    return forecast(
        [model_line(opened), data_line(dataset, data), f"validation: {data_line(judged, val)}"],
        [*_calibrates(options.table, "balanced"), _ranks(cost, 1), f"up to {evaluations} evaluations"],
        outputs,
        cost=cost,
        processor_s=_table_s(cost, options, len(dataset), "balanced")
        + cost.passes_s(passes, evaluations * len(judged)),
        memory_bytes=cost.memory(len(dataset), "balanced"),
        grounds="if the first evaluation meets the budget, the search ends with it",
    )


def _open(
    model: FloatModel,
    data: PathLike,
    options: DataOptions,
    prepared: Preprocessing | ImageOptions | str | None,
    count: int | None,
) -> Dataset:
    opened = runnable(model)
    return open_samples(opened, data, prepared, options.classes, num_samples=count, seed=options.seed, order="shuffled")


def _open_existing(table: CalibrationTable | PathLike) -> CalibrationTable | None:
    """None for one that --calibrate-data would make."""
    return open_table(table) if isinstance(table, CalibrationTable) or Path(table).exists() else None


def _calibrates(table: CalibrationTable | PathLike | None, effort: Effort) -> list[str]:
    if table is not None:
        return []
    return [f"a calibration with --accuracy {effort}, unless MODEL.calib.json next to the model fits"]


def _table_s(cost: PassCost, options: SensitivityOptions, count: int, effort: Effort) -> float:
    return cost.calibration_s(0 if options.table is not None else count, "fast" if options.table else effort)


def _ranks(cost: PassCost, kinds: int) -> str:
    what = "tensors and operators" if kinds == 2 else "tensors"
    return f"a ranking of about {kinds * cost.num_tensors} {what}, each quantized alone and left out alone"


def _ranking_passes(cost: PassCost, kinds: int) -> float:
    return 2.0 * kinds * cost.num_tensors * _RANKED_SAMPLES
