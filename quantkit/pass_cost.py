"""What a command would read, run and write, and what it would cost: for `--dry-run`.

The cost comes from one measurement, the processor time of a few samples through the float model on this machine, times
how many such passes the command makes. Those counts were fitted to runs of models for CIFAR-10, and hold within a
factor of about 2: docs/explanation/performance.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.calibration.collect import ACTIVATION_BUDGET_BYTES
from quantkit.datasets.batching import iterate_batches, leading_size, take_rows
from quantkit.datasets.fingerprint import count_cpus
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import share_weights
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.passes.expose import expose
from quantkit.notices import plural
from quantkit.refinement.samples import MOST_SAMPLES, REFINEMENT_BUDGET_BYTES
from quantkit.storage import check_writable
from quantkit.types import Dataset, PathLike
from quantkit.types.options import Effort
from quantkit.urls import data_path

_PROBED = 4
"""Samples that are timed."""

_START_S, _START_BYTES = 4.0, 250 << 20
"""Imports, reading the model, the search for ranges: of every command that runs a model."""

_STATISTICS = 3.0
"""A pass that counts histograms, in plain passes."""

_TRIALS, _ROUNDING = 280.0, 0.7
"""What `balanced` adds, in passes for each tensor: trying ranges and, for each sample, rounding weights."""

_VARIANT = 2.0
"""A pass of a variant, in passes of the float model: Q/DQ and FP16 are computed in float, rounded in between."""

_LAYERS = 4.0
"""The layer-wise error of a sample, in plain passes: outputs of two models, and what is derived from them."""

_RANKED_SAMPLES = 32
"""Samples for each unit of a ranking, on average: all run on few, the worst on more."""

_UNCERTAINTY = 2.0

_COPIES_OF_MODEL = 3
"""In memory: as read, as prepared, in the runtime."""


@dataclass(frozen=True)
class PassCost:
    """What one sample costs.

    Attributes:
        run_s: processor seconds of the float model.
        decode_s: of reading and preparing the sample.
        activation_bytes: of all its observed activations.
        num_tensors: that INT8 needs a range for.
        model_bytes: size of the model.
    """

    run_s: float
    decode_s: float
    activation_bytes: int
    num_tensors: int
    model_bytes: int

    def calibration_s(self, num_samples: int, effort: Effort) -> float:
        """Processor seconds of a calibration."""
        total = _START_S + num_samples * (self.decode_s + _STATISTICS * self.run_s)
        if effort != "fast":
            rounded = min(num_samples, MOST_SAMPLES[effort])
            total += self.num_tensors * self.run_s * (_TRIALS + _ROUNDING * rounded)
        return total

    def evaluation_s(self, num_samples: int, num_variants: int, num_layer_samples: int = 0) -> float:
        """Processor seconds of an evaluation of the float model beside so many variants, without latency."""
        passes = num_samples * (1 + _VARIANT * num_variants) + num_layer_samples * _LAYERS * (1 + num_variants)
        return passes * self.run_s + num_samples * self.decode_s

    def ranking_s(self, num_kinds: int) -> float:
        """Processor seconds of a ranking of tensors, or of tensors and operators."""
        return 2.0 * num_kinds * self.num_tensors * _RANKED_SAMPLES * self.run_s

    def memory(self, num_samples: int, effort: Effort = "fast") -> int:
        """Bytes at the most, about."""
        batch = min(ACTIVATION_BUDGET_BYTES, num_samples * self.activation_bytes)
        total = _START_BYTES + _COPIES_OF_MODEL * self.model_bytes + batch
        if effort != "fast":
            total += min(REFINEMENT_BUDGET_BYTES, min(num_samples, MOST_SAMPLES[effort]) * self.activation_bytes)
        return total


@dataclass(frozen=True)
class Forecast:
    """What a command would do.

    Attributes:
        reads: files and data, a line each.
        runs: what would be computed.
        writes: path → "new" or "replaces the one that is there".
        seconds: of the whole command, at least and at most, about; None where nothing here tells.
        memory_bytes: at the most, about; None likewise.
        grounds: what the estimates are made of.
    """

    reads: tuple[str, ...]
    runs: tuple[str, ...]
    writes: dict[str, str]
    seconds: tuple[float, float] | None
    memory_bytes: int | None
    grounds: str


def measure_pass(model: PathLike | FloatModel, dataset: Dataset) -> PassCost:
    """Runs a few samples and times them; nothing is written.

    Raises:
        QuantKitError: the model or the first samples cannot be used.
    """
    model = FloatModel.open(model)
    graph = model.prepared()
    observed = observed_tensors(graph, all_tensors=True)
    begun = time.process_time()
    with closing(iterate_batches(dataset, 1, workers=1, prefetch=0)) as batches:  # none is read ahead
        samples = list(islice(batches, _PROBED))
    decoded = time.process_time()
    size = leading_size(model.inputs, samples[0].axes) or 1
    inputs = [take_rows(sample, np.zeros(size, np.intp)) for sample in samples]
    with OnnxRuntimeRunner(share_weights(model.prepared()), name=model.name, threads=1, spinning=False) as runner:
        runner.run(inputs[0])  # the first call plans memory
        start = time.process_time()
        for arrays in inputs:
            runner.run(arrays)
        ran = time.process_time() - start
    exposed = share_weights(expose(model.prepared(), observed.names))
    with OnnxRuntimeRunner(exposed, name=model.name, threads=1, spinning=False) as runner:
        used = sum(array.nbytes for array in runner.run(inputs[0]).values())
    return PassCost(
        run_s=ran / len(inputs) / size,
        decode_s=(decoded - begun) / len(samples),
        activation_bytes=used // size,
        num_tensors=len(observed.needed),
        model_bytes=model.size_bytes,
    )


def forecast(
    reads: Sequence[str],
    runs: Sequence[str],
    writes: Sequence[Path],
    *,
    cost: PassCost | None = None,
    processor_s: float = 0.0,
    fixed_s: float = 0.0,
    memory_bytes: int | None = None,
    grounds: str = "",
) -> Forecast:
    """Puts a forecast together: wall time from processor time and what is exact, and whether files are there.

    Raises:
        OutputError: one of `writes` cannot be written.
    """
    check_writable(*writes)
    cores = count_cpus()
    seconds = None
    if cost is not None:
        low, high = processor_s / cores, processor_s * _UNCERTAINTY
        seconds = (round(fixed_s + low, 1), round(fixed_s + high, 1))
        measured = (
            f"a sample takes {1e3 * cost.run_s:.3g} ms in the float model and {1e3 * cost.decode_s:.3g} ms to read "
            f"(timed now, {_PROBED} samples, one CPU thread; a GPU is not considered): about {processor_s:.0f} s of "
            f"processor time, from all {cores} processors busy to twice as much on one"
        )
        grounds = "; ".join(filter(None, (measured, grounds)))
    return Forecast(
        reads=tuple(reads),
        runs=tuple(runs),
        writes={str(path): "replaces the one that is there" if path.exists() else "new" for path in writes},
        seconds=seconds,
        memory_bytes=memory_bytes,
        grounds=grounds,
    )


def model_line(model: FloatModel) -> str:
    """A model that is read."""
    return f"{model.path or model.name}: {model.size_bytes / 1e6:.3g} MB"


def data_line(dataset: Dataset, data: PathLike) -> str:
    """Samples that are read."""
    return f"{data_path(data)}: {len(dataset)} of {plural(len(getattr(dataset, 'dataset', dataset)), 'sample')}"
