"""Decoding samples ahead in threads, with bounded memory, and stacking them. What runs on a batch is left to others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np

from quantkit.datasets.fingerprint import count_cpus
from quantkit.errors import DatasetError
from quantkit.types import Array, Batch, Dataset, Sample

__all__ = ["iterate_batches"]

_MAX_DEFAULT_WORKERS = 16


def iterate_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    workers: int | None = None,
    prefetch: int = 2,
    strict: bool = False,
    on_skip: Callable[[str, str], None] | None = None,
) -> Generator[Batch, None, None]:
    """Yields the samples of a data set in order, stacked; the last batch may be smaller.

    A sample that cannot be read is left out and the next one takes its place, so that batches stay full. At most
    `prefetch + 1` batches of samples are held here at a time, however large the data set. The threads end with the
    iteration, also when it is closed early or fails.

    Args:
        dataset: what to read.
        batch_size: samples per batch.
        workers: threads that decode; None takes the number of CPUs.
        prefetch: batches that are decoded ahead while the caller works on one.
        strict: raise where a sample cannot be read, instead of leaving it out.
        on_skip: called with id and reason of each sample that is left out, in order, in the caller's thread.

    Yields:
        Batches whose arrays have shape [N, ...], N up to `batch_size`, contiguous.

    Raises:
        DatasetError: no sample can be read, samples of one batch differ in shape, or, when strict, the first
            sample that cannot be read.
    """
    for name, value, least in (("--batch-size", batch_size, 1), ("--workers", workers, 1), ("prefetch", prefetch, 0)):
        if value is not None and value < least:
            raise DatasetError(f"{name} {value} must be at least {least}")
    threads = min(count_cpus(), _MAX_DEFAULT_WORKERS) if workers is None else workers
    ahead = max(1, prefetch * batch_size)
    return _stack_all(_read(dataset, threads, ahead, strict, on_skip), batch_size)


def _stack_all(samples: Generator[Sample, None, None], batch_size: int) -> Generator[Batch, None, None]:
    with closing(samples):
        while collected := list(islice(samples, batch_size)):
            batch = _stack(collected)
            collected.clear()
            yield batch


def _read(
    dataset: Dataset, workers: int, ahead: int, strict: bool, on_skip: Callable[[str, str], None] | None
) -> Generator[Sample, None, None]:
    """Yields the readable samples in order, with at most `ahead` others being decoded or waiting."""
    pending: deque[tuple[int, Future[Sample]]] = deque()
    indices = iter(range(len(dataset)))
    first_reason: str | None = None
    delivered = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="quantkit-decode")
    try:
        while True:
            for index in islice(indices, ahead - len(pending)):
                pending.append((index, pool.submit(dataset.__getitem__, index)))
            if not pending:
                break
            index, future = pending.popleft()
            try:
                sample = future.result()
            except DatasetError as error:
                if strict:
                    raise
                name = dataset.ids[index]
                first_reason = first_reason or str(error)
                if on_skip is not None:
                    on_skip(name, str(error).removeprefix(f"{name}: "))
                continue
            finally:
                del future  # it holds the sample
            delivered += 1
            yield sample
            del sample
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if delivered == 0:
        what = "sample" if dataset.preprocessing is None else "image"
        raise DatasetError(f"no readable {what} among {len(dataset)}: {first_reason or 'the data set is empty'}")


def _stack(samples: Sequence[Sample]) -> Batch:
    first = samples[0]
    inputs: dict[str, Array] = {}
    for sample in samples:
        if sample.inputs.keys() != first.inputs.keys():
            raise DatasetError(f"samples {first.id!r} and {sample.id!r} have different inputs")
        for name, array in sample.inputs.items():
            if array.shape != first.inputs[name].shape:
                raise DatasetError(
                    f"input {name!r} has shape {list(first.inputs[name].shape)} in sample {first.id!r} but "
                    f"{list(array.shape)} in {sample.id!r}: use --batch-size 1 or pad them to one shape"
                )
    for name in first.inputs:
        inputs[name] = np.stack([sample.inputs[name] for sample in samples])
    targets = [sample.target for sample in samples if sample.target is not None]
    sizes = [sample.image_size for sample in samples if sample.image_size is not None]
    return Batch(
        inputs=inputs,
        ids=tuple(sample.id for sample in samples),
        targets=np.asarray(targets, np.int64) if len(targets) == len(samples) else None,
        image_sizes=tuple(sizes) if len(sizes) == len(samples) else None,
    )
