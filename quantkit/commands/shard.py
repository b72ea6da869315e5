"""A part of a calibration's samples, collected by whoever sees the same model and data: a task on a cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quantkit.backends.onnxruntime import collecting_versions
from quantkit.calibration.statistics import merge_tensors
from quantkit.calibration.statistics_file import StatisticsOrigin
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.commands.collect import collect_statistics
from quantkit.commands.extensions import cut_to_runnable, with_extensions
from quantkit.commands.fixed_inputs import fix_inputs
from quantkit.commands.on_device import on_device, open_members
from quantkit.datasets import Selection
from quantkit.datasets.batching import count_readable
from quantkit.datasets.fingerprint import contents_of
from quantkit.errors import BackendError, ChangedDataError, DatasetError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.passes.expose import expose
from quantkit.notices import announcing
from quantkit.types import PathLike, TensorStatistics
from quantkit.types.options import CalibrationOptions
from quantkit.types.urls import data_path

__all__ = ["Gathered", "Shard", "collect_shard", "merge_gathered"]


@dataclass(frozen=True)
class Shard:
    """Some samples of a calibration, and how to find and run them.

    Attributes:
        folder: working directory of the command, which relative paths start from.
        model: path.
        data: path, or URL.
        options: of the calibration, with the size of a batch.
        threads: of ONNX Runtime and the decoder.
        first: position of the first sample among those that the options choose.
        origin: of these samples only.
    """

    folder: str
    model: str
    data: PathLike
    options: CalibrationOptions
    threads: int
    first: int
    origin: StatisticsOrigin


@dataclass(frozen=True)
class Gathered:
    """What is known of some samples.

    Attributes:
        tensors: statistics by name; empty if no sample could be read.
        num_samples: that could be read.
        num_repeated: copies that batches were filled up with.
        unreadable: reason by id.
    """

    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict)
    num_samples: int = 0
    num_repeated: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict)


def collect_shard(shard: Shard) -> Gathered:
    """Runs the model on the samples of a shard, wherever this is called.

    Raises:
        QuantKitError: model or data are not what the shard was made of, or cannot be used.
    """
    silent = announcing(None)  # the command says what there is to say
    with contextlib.suppress(OSError):  # where there is no such folder, absolute paths may do
        os.chdir(shard.folder)
    options = replace(shard.options, workers=shard.threads, min_readable=0.0)
    model = fix_inputs(FloatModel.open(shard.model), options.preprocess, silent)
    if model.hash != shard.origin.model_hash:
        raise ModelError(f"{shard.model} is another model than that of the command")
    if (versions := collecting_versions()) != shard.origin.versions:
        here, wanted = (" with ".join(map(" ".join, of.items())) for of in (versions, shard.origin.versions))
        raise BackendError(f"{here} is installed: install {wanted}, as the command has")
    with with_extensions(options), on_device(options, silent) as devices:
        runnable = cut_to_runnable(model, silent)
        observed = observed_tensors(runnable.prepared(), all_tensors=options.all_tensors)
        chosen = open_calibration_samples(model, shard.data, options.preprocess, options, options.order)
        samples = Selection(chosen, tuple(range(shard.first, shard.first + len(shard.origin.contents))))
        if contents_of(samples) != shard.origin.contents:
            raise ChangedDataError(f"{data_path(shard.data)} holds other samples than those of the command")
        graph = expose(runnable.prepared(), observed.names)
        opened = open_members(graph, observed, options, devices, None, name=model.name, threads=shard.threads)
        with opened as members:
            try:
                kept = collect_statistics(members, samples, shard.origin, options, None, checkpoint=None, notify=silent)
            except DatasetError as error:
                if options.strict or count_readable(samples):
                    raise
                return Gathered(unreadable=dict.fromkeys(samples.ids, str(error)))
    return Gathered(kept.tensors, kept.num_samples, kept.num_repeated, kept.unreadable)


def merge_gathered(one: Gathered, other: Gathered) -> Gathered:
    """What is known of the samples of both."""
    both = merge_tensors(one.tensors, other.tensors) if one.tensors and other.tensors else one.tensors or other.tensors
    return Gathered(
        both,
        one.num_samples + other.num_samples,
        one.num_repeated + other.num_repeated,
        {**one.unreadable, **other.unreadable},
    )
