"""The samples that variants are evaluated on, with the task that judges outputs by their labels."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from quantkit.commands.extensions import open_runnable
from quantkit.commands.on_device import runnable
from quantkit.commands.wanted_variants import check_variants
from quantkit.datasets.batching import iterate_batches
from quantkit.datasets.open import open_samples, prepared_as
from quantkit.datasets.tar_samples import index_ahead
from quantkit.evaluation.accurate_session import open_accurate
from quantkit.evaluation.gate import check_unlabeled
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.run import feed
from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.task import TASKS, OpenTask, TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.types import CalibrationTable, Dataset, PathLike, Preprocessing
from quantkit.types.options import EvaluationOptions, ImageOptions


@dataclass(frozen=True)
class EvaluationData:
    """Open samples.

    Attributes:
        path: where they are from.
        dataset: the chosen ones.
        task_options: what the outputs mean.
        task: judges outputs; not used before.
        prepared: how they are prepared, as given or as the table says.
    """

    path: PathLike
    dataset: Dataset
    task_options: TaskOptions
    task: OpenTask
    prepared: Preprocessing | ImageOptions | str | None


def open_evaluation_data(
    model: FloatModel,
    data: PathLike | EvaluationData,
    table: CalibrationTable | None,
    options: EvaluationOptions,
    task: TaskOptions,
    limits: Limits | None = None,
) -> EvaluationData:
    """Opens the samples, or takes those that are open if they are prepared alike, and a new task.

    Raises:
        QuantKitError: data or labels cannot be used, or the limits need labels that are not there.
    """
    kind, path = TASKS[task.task], data.path if isinstance(data, EvaluationData) else data
    prepared = prepared_as(table, options.preprocess, path)
    if isinstance(data, EvaluationData) and prepared in (data.prepared, data.dataset.preprocessing):
        dataset = data.dataset
    else:
        index_ahead(path, prepared, show=options.progress)
        dataset = open_samples(
            runnable(model),
            path,
            prepared,
            options.classes if kind.has_class_labels else None,
            num_samples=options.num_samples,
            seed=options.seed,
            order="shuffled",
            labeled=kind.has_class_labels,
        )
    opened = kind.open(task, dataset, path, options.classes)
    if limits is not None and isinstance(opened.task, Classification) and dataset.targets is None:
        check_unlabeled(limits, path)
    return EvaluationData(path, dataset, task, opened, prepared)


def open_evaluation(
    model: PathLike,
    data: PathLike,
    table: CalibrationTable | None,
    options: EvaluationOptions,
    task: TaskOptions,
    limits: Limits | None,
) -> tuple[FloatModel, EvaluationData]:
    """Opens what an evaluation reads before anything is calibrated, and refuses what the evaluation would refuse."""
    opened = open_runnable(model, table, options.preprocess)
    check_variants(opened, options, options.table, limits)
    found = open_evaluation_data(opened, data, table, options, task, limits)
    check_outputs(opened, found)
    return opened, found


def check_outputs(model: FloatModel, data: EvaluationData) -> None:
    """Has the task judge the float model on the first sample, after which it cannot be used again.

    Raises:
        QuantKitError: the outputs are not what the task needs.
    """
    with (
        closing(iterate_batches(data.dataset, 1, workers=1, prefetch=0)) as batches,
        open_accurate(model, name="the model", threads=0) as runner,
    ):
        batch = next(batches)
        data.task.task.update(batch, {"fp32": feed(runner, batch)})
