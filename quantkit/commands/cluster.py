"""Work of a command by the tasks of a Ray cluster: each opens model and data by itself and takes some samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from quantkit.backends.onnxruntime import collecting_versions
from quantkit.backends.ray_cluster import RayCluster, connect
from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin
from quantkit.commands.collect import check_collected
from quantkit.commands.on_device import Member, choose_batch_size
from quantkit.commands.shard import CalibrationShard, Shard, collect_shard, merge_gathered
from quantkit.errors import BackendError, ModelError
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify
from quantkit.progress import show_progress
from quantkit.types import Dataset, PathLike
from quantkit.types.options import CalibrationOptions, EvaluationOptions, SensitivityOptions
from quantkit.urls import DataUrl, data_path
from quantkit.user_code import file_hash, names_code

_Shard = TypeVar("_Shard", bound=Shard)
_Result = TypeVar("_Result")

_SHARDS_PER_SLOT = 4
"""At most, so that a task that is slow, or done again, holds up little."""

_BATCHES_PER_SHARD = 8
"""At least, where each slot has one: a task opens model and data first, which takes as long as some batches."""


@contextmanager
def open_cluster(address: str, *, use_gpus: bool, needs_gpu: str = "") -> Iterator[RayCluster]:
    """Connects; `needs_gpu` names the option that makes no sense without GPUs.

    Raises:
        BackendError: there is no such cluster, or no node with the GPU that is needed.
    """
    with connect(address, use_gpus=use_gpus) as cluster:
        if needs_gpu and not cluster.gpus:
            raise BackendError(
                f"{needs_gpu} needs a GPU, but no node of the Ray cluster has one beside a CPU: leave out --ray, or "
                f"{needs_gpu}"
            )
        yield cluster


@contextmanager
def staying_connected(address: str | None) -> Iterator[None]:
    """Keeps one connection, if a cluster is asked for, for all that a command does there meanwhile."""
    with nullcontext() if address is None else connect(address, use_gpus=False):
        yield


def describe_inputs(
    model: FloatModel,
    data: PathLike,
    contents: Sequence[tuple[str, str]],
    options: CalibrationOptions | EvaluationOptions | SensitivityOptions,
    task: TaskOptions | None = None,
) -> dict[str, Any]:
    """What every `Shard` holds, of one with all samples.

    Raises:
        ModelError: the model has no file.
    """
    if not model.source_files:
        raise ModelError("--ray needs a model file that every node can read")
    preprocess = options.preprocess
    said = [getattr(preprocess, "preset", preprocess), getattr(preprocess, "loader", None)]
    said += [] if task is None else [task.decoder, task.postprocess, task.metric]
    source = [spec.rpartition(":")[0] for spec in said if isinstance(spec, str) and names_code(spec)]
    return {
        "folder": str(Path.cwd()),
        "model": os.path.abspath(model.path),
        "model_hash": model.hash,
        "data": where if isinstance(where := data_path(data), DataUrl) else os.path.abspath(where),
        "versions": collecting_versions(),
        "threads": 1,
        "first": 0,
        "contents": tuple(contents),
        "code": {path: file_hash(path) for path in (*source, *map(str, options.ort_extension))},
    }


def map_samples(
    cluster: RayCluster,
    task: Callable[[_Shard], _Result],
    whole: _Shard,
    merge: Callable[[_Result, _Result], _Result],
    batch_size: int,
    *,
    title: str | None,
    should_stop: Callable[[], bool] = lambda: False,
    notify: Notify,
) -> _Result:
    """What the tasks make of all samples.

    Args:
        cluster: to run on.
        task: of a shard.
        whole: a shard of all samples.
        merge: of two results; associative and commutative.
        batch_size: shards hold whole batches.
        title: of the progress bar; None shows none.
        should_stop: asked meanwhile: whether to be content with the shards that have ended.
        notify: hears what is run.
    """
    count = len(whole.contents)
    enough = max(cluster.num_slots, count // (batch_size * _BATCHES_PER_SHARD))
    parts = split_samples(count, min(enough, cluster.num_slots * _SHARDS_PER_SLOT), batch_size)
    shards = [
        replace(whole, threads=cluster.cpus, first=part.start, contents=whole.contents[part.start : part.stop])
        for part in parts
    ]
    notify(Notice("info", "device", describe_cluster(cluster, f"{len(parts)} parts of the data")))
    with show_progress(None, title or "", count, title is not None) as bar:
        return cluster.map_merge(task, shards, merge, lambda index: bar.update(len(parts[index])), should_stop)


def split_samples(count: int, num_shards: int, batch_size: int) -> list[range]:
    """At most so many parts of about equal size, of whole batches but for the last.

    >>> split_samples(100, 3, 16)
    [range(0, 48), range(48, 96), range(96, 100)]
    """
    batches = -(-count // batch_size)
    of_part = -(-batches // max(num_shards, 1)) * batch_size
    return [range(start, min(start + of_part, count)) for start in range(0, count, of_part)]


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
    inputs = describe_inputs(model, data, origin.contents, options)
    if (size := options.batch_size) is None:
        with members as opened:
            size = choose_batch_size(opened, dataset, strict=options.strict)
    needs_gpu = "" if options.device in ("auto", "cpu") else f"--device {options.device}"
    title = "calibrating" if options.progress else None
    with open_cluster(str(options.ray), use_gpus=options.device != "cpu", needs_gpu=needs_gpu) as cluster:
        # Ray shows a task only its own GPU.
        alone = replace(options, batch_size=size, device="cuda:0" if needs_gpu else options.device, progress=False)
        alone = replace(alone, table_path=None, cache_path=None, engine_path=None, ray=None)
        whole = CalibrationShard(options=alone, **inputs)
        found = map_samples(cluster, collect_shard, whole, merge_gathered, size, title=title, notify=notify)
    kept = KeptStatistics(
        origin=origin,
        tensors=found.tensors,
        num_read=len(dataset),
        num_samples=found.num_samples,
        unreadable=in_order(found.unreadable, dataset),
        batch_size=size,
        num_repeated=found.num_repeated,
    )
    check_collected(kept, dataset, options, (), notify)
    return kept


def in_order(unreadable: Mapping[str, str], dataset: Dataset) -> dict[str, str]:
    """In the order of the samples, whoever was first."""
    return {name: unreadable[name] for name in dataset.ids if name in unreadable}


def cluster_line(what: str, address: str | None) -> list[str]:
    """What is done by tasks of a Ray cluster, if one is asked for."""
    if address is None:
        return []
    return [f"{what} by tasks of the Ray cluster {address}; the time is that of this machine alone"]


def describe_cluster(cluster: RayCluster, work: str) -> str:
    """What runs, for the user."""
    each = "a GPU" if cluster.gpus else f"{cluster.cpus} CPU{'s' if cluster.cpus > 1 else ''}"
    tasks = f"{cluster.num_slots} tasks at once" if cluster.num_slots > 1 else "one task at a time"
    return f"device: Ray cluster, {tasks} with {each} each, {work}"
