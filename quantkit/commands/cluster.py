"""Statistics of a calibration from a Ray cluster: each task opens model and data by itself and takes its samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from quantkit.backends.ray_cluster import RayCluster, connect
from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin
from quantkit.commands.collect import check_collected
from quantkit.commands.on_device import Member, choose_batch_size
from quantkit.commands.shard import Shard, collect_shard, merge_gathered
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify
from quantkit.progress import show_progress
from quantkit.types import Dataset, PathLike
from quantkit.types.options import CalibrationOptions
from quantkit.types.urls import DataUrl, data_path

__all__ = ["collect_on_cluster", "split_samples"]

_SHARDS_PER_SLOT = 4
"""So that a task that is slow, or done again, holds up little."""


def collect_on_cluster(
    members: AbstractContextManager[Sequence[Member]],
    model: FloatModel,
    data: PathLike,
    dataset: Dataset,
    origin: StatisticsOrigin,
    options: CalibrationOptions,
    *,
    notify: Notify,
) -> KeptStatistics:
    """What `collect_statistics` gives, by the tasks of the cluster of `options.ray`.

    With the batches that the `members` of this machine would run, activations are the same to the last bit.

    Raises:
        QuantKitError: as there; or there is no cluster, or its nodes do not see the same model and data.
    """
    if not model.source_files:
        raise ModelError("--ray needs a model file that every node can read")
    if options.batch_size is None:
        with members as opened:
            options = replace(options, batch_size=choose_batch_size(opened, dataset, strict=options.strict))
    uses_gpus = options.device != "cpu"
    with connect(str(options.ray), use_gpus=uses_gpus) as cluster:
        shards = _shards(cluster, model, data, origin, options)
        notify(Notice("info", "device", _describe(cluster, len(shards))))
        with show_progress(None, "calibrating", len(dataset), options.progress) as bar:
            sizes = [len(shard.origin.contents) for shard in shards]
            found = cluster.map_merge(collect_shard, shards, merge_gathered, lambda index: bar.update(sizes[index]))
    # In the order of the samples, whoever was first.
    unreadable = {name: found.unreadable[name] for name in dataset.ids if name in found.unreadable}
    kept = KeptStatistics(
        origin=origin,
        tensors=found.tensors,
        num_read=len(dataset),
        num_samples=found.num_samples,
        unreadable=unreadable,
        batch_size=options.batch_size or 1,
        num_repeated=found.num_repeated,
    )
    check_collected(kept, dataset, options, (), notify)
    return kept


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
    device = "cuda:0" if cluster.gpus and options.device != "auto" else options.device  # Ray shows a task only its own
    alone = replace(
        options, device=device, progress=False, table_path=None, cache_path=None, engine_path=None, ray=None
    )
    parts = split_samples(
        len(origin.contents), cluster.num_slots * _SHARDS_PER_SLOT, options.batch_size or len(origin.contents)
    )
    return [
        Shard(
            folder=str(Path.cwd()),
            model=os.path.abspath(model.path),
            data=where if isinstance(where := data_path(data), DataUrl) else os.path.abspath(where),
            options=alone,
            threads=cluster.cpus,
            first=part.start,
            origin=replace(origin, contents=origin.contents[part.start : part.stop]),
        )
        for part in parts
    ]


def _describe(cluster: RayCluster, num_shards: int) -> str:
    each = "a GPU" if cluster.gpus else f"{cluster.cpus} CPU{'s' if cluster.cpus > 1 else ''}"
    tasks = f"{cluster.num_slots} tasks at once" if cluster.num_slots > 1 else "one task at a time"
    return f"device: Ray cluster, {tasks} with {each} each, {num_shards} parts of the data"
