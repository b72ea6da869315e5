"""Statistics of a calibration from a Ray cluster: each task opens model and data by itself and takes its samples."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.backends.ray_cluster import RayCluster, connect
from quantkit.calibration.collect import fitting_batch_size
from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin
from quantkit.commands.shard import Shard, collect_shard, merge_gathered
from quantkit.datasets.batching import check_readable, make_batches
from quantkit.datasets.description import describe_skipped
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import share_weights
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.passes.expose import expose
from quantkit.notices import Notice, Notify
from quantkit.progress import show_progress
from quantkit.types import Dataset, PathLike
from quantkit.types.options import CalibrationOptions

__all__ = ["collect_on_cluster", "split_samples"]

_SHARDS_PER_SLOT = 4
"""So that a task that is slow, or done again, holds up little."""


def collect_on_cluster(
    model: FloatModel,
    runnable: FloatModel,
    data: PathLike,
    dataset: Dataset,
    origin: StatisticsOrigin,
    options: CalibrationOptions,
    *,
    notify: Notify,
) -> KeptStatistics:
    """What `collect_statistics` gives, by the tasks of the cluster of `options.ray`.

    Raises:
        QuantKitError: as there; or there is no cluster, or its nodes do not see the same model and data.
    """
    if not model.source_files:
        raise ModelError("--ray needs a model file that every node can read")
    names = observed_tensors(runnable.prepared(), all_tensors=options.all_tensors).names
    options = replace(options, batch_size=options.batch_size or _batch_size(runnable, names, dataset, options))
    uses_gpus = options.device != "cpu"
    with connect(str(options.ray), use_gpus=uses_gpus) as cluster:
        shards = _shards(cluster, model, data, origin, options)
        notify(Notice("info", "device", _describe(cluster, len(shards))))
        with show_progress(None, "calibrating", len(dataset), options.progress) as bar:
            sizes = [len(shard.origin.contents) for shard in shards]
            found = cluster.map_merge(collect_shard, shards, merge_gathered, lambda index: bar.update(sizes[index]))
    # In the order of the samples, whoever was first.
    unreadable = {name: found.unreadable[name] for name in dataset.ids if name in found.unreadable}
    check_readable(unreadable, len(dataset), options.min_readable)
    if unreadable:
        notify(Notice("warning", "unreadable", describe_skipped(unreadable, dataset)))
    return KeptStatistics(
        origin=origin,
        tensors=found.tensors,
        num_read=len(dataset),
        num_samples=found.num_samples,
        unreadable=unreadable,
        batch_size=options.batch_size or 1,
        num_repeated=found.num_repeated,
    )


def split_samples(count: int, num_shards: int, batch_size: int) -> list[range]:
    """At most so many parts of about equal size, of whole batches but for the last.

    >>> split_samples(100, 3, 16)
    [range(0, 48), range(48, 96), range(96, 100)]
    """
    batches = -(-count // batch_size)
    of_part = -(-batches // max(num_shards, 1)) * batch_size
    return [range(start, min(start + of_part, count)) for start in range(0, count, of_part)]


def _shards(
    cluster: RayCluster, model: FloatModel, data: PathLike, origin: StatisticsOrigin, options: CalibrationOptions
) -> list[Shard]:
    alone = replace(options, progress=False, table_path=None, cache_path=None, engine_path=None, ray=None)
    parts = split_samples(
        len(origin.contents), cluster.num_slots * _SHARDS_PER_SLOT, options.batch_size or len(origin.contents)
    )
    return [
        Shard(
            folder=str(Path.cwd()),
            model=os.path.abspath(model.path),
            data=os.path.abspath(data),
            options=alone,
            threads=cluster.cpus,
            first=part.start,
            origin=replace(origin, contents=origin.contents[part.start : part.stop]),
        )
        for part in parts
    ]


def _batch_size(runnable: FloatModel, names: tuple[str, ...], dataset: Dataset, options: CalibrationOptions) -> int:
    """As one machine would choose it: with the same batches, activations are the same to the last bit."""
    first = next(iter(make_batches(dataset, 1, strict=options.strict, workers=1, skipped={})))
    with OnnxRuntimeRunner(share_weights(expose(runnable.prepared(), names)), spinning=False) as runner:
        return fitting_batch_size(runner, first)


def _describe(cluster: RayCluster, num_shards: int) -> str:
    each = "a GPU" if cluster.gpus else f"{cluster.cpus} CPU{'s' if cluster.cpus > 1 else ''}"
    return f"device: Ray cluster, {cluster.num_slots} tasks at once with {each} each, {num_shards} parts of the data"
