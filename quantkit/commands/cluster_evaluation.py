"""The accuracy of variants by the tasks of a Ray cluster: each makes the variants by itself and judges some samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from quantkit.backends.onnxruntime import chosen_gpu
from quantkit.commands.cluster import describe_inputs, in_order, map_samples, open_cluster
from quantkit.commands.evaluation_data import EvaluationData, open_evaluation_data
from quantkit.commands.extensions import open_runnable, with_extensions
from quantkit.commands.on_device import on_device
from quantkit.commands.shard import Shard
from quantkit.commands.variants import OpenVariants, open_variants
from quantkit.datasets.batching import check_readable, make_batches
from quantkit.datasets.fingerprint import contents_of
from quantkit.errors import ChangedDataError, DatasetError, ModelError
from quantkit.evaluation.run import JudgedBatch, Measurement, judge_batches, sum_up
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notify, announcing
from quantkit.types import CalibrationTable
from quantkit.types.options import EvaluationOptions


@dataclass(frozen=True, kw_only=True)
class EvaluationShard(Shard):
    """Samples to run through all variants.

    Attributes:
        options: of the evaluation, with the size of a batch.
        table: what INT8 variants are made of.
        task: what the outputs mean.
        facts: of the labels.
        are_scores: see `Task`.
        variants: hashes of the models by name.
    """

    options: EvaluationOptions
    table: CalibrationTable | None
    task: TaskOptions
    facts: Mapping[str, object]
    are_scores: bool | None
    variants: Mapping[str, str]


@dataclass(frozen=True)
class Judged:
    """What is known of some samples.

    Attributes:
        batches: by the position of the first sample of the part that they are of, in order.
        unreadable: reason by id.
    """

    batches: Mapping[int, tuple[JudgedBatch, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def judge_on_cluster(
    model: FloatModel,
    data: EvaluationData,
    table: CalibrationTable | None,
    options: EvaluationOptions,
    opened: OpenVariants,
    *,
    skipped: dict[str, str],
    should_stop: Callable[[], bool],
    notify: Notify,
) -> Measurement:
    """What `quantkit.evaluation.evaluate` finds, by the tasks of the cluster of `options.ray`.

    Args:
        model: the FP32 model.
        data: the samples.
        table: of the INT8 variants.
        options: with the size of a batch.
        opened: the variants, which the tasks must make alike.
        skipped: gets id and reason of what cannot be read.
        should_stop: asked meanwhile: whether to be content with the samples that tasks are done with.
        notify: hears what is run.

    Raises:
        QuantKitError: as there; or there is no cluster, or its nodes do not see the same model, data and labels.
    """
    on_gpu = [f"the engine {name}" for name, engine in opened.engines.items() if engine.device == "gpu"]
    on_gpu += [] if chosen_gpu() is None else [f"--device {options.device}"]
    alone = replace(options, device="cuda:0" if chosen_gpu() is not None else "cpu", min_readable=0.0, progress=False)
    contents = contents_of(data.dataset, show=options.progress)
    whole = EvaluationShard(
        options=replace(alone, table=None, plan=None, ray=None),
        table=table,
        task=data.task_options,
        facts=data.task.facts,
        are_scores=None,
        variants=_hashes(opened),
        **describe_inputs(model, data.path, contents, options, data.task_options),
    )
    title, (needs_gpu, *_) = "evaluating" if options.progress else None, (*on_gpu, "")
    with open_cluster(str(options.ray), use_gpus=bool(on_gpu), needs_gpu=needs_gpu) as cluster:
        whole = replace(whole, are_scores=_judge_first(data, options, opened))
        found = map_samples(
            cluster,
            judge_shard,
            whole,
            _merge,
            options.batch_size,
            title=title,
            should_stop=should_stop,
            notify=notify,
        )
    skipped |= in_order(found.unreadable, data.dataset)
    check_readable(skipped, len(data.dataset), options.min_readable)
    measured = sum_up(chain.from_iterable(batches for _, batches in sorted(found.batches.items())), data.task.task)
    return replace(measured, is_partial=measured.is_partial or should_stop())


def _judge_first(data: EvaluationData, options: EvaluationOptions, opened: OpenVariants) -> bool | None:
    """Has the first batch decide what the task makes of the outputs, as on one machine: whether they are scores."""
    (baseline, runner), *_ = opened.runners.items()
    batches = make_batches(data.dataset, options.batch_size, strict=options.strict, workers=options.workers, skipped={})
    for _ in judge_batches({baseline: runner}, islice(batches, 1), baseline=baseline, task=data.task.task):
        batches.close()
    return data.task.task.are_scores


def judge_shard(shard: EvaluationShard) -> Judged:
    """Runs all variants on the samples of a shard, wherever this is called.

    Raises:
        QuantKitError: model, data, labels or variants are not what the shard was made of, or cannot be used.
    """
    silent = announcing(None)  # the command says what there is to say
    shard.enter()
    options = replace(shard.options, workers=shard.threads, threads=shard.threads)
    with with_extensions(options), on_device(options, silent):
        model = shard.check_model(open_runnable(shard.model, shard.table))
        data = open_evaluation_data(model, shard.data, shard.table, options, shard.task)
        samples, task = shard.choose(data.dataset), data.task.task
        if data.task.facts != shard.facts:
            raise ChangedDataError(f"the labels of {shard.data} are others than those of the command")
        task.are_scores = shard.are_scores
        unreadable: dict[str, str] = {}
        with open_variants(model, shard.table, options, data.dataset) as opened:
            for name, found in _hashes(opened).items():
                if found != shard.variants.get(name):
                    raise ModelError(f"{name} is another model than that of the command: do processors differ?")
            batches = make_batches(
                samples, options.batch_size, strict=options.strict, workers=options.workers, skipped=unreadable
            )
            try:
                judged = tuple(judge_batches(opened.runners, batches, baseline=next(iter(opened.runners)), task=task))
            except DatasetError:
                if options.strict or len(unreadable) < len(samples):
                    raise
                judged = ()
    return Judged({shard.first: judged}, unreadable)


def _hashes(opened: OpenVariants) -> dict[str, str]:
    return {name: model.hash for name, model in opened.models.items()}


def _merge(one: Judged, other: Judged) -> Judged:
    """What is known of the samples of both."""
    return Judged({**one.batches, **other.batches}, {**one.unreadable, **other.unreadable})
