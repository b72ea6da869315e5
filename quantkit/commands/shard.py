"""A part of a command's work, done by whoever sees the same model and data: a task on a cluster."""

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
from quantkit.datasets.batching import make_batches
from quantkit.datasets.fingerprint import contents_of
from quantkit.errors import BackendError, ChangedDataError, DatasetError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.passes.expose import expose
from quantkit.notices import announcing
from quantkit.types import Dataset, PathLike, TensorStatistics
from quantkit.types.options import CalibrationOptions
from quantkit.urls import data_path
from quantkit.user_code import file_hash


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some samples of a command, and how to find them and to know that they and the model are the same.

    Attributes:
        folder: working directory of the command, which relative paths start from.
        model: path.
        model_hash: of the model as the command prepared it.
        data: path, or URL.
        versions: of what the numbers depend on.
        threads: of ONNX Runtime and the decoder.
        first: position of the first sample among those that the command chose.
        contents: id and content hash of each sample.
        code: hash of each file of the user's, by path: source that is named, and libraries of operators.
    """

    folder: str
    model: str
    model_hash: str
    data: PathLike
    versions: Mapping[str, str]
    threads: int
    first: int
    contents: tuple[tuple[str, str], ...]
    code: Mapping[str, str]

    def enter(self) -> None:
        """Takes the place of the command.

        Raises:
            BackendError: other versions are installed here.
            ChangedDataError: a file of the user's is another one here.
        """
        with contextlib.suppress(OSError):  # where there is no such folder, absolute paths may do
            os.chdir(self.folder)
        if (versions := collecting_versions()) != self.versions:
            here, wanted = (" with ".join(map(" ".join, of.items())) for of in (versions, self.versions))
            raise BackendError(f"{here} is installed: install {wanted}, as the command has")
        for path, digest in self.code.items():
            if file_hash(path) != digest:
                raise ChangedDataError(f"{path} is another file than that of the command")

    def check_model(self, model: FloatModel) -> FloatModel:
        """The model, if it is that of the command.

        Raises:
            ModelError: it is not.
        """
        if model.hash != self.model_hash:
            raise ModelError(f"{self.model} is another model than that of the command")
        return model

    def choose(self, dataset: Dataset) -> Dataset:
        """The samples of this part, of all that the command chose.

        Raises:
            ChangedDataError: they are others than those of the command.
        """
        samples = Selection(dataset, tuple(range(self.first, self.first + len(self.contents))))
        if self.first + len(self.contents) > len(dataset) or contents_of(samples) != self.contents:
            raise ChangedDataError(f"{data_path(self.data)} holds other samples than those of the command")
        return samples


@dataclass(frozen=True, kw_only=True)
class CalibrationShard(Shard):
    """Samples to collect statistics of; `options` hold the size of a batch."""

    options: CalibrationOptions


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


def collect_shard(shard: CalibrationShard) -> Gathered:
    """Runs the model on the samples of a shard, wherever this is called.

    Raises:
        QuantKitError: model or data are not what the shard was made of, or cannot be used.
    """
    silent = announcing(None)  # the command says what there is to say
    shard.enter()
    options = replace(shard.options, workers=shard.threads, min_readable=0.0)
    model = shard.check_model(fix_inputs(FloatModel.open(shard.model), options.preprocess, silent))
    origin = StatisticsOrigin(model.hash, model.name, shard.contents, None, {}, shard.versions)
    with with_extensions(options), on_device(options, silent) as devices:
        runnable = cut_to_runnable(model, silent)
        observed = observed_tensors(runnable.prepared(), all_tensors=options.all_tensors)
        samples = shard.choose(open_calibration_samples(model, shard.data, options.preprocess, options, options.order))
        graph = expose(runnable.prepared(), observed.names)
        known = (observed, options, devices, None)
        opened = open_members(graph, *known, name=model.name, threads=shard.threads, num_samples=len(samples))
        with opened as members:
            try:
                kept = collect_statistics(members, samples, origin, options, None, checkpoint=None, notify=silent)
            except DatasetError:
                unreadable = _find_unreadable(samples, options)
                if options.strict or len(unreadable) < len(samples):
                    raise
                return Gathered(unreadable=unreadable)
    return Gathered(kept.tensors, kept.num_samples, kept.num_repeated, kept.unreadable)


def _find_unreadable(samples: Dataset, options: CalibrationOptions) -> dict[str, str]:
    """The samples that cannot be read, with the reason of each."""
    found: dict[str, str] = {}
    with contextlib.suppress(DatasetError):
        for _ in make_batches(samples, 1, strict=False, workers=options.workers, skipped=found):
            pass
    return found


def merge_gathered(one: Gathered, other: Gathered) -> Gathered:
    """What is known of the samples of both."""
    both = merge_tensors(one.tensors, other.tensors) if one.tensors and other.tensors else one.tensors or other.tensors
    return Gathered(
        both,
        one.num_samples + other.num_samples,
        one.num_repeated + other.num_repeated,
        {**one.unreadable, **other.unreadable},
    )
