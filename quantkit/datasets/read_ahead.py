"""Reading samples ahead of their use: in threads, with bounded memory, in the order of the data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress
from itertools import islice

from quantkit.datasets.dataset_view import Prefetches
from quantkit.datasets.decoder_processes import ASKING, TOGETHER, DecoderProcesses, count_ahead
from quantkit.errors import DatasetError, MachineError, UnreadableSampleError
from quantkit.interrupts import leave_threads
from quantkit.types import Dataset, Sample

SAMPLE_LIMIT_S = 120.0
"""For reading and preparing one sample: a decoder, a function of the user's or a disk that takes longer hangs."""


class SamplesAhead:
    """The readable samples of a data set, read by threads, for which processes decode where that pays.

    Args:
        dataset: what to read.
        workers: threads, or processes where those decode.
        ahead: samples that are being read or wait, at most, besides the one that is used. Where processes decode,
            `count_ahead` may say more.
        strict: raise where a sample cannot be read, instead of leaving it out.
        skipped: gets id and reason of each sample that is left out, in order.
    """

    def __init__(
        self, dataset: Dataset, workers: int, ahead: int, *, strict: bool, skipped: deque[tuple[str, str]]
    ) -> None:
        in_processes = count_ahead(dataset, workers)
        self._dataset, self._strict, self._skipped = dataset, strict, skipped
        self._workers, self._ahead = workers, max(ahead, in_processes)
        self._together, self._processes = 1, DecoderProcesses()
        if in_processes and (how := dataset.preprocessing) is not None:
            self._together, self._workers = TOGETHER, ASKING * workers
            size_bytes = how.size[0] * how.size[1] * how.channels
            self._processes = DecoderProcesses(workers, self._ahead + workers * TOGETHER, size_bytes)

    def end(self) -> None:
        """Ends reading with the next sample; called in any thread, any number of times."""
        self._processes.end()

    def read(self) -> Generator[Sample, None, None]:
        """Yields them in order.

        Raises:
            DatasetError: none can be read, or, when strict, the first that cannot.
            MachineError: one is not there in time.
        """
        pending: deque[tuple[int, Future[Sample]]] = deque()
        indices = iter(range(len(self._dataset)))
        first_reason: str | None = None
        delivered, is_stuck = 0, False
        joins = self._processes.join if self._together > 1 else None
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="quantkit-decode", initializer=joins)
        try:
            while True:
                while len(pending) <= self._ahead - self._together and (
                    chosen := list(islice(indices, self._together))
                ):
                    pending += self._submit(pool, chosen)
                if self._processes.has_ended:
                    return
                if not pending:
                    break
                index, future = pending.popleft()
                try:
                    sample = future.result(SAMPLE_LIMIT_S)
                except LateError:
                    is_stuck = not future.done()
                    if not is_stuck:
                        raise  # the data set's own
                    raise self._late(index) from None
                except DatasetError as error:
                    if self._strict:
                        raise
                    name = self._dataset.ids[index]
                    first_reason = first_reason or str(error)
                    self._skipped.append(
                        (name, error.reason if isinstance(error, UnreadableSampleError) else str(error))
                    )
                    continue
                finally:
                    del future  # it holds the sample
                delivered += 1
                yield sample
                del sample
        finally:
            pool.shutdown(wait=not is_stuck, cancel_futures=True)
            self.end()
            if is_stuck:
                leave_threads()
        if delivered == 0:
            what = "sample" if self._dataset.preprocessing is None else "image"
            reason = first_reason or "the data set is empty"
            raise DatasetError(f"no readable {what} among {len(self._dataset)}: {reason}")

    def _late(self, index: int) -> MachineError:
        others = f" or one of the next {self._together - 1}" if self._together > 1 else ""
        return MachineError(
            f"{self._dataset.ids[index]}{others} could not be read and prepared within {SAMPLE_LIMIT_S:g} s: "
            "the file, its disk, --preprocess or --loader hangs"
        )

    def _submit(self, pool: ThreadPoolExecutor, indices: Sequence[int]) -> Iterator[tuple[int, Future[Sample]]]:
        """Has one thread load some samples; a future for each."""
        futures: list[Future[Sample]] = [Future() for _ in indices]
        pool.submit(self._load, indices, futures)
        return zip(indices, futures, strict=True)

    def _load(self, indices: Sequence[int], futures: Sequence[Future[Sample]]) -> None:
        """Fulfils futures of samples, in a thread, until the reading ends."""
        if len(indices) > 1 and not self._processes.has_ended and isinstance(self._dataset, Prefetches):
            with suppress(Exception):  # of what fails, the sample tells when it is read
                self._dataset.prefetch(indices)
        for index, future in zip(indices, futures, strict=True):
            if self._processes.has_ended:
                future.cancel()
                continue
            try:
                future.set_result(self._dataset[index])
            except BaseException as error:
                future.set_exception(error)
