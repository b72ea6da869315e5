"""The report of an evaluation, put together from what was measured and what the data and the table say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.calibration.table import load_table, table_checksum
from quantkit.commands.reproduction import calibrate_command
from quantkit.datasets.class_labels import remedy_for_parts
from quantkit.datasets.description import describe_skipped
from quantkit.datasets.thumbnails import thumbnail
from quantkit.errors import EvaluationError
from quantkit.evaluation.latency.sweep import timing_warnings
from quantkit.evaluation.run import baseline_warnings
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, unicode_text
from quantkit.reporting.sensitivity_page import load_sensitivity
from quantkit.types import (
    CalibrationTable,
    ChangedSample,
    Dataset,
    Evaluation,
    PathLike,
    QuantizationPlan,
    RankedUnit,
    Report,
    SensitivityRanking,
)
from quantkit.urls import data_path

if TYPE_CHECKING:
    from quantkit.commands.evaluation_data import EvaluationData
    from quantkit.evaluation.latency.sweep import Timing
    from quantkit.evaluation.layer_analysis import LayerAnalysis
    from quantkit.evaluation.run import Measurement


@dataclass(frozen=True)
class Measured:
    """What an evaluation measured.

    Attributes:
        accuracy: the metrics of every variant.
        timing: their latencies.
        layer_analysis: what quantization does to activations and layers.
        evaluations: the same by variant, as a report has it.
        skipped: what the INT8 models that were made here leave in float, with the reason.
        skipped_files: samples that could not be read, with the reason.
        environment: machine and runtimes.
        warnings: variants that the model cannot have, one sentence each.
    """

    accuracy: Measurement
    timing: Timing
    layer_analysis: LayerAnalysis
    evaluations: Sequence[Evaluation]
    skipped: Mapping[str, Mapping[str, str]]
    skipped_files: Mapping[str, str]
    environment: Mapping[str, str]
    warnings: Sequence[str]

    def is_partial(self, dataset: Dataset) -> bool:
        """Whether it was interrupted before every sample of `dataset` was seen."""
        return self.accuracy.is_partial and self.accuracy.num_samples + len(self.skipped_files) < len(dataset)


def make_report(
    measured: Measured,
    model: FloatModel,
    data: EvaluationData,
    table: CalibrationTable | None,
    *,
    plan: QuantizationPlan | None,
    sensitivity: SensitivityRanking | None,
    command: str | None,
) -> Report:
    """Puts the report together.

    Args:
        measured: of every variant.
        model: the FP32 model.
        data: the samples, with the task.
        table: calibration of the INT8 variants that were made here.
        plan: what `tune` found, if it was given.
        sensitivity: what quantizing each part costs, of the same table.
        command: what was typed.
    """
    found, dataset, task = measured.accuracy, data.dataset, data.task.task
    num_scores = found.metrics[measured.evaluations[0].name].get("num_classes")
    disturbances = timing_warnings(measured.timing.latencies, measured.environment)
    warnings = [
        *baseline_warnings(found.metrics[measured.evaluations[0].name]),
        *_data_warnings(table, dataset),
        *measured.warnings,
        *_label_warnings(dataset, num_scores),
        *task.notes,
        *measured.timing.warnings,
        *measured.layer_analysis.warnings,
        *disturbances,
    ]
    if measured.skipped_files:
        warnings.append(describe_skipped(measured.skipped_files, dataset))
    calibration = None if table is None else calibrate_command(table, str(model))
    return Report(
        model_name=model.name,
        model_hash=model.hash,
        evaluations=tuple(measured.evaluations),
        dataset={
            "name": unicode_text(data_path(data.path).name),
            "num_samples": found.num_samples,
            "num_skipped": len(measured.skipped_files),
            "num_classes": len(data.task.class_names) or int(num_scores or 0),
            "fingerprint": dataset.fingerprint,
            **data.task.facts,
            **task.facts,
        },
        preprocessing=dataset.preprocessing,
        calibration={} if table is None else {**table.settings, "num_samples": table.num_samples},
        environment=measured.environment,
        skipped=measured.skipped.get("int8") or measured.skipped.get("int8-cpu") or {},
        range_methods={} if table is None else count_methods(table),
        float_tensors={} if table is None else table.float_tensors,
        plan=plan,
        sensitivity=sensitivity,
        warnings=tuple(warnings),
        timing_warnings=(*measured.timing.warnings, *disturbances),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        task=task.name,
        score=task.score,
        planned_samples=len(dataset) if measured.is_partial(dataset) else None,
        classes=task.classes(),
        changes=_with_thumbnails(task.changes(), dataset),
        num_changes=task.num_changes(),
        tensors=measured.layer_analysis.tensors,
        layers=measured.layer_analysis.layers,
        commands=tuple(unicode_text(line) for line in (calibration, command) if line),
    )


def count_methods(table: CalibrationTable) -> dict[str, int]:
    """By method, how many activations that are not left in float have its range; nothing where one method chose all."""
    return dict(Counter(r.method for name, r in table.tensors.items() if r.method and name not in table.float_tensors))


def find_ranking(table: CalibrationTable | PathLike | None, notify: Notify) -> SensitivityRanking | None:
    """The ranking that `quantkit sensitivity` left beside the table's file, if it is of this table."""
    if table is None or isinstance(table, CalibrationTable):
        return None
    path = Path(table).parent / "sensitivity.json"
    if not path.is_file():
        return None
    try:
        found = load_sensitivity(path)
    except EvaluationError as error:
        notify(Notice("warning", "unreadable", str(error)))
        return None
    if found.table_checksum != table_checksum(load_table(table)):
        notify(Notice("info", "reuse", f"{path} is of another table: the report does not show it."))
        return None
    if not math.isfinite(found.damage):  # the output of the model is not finite: there is nothing to rank by
        return None
    units = [RankedUnit(u.name, u.kind, u.damage, u.saved) for u in found.units]
    return SensitivityRanking(found.measure, found.damage, tuple(u for u in units if math.isfinite(u.damage + u.saved)))


def _with_thumbnails(changes: Sequence[ChangedSample], dataset: Dataset) -> tuple[ChangedSample, ...]:
    wanted = {change.sample for change in changes}
    pictures = {name: thumbnail(dataset, index) for index, name in enumerate(dataset.ids) if name in wanted}
    return tuple(replace(change, thumbnail=pictures.get(change.sample, "")) for change in changes)


def _data_warnings(table: CalibrationTable | None, dataset: Dataset) -> list[str]:
    if table is None:
        return []
    found = []
    if dataset.fingerprint == table.dataset_fingerprint:
        found.append("these are the images that calibration saw: INT8 will look better than on new ones")
    if None not in (table.preprocessing, dataset.preprocessing) and table.preprocessing != dataset.preprocessing:
        found.append("the data were prepared differently than for calibration: the INT8 ranges may not fit")
    return found


def _label_warnings(dataset: Dataset, scores: float | None) -> list[str]:
    """Class names that were numbered by their order, where the model knows other classes too."""
    if dataset.targets is None or not dataset.classes or scores is None or len(dataset.classes) == scores:
        return []
    remedy = "classes are numbered in the order of their names; pass the model's order with --classes if the accuracy"
    remedy = remedy_for_parts(dataset.classes) or f"{remedy} looks wrong"
    return [f"the data has {len(dataset.classes)} classes and the model scores {scores:.0f}: {remedy}"]
