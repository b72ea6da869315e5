"""One pass over the data: runs batches through a model whose inner tensors are outputs, and updates their statistics.

Memory is one batch of activations plus one histogram for each tensor, however many samples there are.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.calibration.statistics import new_statistics, update
from quantkit.datasets.batching import fixed_batch_size, take_rows
from quantkit.datasets.fingerprint import count_cpus
from quantkit.errors import NonFiniteActivationError
from quantkit.types import Array, Batch, HistogramRule, Runner, TensorStatistics

ACTIVATION_BUDGET_BYTES = 256 << 20
"""Observed activations of one batch: more is no faster, and a laptop has to hold them."""

_LARGEST_BATCH = 32


class Collector:
    """Statistics of a set of tensors, fed batch by batch.

    Args:
        tensors: names to observe: outputs of the runner, or its inputs.
        rule: histogram rule of `quantkit.calibration.statistics`.
        batch_first: tensors whose first dimension is known to be the batch.
        optional: tensors that may be NaN or infinite.
        copies: tensors that are not observed since another of `tensors` holds their values, with that one.

    Attributes:
        statistics: by tensor name.
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
    ) -> None:
        self.statistics: dict[str, TensorStatistics] = {name: new_statistics(rule) for name in tensors}
        self.num_samples = 0
        self.num_repeated = 0
        self.repeating: frozenset[str] = frozenset()
        self.dropped: set[str] = set()
        self._batch_first, self._rule, self._copies = batch_first, rule, copies or {}
        needed = {source for copy, source in self._copies.items() if copy not in optional}
        self._optional = {name for name in tensors if name in optional and name not in needed}

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
                outputs = {n: a[: len(ids)] if n in self._batch_first else a for n, a in outputs.items()}
                self.num_repeated += fixed - len(ids)
                self.repeating |= {n for n in outputs if n in self.statistics and n not in self._batch_first}
            piece = take_rows(batch, start + np.arange(len(ids)))
            self.add(Batch(inputs=piece, ids=ids, axes=batch.axes), outputs)

    def add(self, batch: Batch, outputs: Mapping[str, Array]) -> None:
        """Adds one batch.

        Args:
            batch: what was fed.
            outputs: observed tensors by name, of those that are not inputs.

        Raises:
            NonFiniteActivationError: naming the tensor and the samples.
        """
        values = {
            name: np.asarray(outputs[name] if name in outputs else batch.inputs[name])
            for name in self.statistics
            if name not in self.dropped and name not in self._copies
        }
        not_finite = self._update(values)
        for name in (name for name in values if name in not_finite):
            if name not in self._optional:
                raise NonFiniteActivationError(_describe_non_finite(name, values[name], batch))
            self.dropped.add(name)
        self.statistics |= {name: new_statistics(self._rule) for name in self.dropped}
        self.statistics |= {copy: self.statistics[source] for copy, source in self._copies.items()}
        self.num_samples += len(batch)

    def _update(self, values: Mapping[str, npt.NDArray[Any]]) -> set[str]:
        """Updates the statistics of all tensors, in a thread for each CPU; returns those that are NaN or infinite."""
        threads = min(count_cpus(), len(values)) or 1
        largest_first = sorted(values, key=lambda name: -values[name].size)

        def update_some(names: Sequence[str]) -> list[str]:
            found = []
            for name in names:
                try:
                    update(self.statistics[name], values[name])
                except FloatingPointError:
                    found.append(name)
            return found

        with ThreadPoolExecutor(threads, thread_name_prefix="quantkit-statistics") as pool:
            parts = list(pool.map(update_some, [largest_first[i::threads] for i in range(threads)]))
        return {name for part in parts for name in part}


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


def fitting_batch_size(runner: Runner, batch: Batch) -> int:
    """How many samples to run at once, from the activations of the one-sample `batch`.

    The exact histogram does not depend on it. A model of a fixed batch size decides by itself.
    """
    fixed = fixed_batch_size(runner, batch.axes)
    if fixed is not None:
        return fixed
    used = sum(np.asarray(v).nbytes for v in runner.run(batch.inputs).values())
    return int(np.clip(ACTIVATION_BUDGET_BYTES // max(used, 1), 1, _LARGEST_BATCH))


def _describe_non_finite(name: str, values: Array, batch: Batch) -> str:
    where = ""
    if values.ndim and values.shape[0] == len(batch):
        rows = values.reshape(len(batch), -1)
        bad = [batch.ids[i] for i in np.flatnonzero(~np.isfinite(rows).all(axis=1))]
        if bad:
            where = f" on {bad[0]}" + (f" and {len(bad) - 1} more samples of its batch" if len(bad) > 1 else "")
    return (
        f"tensor {name!r} became NaN or infinite{where}: check the preprocessing, or leave the sample out; "
        "a model that overflows in FP32 cannot be quantized"
    )
