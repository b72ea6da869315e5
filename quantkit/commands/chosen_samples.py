"""Opens the samples that commands run a model on: to calibrate, and to judge outputs by labels."""

from __future__ import annotations

from quantkit.commands.on_device import runnable
from quantkit.datasets.open import on_split, open_samples, prepared_as
from quantkit.evaluation.gate import check_unlabelled
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.task import TASKS, OpenTask, TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.types import CalibrationTable, Dataset, PathLike, Preprocessing
from quantkit.types.options import CalibrationOptions, EvaluationOptions, ImageOptions, Order, SensitivityOptions


def open_calibration_samples(
    model: FloatModel,
    data: PathLike,
    prepared: Preprocessing | ImageOptions | str | None,
    options: CalibrationOptions | SensitivityOptions,
    order: Order = "shuffled",
) -> Dataset:
    """Chooses the samples that `options` ask for, in the split for training where the data have several."""
    return open_samples(
        runnable(model),
        data,
        on_split(prepared, "train"),
        options.classes,
        num_samples=options.num_samples,
        seed=options.seed,
        order=order,
    )


def open_judged(
    model: FloatModel,
    data: PathLike,
    table: CalibrationTable | None,
    options: EvaluationOptions,
    task: TaskOptions,
    limits: Limits | None,
) -> tuple[Dataset, OpenTask, Preprocessing | ImageOptions | str | None]:
    """The samples, the task that judges outputs by their labels, and how the samples are prepared.

    Raises:
        QuantKitError: data or labels cannot be used, or the limits need labels that are not there.
    """
    kind, prepared = TASKS[task.task], prepared_as(table, options.preprocess, data)
    dataset = open_samples(
        runnable(model),
        data,
        prepared,
        options.classes if kind.has_class_labels else None,
        num_samples=options.num_samples,
        seed=options.seed,
        order="shuffled",
        labelled=kind.has_class_labels,
    )
    judge = kind.open(task, dataset, data, options.classes)
    if limits is not None and isinstance(judge.task, Classification) and dataset.targets is None:
        check_unlabelled(limits, data)
    return dataset, judge, prepared
