"""Several collectors, each with a runner of its own on a device of its own, fed by one stream of batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from quantkit.calibration.collect import Collector
from quantkit.calibration.statistics import merge, new_statistics
from quantkit.datasets.batching import fixed_batch_size, take_rows
from quantkit.errors import OutOfDeviceMemoryError
from quantkit.types import Batch, Runner, TensorStatistics


class CollectorGroup:
    """Gives each batch to a collector that is free. To be used in a `with` statement.

    What is collected does not depend on who gets what: merging statistics of the rule "exact" is exact. A batch for
    which the device's memory is short is run in halves.

    Args:
        members: a runner with the collector that is fed by it; with one, everything is done by the caller's thread.
    """

    def __init__(self, members: Sequence[tuple[Runner, Collector]]) -> None:
        self._members = members
        self._batches: queue.Queue[Batch | None] = queue.Queue(maxsize=1)
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=member, name="quantkit-collect", daemon=True)
            for member in (members if len(members) > 1 else ())
        ]

    def observe(self, batch: Batch) -> None:
        """Runs a batch and adds it, now or soon.

        Raises:
            QuantKitError: this batch, or an earlier one, cannot be run or is not finite.
        """
        if not self._threads:
            _observe(*self._members[0], batch)
            return
        self._raise()
        self._batches.put(batch)

    def wait(self) -> None:
        """Waits until everything is counted.

        Raises:
            QuantKitError: as `observe`.
        """
        self._batches.join()
        self._raise()

    @property
    def statistics(self) -> dict[str, TensorStatistics]:
        """By tensor name, of everything that was observed."""
        self.wait()
        first, *others = (collector for _, collector in self._members)
        total = first.statistics
        for other in others:
            found = other.statistics
            total = {name: merge(statistics, found[name]) for name, statistics in total.items()}
        return total | {name: new_statistics() for name in self.dropped if others}

    @property
    def num_samples(self) -> int:
        """Samples added."""
        return sum(collector.num_samples for _, collector in self._members)

    @property
    def num_repeated(self) -> int:
        """Copies of samples that a fixed batch size was filled up with."""
        return sum(collector.num_repeated for _, collector in self._members)

    @property
    def repeating(self) -> frozenset[str]:
        """Tensors that count these copies, since their first dimension is not known to be the batch."""
        return frozenset().union(*(collector.repeating for _, collector in self._members))

    @property
    def dropped(self) -> frozenset[str]:
        """Optional tensors that were NaN or infinite on a sample."""
        return frozenset().union(*(collector.dropped for _, collector in self._members))

    def __enter__(self) -> CollectorGroup:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, runner: Runner, collector: Collector) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                if not self._failures:  # else the rest is read and thrown away, so that nobody waits for ever
                    _observe(runner, collector, batch)
            except BaseException as failure:
                self._failures.append(failure)
            finally:
                self._batches.task_done()
        self._batches.task_done()

    def _raise(self) -> None:
        if self._failures:
            raise self._failures[0]


def _observe(runner: Runner, collector: Collector, batch: Batch) -> None:
    try:
        collector.observe(runner, batch)
    except OutOfDeviceMemoryError:
        if len(batch) == 1 or fixed_batch_size(runner, batch.axes) is not None:
            raise
    else:
        return
    # Outside of the handler: the traceback would hold the memory of the batch that failed.
    collector.wait()  # it holds what the batch before left on the device
    middle = len(batch) // 2
    for rows in (np.arange(middle), np.arange(middle, len(batch))):
        ids = tuple(batch.ids[i] for i in rows)
        _observe(runner, collector, Batch(inputs=take_rows(batch, rows), ids=ids, axes=batch.axes))
