"""One pass over the data: runs batches through a model whose inner tensors are outputs, and updates their statistics.

Memory is one batch of activations plus one histogram for each tensor, however many samples there are; two batches
where the values are added up on a GPU, while the next batch runs.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from quantkit.calibration.statistics import merge, new_statistics, update
from quantkit.datasets.batching import fixed_batch_size, take_rows
from quantkit.datasets.fingerprint import count_cpus
from quantkit.errors import NonFiniteActivationError
from quantkit.types import Array, Batch, HistogramRule, Runner, TensorStatistics

ACTIVATION_BUDGET_BYTES = 256 << 20
"""Observed activations of one batch: more is no faster, and a laptop has to hold them."""

_LARGEST_BATCH = 32


class Accumulator(Protocol):
    """Adds up the values of some tensors, batch by batch: on the host (`HostAccumulator`), or where they are."""

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds the arrays of a batch; may return before that is done, and holds them meanwhile."""

    def wait(self) -> Sequence[str]:
        """Waits until that is done. Returns the tensors that were NaN or infinite, in any batch so far."""

    def statistics(self) -> Mapping[str, TensorStatistics]:
        """The statistics of all batches so far, by tensor."""


class HostAccumulator:
    """Adds up arrays of the host at once, in a thread for each CPU.

    Args:
        tensors: names.
        rule: histogram rule of `quantkit.calibration.statistics`.
        start: statistics to which the values are added, in place.
    """

    def __init__(
        self,
        tensors: Iterable[str],
        rule: HistogramRule = "exact",
        start: Mapping[str, TensorStatistics] | None = None,
    ) -> None:
        self._statistics = {name: new_statistics(rule) if start is None else start[name] for name in tensors}
        self._non_finite: list[str] = []

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds the arrays of a batch."""
        arrays = {name: np.asarray(array) for name, array in values.items()}
        threads = min(count_cpus(), len(arrays)) or 1
        largest_first = sorted(arrays, key=lambda name: -arrays[name].size)

        def add_some(names: Sequence[str]) -> None:
            for name in names:
                try:
                    update(self._statistics[name], arrays[name])
                except FloatingPointError:
                    self._non_finite.append(name)

        with ThreadPoolExecutor(threads, thread_name_prefix="quantkit-statistics") as pool:
            list(pool.map(add_some, [largest_first[i::threads] for i in range(threads)]))

    def wait(self) -> Sequence[str]:
        """The tensors that were NaN or infinite."""
        return self._non_finite

    def statistics(self) -> Mapping[str, TensorStatistics]:
        """The statistics of all batches so far, by tensor."""
        return self._statistics


class Collector:
    """Statistics of a set of tensors, fed batch by batch.

    Args:
        tensors: names to observe: outputs of the runner, or its inputs.
        rule: histogram rule of `quantkit.calibration.statistics`.
        batch_first: tensors whose first dimension is known to be the batch.
        optional: tensors that may be NaN or infinite.
        copies: tensors that are not observed since another of `tensors` holds their values, with that one.
        start: statistics of earlier samples, to which these are added, perhaps in place.
        accumulator: where the values are added up; default: on the host.

    Attributes:
        num_samples: samples added.
        num_repeated: copies of samples that a fixed batch size was filled up with.
        repeating: tensors that count these copies, since their first dimension is not known to be the batch.
        dropped: optional tensors that were NaN or infinite on a sample; their statistics are empty.
    """

    def __init__(
        self,
        tensors: Sequence[str],
        *,
        rule: HistogramRule = "exact",
        batch_first: Container[str] = (),
        optional: Container[str] = (),
        copies: Mapping[str, str] | None = None,
        start: Mapping[str, TensorStatistics] | None = None,
        accumulator: Accumulator | None = None,
    ) -> None:
        self.num_samples = 0
        self.num_repeated = 0
        self.repeating: frozenset[str] = frozenset()
        self._batch_first, self._rule, self._copies = batch_first, rule, copies or {}
        self._tensors = tuple(name for name in tensors if name not in self._copies)
        needed = {source for copy, source in self._copies.items() if copy not in optional}
        self._optional = {name for name in self._tensors if name in optional and name not in needed}
        self.dropped: set[str] = set()
        for name in self._optional:
            if start is not None and start[name].count == 0:
                self._drop(name)
        self._is_deferred = accumulator is not None
        self._accumulator = accumulator or HostAccumulator(self._tensors, rule, start)
        self._start = start if self._is_deferred else None
        self._pending: tuple[Batch, Mapping[str, Any]] | None = None

    @property
    def statistics(self) -> dict[str, TensorStatistics]:
        """By tensor name, of everything that was added."""
        self.wait()
        found = dict(self._accumulator.statistics())
        if self._start is not None:
            found = {name: merge(self._start[name], statistics) for name, statistics in found.items()}
        found |= {copy: found[source] for copy, source in self._copies.items()}
        return found | {name: new_statistics(self._rule) for name in self.dropped}

    def observe(self, runner: Runner, batch: Batch) -> None:
        """Runs a batch and adds it; a model of a fixed batch size gets it in pieces, the last filled up with copies.

        What the copies gave is cut off where the batch is known to come first. Another tensor keeps it: its range is
        right, since copies are of real samples, but these count twice (`num_repeated`, `repeating`).

        Raises:
            NonFiniteActivationError: naming the tensor and the samples.
        """
        fixed = fixed_batch_size(runner, batch.axes)
        if fixed is None:
            self.add(batch, runner.run(batch.inputs))
            return
        for start in range(0, len(batch), fixed):
            ids = batch.ids[start : start + fixed]
            rows = start + np.arange(fixed) % len(ids)
            outputs = runner.run(take_rows(batch, rows))
            if len(ids) < fixed:
                outputs = {n: a for n, a in outputs.items() if n not in batch.inputs}
                outputs = {n: a[: len(ids)] if n in self._batch_first else a for n, a in outputs.items()}
                self.num_repeated += fixed - len(ids)
                self.repeating |= {n for n in self._tensors if n in outputs and n not in self._batch_first}
            piece = take_rows(batch, start + np.arange(len(ids)))
            self.add(Batch(inputs=piece, ids=ids, axes=batch.axes), outputs)

    def add(self, batch: Batch, outputs: Mapping[str, Any]) -> None:
        """Adds one batch.

        Args:
            batch: what was fed.
            outputs: observed tensors by name; inputs may be among them.

        Raises:
            NonFiniteActivationError: naming the tensor and the samples, of this batch or of the one before it.
        """
        self.wait()
        names = [name for name in self._tensors if name not in self.dropped]
        values = {name: outputs[name] if name in outputs else batch.inputs[name] for name in names}
        self._accumulator.add(values)
        self._pending = batch, values
        self.num_samples += len(batch)
        if not self._is_deferred:
            self.wait()

    def _drop(self, name: str) -> None:
        """Gives up a tensor, and those that have its values."""
        self.dropped |= {name, *(copy for copy, source in self._copies.items() if source == name)}

    def wait(self) -> None:
        """Waits until the last batch is counted, and lets go of it.

        Raises:
            NonFiniteActivationError: naming the tensor and the samples.
        """
        if self._pending is None:
            return
        (batch, values), self._pending = self._pending, None
        bad = set(self._accumulator.wait())
        for name in (name for name in values if name in bad):
            if name not in self._optional:
                raise NonFiniteActivationError(_describe_non_finite(name, np.asarray(values[name]), batch))
            self._drop(name)


def collect(
    runner: Runner,
    batches: Iterable[Batch],
    tensors: Sequence[str],
    *,
    rule: HistogramRule = "exact",
    batch_first: Container[str] = (),
) -> Collector:
    """Runs every batch and collects the statistics of `tensors`.

    Args:
        runner: a model with all of `tensors` among its outputs or inputs.
        batches: of samples that fit the runner's inputs.
        tensors: names to observe.
        rule: histogram rule.
        batch_first: tensors whose first dimension is known to be the batch.

    Returns:
        The collector with all statistics.

    Raises:
        NonFiniteActivationError: naming the tensor and the samples.
    """
    collector = Collector(tensors, rule=rule, batch_first=batch_first)
    for batch in batches:
        collector.observe(runner, batch)
    return collector


def fitting_batch_size(
    runner: Runner, batch: Batch, *, budget_bytes: int = ACTIVATION_BUDGET_BYTES, largest: int = _LARGEST_BATCH
) -> int:
    """How many samples to run at once, from the activations of the one-sample `batch` and the memory for them.

    The exact histogram does not depend on it. A model of a fixed batch size decides by itself.
    """
    fixed = fixed_batch_size(runner, batch.axes)
    if fixed is not None:
        return fixed
    used = sum(v.nbytes for v in runner.run(batch.inputs).values())
    return int(np.clip(budget_bytes // max(used, 1), 1, largest))


def _describe_non_finite(name: str, values: Array, batch: Batch) -> str:
    where = ""
    if values.ndim and values.shape[0] == len(batch):
        rows = values.reshape(len(batch), -1)
        bad = [batch.ids[i] for i in np.flatnonzero(~np.isfinite(rows).all(axis=1))]
        if bad:
            where = f" on {bad[0]}" + (f" and {len(bad) - 1} more samples of its batch" if len(bad) > 1 else "")
    return (
        f"tensor {name!r} became NaN or infinite{where}: check the preprocessing and the weights of the "
        "model, or leave the sample out; a model that overflows in FP32 cannot be quantized"
    )
