"""Evaluations of one INT8 model with different tensors in float, kept in files so that no one is made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from quantkit._version import __version__
from quantkit.calibration.refinement_file import roundings_digests
from quantkit.calibration.table import table_checksum
from quantkit.commands.evaluate import evaluate
from quantkit.commands.evaluation_data import EvaluationData, check_outputs, open_evaluation_data
from quantkit.commands.extensions import extension_identity
from quantkit.datasets.description import how_to_label
from quantkit.errors import EvaluationError
from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.reporting import load_report
from quantkit.reporting.json import report_json
from quantkit.storage import write_text
from quantkit.types import CalibrationTable, PathLike, Report
from quantkit.types.options import EvaluationOptions, TuneOptions
from quantkit.urls import data_path

VARIANT = "int8"
"""What is evaluated beside FP32."""


def open_validation(
    model: FloatModel, table: CalibrationTable | None, val: PathLike, task: TaskOptions, options: TuneOptions
) -> EvaluationData:
    """The validation samples of a model whose inputs are fixed, before anything is calibrated.

    Raises:
        EvaluationError: they have no labels, or the model's outputs are not what the task needs.
    """
    chosen = EvaluationOptions(
        preprocess=options.preprocess,
        classes=options.classes,
        num_samples=options.num_val_samples,
        seed=options.seed,
    )
    found = open_evaluation_data(model, val, table, chosen, task)
    if isinstance(found.task.task, Classification) and found.dataset.targets is None:
        raise EvaluationError(f"--val: {data_path(val)} has no labels: {how_to_label(val)}; or choose another --task")
    check_outputs(model, found)
    return found


class KeptEvaluations:
    """Evaluates on the same validation samples what a table's model scores with some tensors left in float.

    Args:
        model: the float model.
        table: its calibration.
        val: validation data, which may be open.
        task: what the outputs mean.
        options: with the folder of the files; without one, nothing is kept.
    """

    def __init__(
        self,
        model: FloatModel,
        table: CalibrationTable,
        val: PathLike | EvaluationData,
        task: TaskOptions,
        options: TuneOptions,
    ) -> None:
        self._model, self.table, self._task = model, table, task
        self._folder = None if options.runs is None else Path(options.runs)
        self._options = EvaluationOptions(
            variants=[VARIANT],
            num_samples=options.num_val_samples,
            batch_size=options.batch_size,
            preprocess=options.preprocess,
            classes=options.classes,
            seed=options.seed,
            workers=options.workers,
            device=options.device,
            ray=options.ray,
            plugins=options.plugins,
            ort_extension=options.ort_extension,
            progress=options.progress,
            latency_s=0,
            layer_samples=0,
        )
        self._val = open_evaluation_data(model, val, table, self._options, task)
        self._libraries = extension_identity(self._options)

    def report(self, float_tensors: Mapping[str, str], formats: Mapping[str, str] | None = None) -> tuple[Report, bool]:
        """The report with these tensors in float beside those of the table, and whether it is of an earlier run.

        Args:
            float_tensors: with the reason.
            formats: of tensors in another format than INT8.

        Raises:
            QuantKitError: the data do not fit the model or the task.
        """
        kept = None if self._folder is None else self._folder / f"{self._name(float_tensors, formats or {})}.json"
        if kept is not None and kept.is_file():
            return load_report(kept), True
        in_float = {name: why for name, why in self.table.float_tensors.items() if name not in (formats or {})}
        table = replace(self.table, float_tensors={**in_float, **float_tensors}, formats=formats or {})
        report = evaluate(self._model, self._val, replace(self._options, table=table), task=self._task)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, report_json(report))
        return report, False

    def _name(self, float_tensors: Mapping[str, str], formats: Mapping[str, str]) -> str:
        """A name made of everything that decides the score, but for annotations that lie in files of their own."""
        # The checksum is of the table alone: rounded weights may have been missing beside it.
        is_refined = self.table.refinement is not None
        facts = [__version__, self._model.hash, table_checksum(self.table), is_refined, self._val.dataset.fingerprint]
        facts += [str(self._task), *map(list, sorted(formats.items()))]
        facts += [*roundings_digests(replace(self.table, formats=formats), VARIANT).values(), self._libraries]
        return hashlib.sha256(json.dumps([*facts, sorted(float_tensors)]).encode()).hexdigest()[:16]
