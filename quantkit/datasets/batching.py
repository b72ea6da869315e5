"""Stacking samples into batches, ahead of their use, and running a batch of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np
import numpy.typing as npt

from quantkit.datasets.fingerprint import count_cpus
from quantkit.datasets.preprocess import PixelInput
from quantkit.datasets.read_ahead import SamplesAhead
from quantkit.errors import DatasetError, ModelError
from quantkit.types import Array, Batch, Dataset, Runner, Sample, TensorSpec

_MAX_DEFAULT_WORKERS = 16

_WRITERS = 4
_WORTH_WRITERS = 1 << 23
"""Threads that fill a batch, from so many bytes on: half of the time goes to getting its memory."""


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

    Samples of different shapes are never in one batch: what was read for one is then several, a shape each.

    A sample that cannot be read is left out and the next one takes its place, so that batches stay full. At most
    `prefetch + 2` batches of samples are held here at a time, or 1 GiB of pixels where processes decode, however large
    the data set. Threads and processes end with the iteration, also when it is closed early or fails.

    Args:
        dataset: what to read.
        batch_size: samples per batch.
        workers: threads that decode, or processes where those pay; None takes the number of CPUs.
        prefetch: batches that are decoded ahead while the caller works on one.
        strict: raise where a sample cannot be read, instead of leaving it out.
        on_skip: called with id and reason of each sample that is left out, in order, in the caller's thread.

    Yields:
        Batches whose arrays have shape [N, ...], N up to `batch_size`, contiguous.

    Raises:
        DatasetError: no sample can be read, samples differ in their inputs, or, when strict, the first sample that
            cannot be read.
    """
    for name, value, least in (("--batch-size", batch_size, 1), ("--workers", workers, 1), ("prefetch", prefetch, 0)):
        if value is not None and value < least:
            raise DatasetError(f"{name} {value} must be at least {least}")
    threads = min(count_cpus(), _MAX_DEFAULT_WORKERS) if workers is None else workers
    batch_size, threads = (max(1, min(number, len(dataset))) for number in (batch_size, threads))
    skipped: deque[tuple[str, str]] = deque()
    samples = SamplesAhead(dataset, threads, max(1, prefetch * batch_size), strict=strict, skipped=skipped)
    return _stack_in_thread(samples, batch_size, prefetch > 0, skipped, on_skip)


def _stack_in_thread(
    samples: SamplesAhead,
    batch_size: int,
    is_ahead: bool,
    skipped: deque[tuple[str, str]],
    on_skip: Callable[[str, str], None] | None,
) -> Generator[Batch, None, None]:
    """Yields the batches. `is_ahead`: a thread stacks the next one while the caller works on one."""
    batches = _stack_all(samples.read(), batch_size)
    pool = ThreadPoolExecutor(1, thread_name_prefix="quantkit-stack")
    coming: Future[Batch | None] | None = None
    try:
        while True:
            coming = coming or pool.submit(next, batches, None)
            try:
                batch = coming.result()
            finally:
                while skipped and on_skip is not None:
                    on_skip(*skipped.popleft())
            if batch is None:
                return
            coming = pool.submit(next, batches, None) if is_ahead else None
            yield batch
            del batch
    finally:
        samples.end()
        pool.shutdown()
        batches.close()


def _stack_all(samples: Generator[Sample, None, None], batch_size: int) -> Generator[Batch, None, None]:
    with closing(samples):
        while collected := list(islice(samples, batch_size)):
            groups: dict[object, list[Sample]] = {}
            for sample in collected:
                if sample.inputs.keys() != collected[0].inputs.keys():
                    raise DatasetError(f"samples {collected[0].id!r} and {sample.id!r} have different inputs")
                groups.setdefault(_shapes(sample), []).append(sample)
            collected.clear()
            for shape in list(groups):
                yield stack_samples(groups.pop(shape))


def _shapes(sample: Sample) -> object:
    """Samples of equal ones go into one batch: shapes, and the values of inputs that have no batch."""
    if isinstance(sample.inputs, PixelInput):
        return sample.inputs.shape
    return tuple(
        (name, array.shape, array.tobytes() if sample.axes.get(name, 0) is None else b"")
        for name, array in sorted(sample.inputs.items())
    )


def stack_samples(samples: Sequence[Sample]) -> Batch:
    """A batch of samples whose arrays have equal shapes."""
    axes = samples[0].axes
    inputs = {name: _stack(name, samples, axes.get(name, 0)) for name in samples[0].inputs}
    targets = [sample.target for sample in samples if sample.target is not None]
    sizes = [sample.image_size for sample in samples if sample.image_size is not None]
    return Batch(
        inputs=inputs,
        ids=tuple(sample.id for sample in samples),
        targets=np.asarray(targets, np.int64) if len(targets) == len(samples) else None,
        image_sizes=tuple(sizes) if len(sizes) == len(samples) else None,
        axes=axes,
    )


def _stack(name: str, samples: Sequence[Sample], axis: int | None) -> Array:
    first = samples[0].inputs
    images = [sample.inputs for sample in samples if isinstance(sample.inputs, PixelInput)]
    if isinstance(first, PixelInput) and len(images) == len(samples) and axis == 0:
        rows: Array = np.empty((len(images), *first.shape), first.dtype)
        writers = min(_WRITERS, count_cpus()) if rows.nbytes >= _WORTH_WRITERS else 1
        if writers == 1:
            _write(images, rows)
            return rows
        with ThreadPoolExecutor(writers) as pool:  # thread k of n takes images k, k + n, ...
            list(pool.map(lambda k: _write(images[k::writers], rows[k::writers]), range(writers)))
        return rows
    if axis is None:
        return first[name]
    return np.ascontiguousarray(np.stack([sample.inputs[name] for sample in samples], axis))


def _write(images: Sequence[PixelInput], rows: Array) -> None:
    for image, row in zip(images, rows, strict=True):
        image.write(row)


def make_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    strict: bool,
    workers: int | None,
    skipped: dict[str, str],
    min_readable: float = 0.0,
    total: int | None = None,
) -> Generator[Batch, None, None]:
    """Batches of the data set; `skipped` gets id and reason of what cannot be read.

    Args:
        dataset: what to read.
        batch_size: samples per batch.
        strict: raise where a sample cannot be read.
        workers: threads that decode.
        skipped: may hold what was left out before.
        min_readable: share of the samples that must be readable.
        total: number of samples that it is a share of, where `dataset` is what is left of them.

    Raises:
        DatasetError: as in `iterate_batches`, or too few samples are readable.
    """
    batches = iterate_batches(dataset, batch_size, workers=workers, strict=strict, on_skip=skipped.__setitem__)
    return _enough(batches, skipped, len(dataset) if total is None else total, min_readable)


def _enough(
    batches: Generator[Batch, None, None], skipped: Mapping[str, str], total: int, min_readable: float
) -> Generator[Batch, None, None]:
    with closing(batches):
        for batch in batches:
            check_readable(skipped, total, min_readable)
            yield batch
    check_readable(skipped, total, min_readable)


def check_readable(skipped: Mapping[str, str], total: int, min_readable: float) -> None:
    """Raises `DatasetError` where so many of `total` samples were skipped that less than `min_readable` are left."""
    if skipped and total - len(skipped) < min_readable * total * (1 - 1e-12):  # 0.7 * 10 is more than 7
        name, reason = next(iter(skipped.items()))
        raise DatasetError(
            f"{len(skipped)} of {total} samples cannot be read, so that less than --min-readable {min_readable:g} of "
            f"them are left: {name}: {reason}"
        )


def count_readable(dataset: Dataset, names: Container[str] | None = None) -> int:
    """How many samples, of these names where any are given, can be read now. Reads them all."""
    chosen = [i for i, name in enumerate(dataset.ids) if names is None or name in names]
    with ThreadPoolExecutor(min(count_cpus(), _MAX_DEFAULT_WORKERS)) as pool:
        return sum(pool.map(lambda index: _is_readable(dataset, index), chosen))


def _is_readable(dataset: Dataset, index: int) -> bool:
    try:
        dataset[index]
    except DatasetError:
        return False
    return True


def fixed_batch_size(runner: Runner, axes: Mapping[str, int | None] | None = None) -> int | None:
    """The batch size that the model was exported with; None where it is dynamic.

    Args:
        runner: the model.
        axes: of its batches, where the batch is not the first dimension of every input.
    """
    return leading_size(runner.inputs, axes)


def leading_size(inputs: Sequence[TensorSpec], axes: Mapping[str, int | None] | None = None) -> int | None:
    """The batch size that inputs are fixed to; None where it is dynamic, or 0, which no batch has."""
    for spec in inputs[: None if axes else 1]:
        axis = (axes or {}).get(spec.name, 0)
        size = spec.shape[axis] if axis is not None and axis < len(spec.shape) else None
        if isinstance(size, int):
            return size or None
    return None


def batch_axes(dataset: Dataset) -> Mapping[str, int | None]:
    """Where batches of a data set, or of a view of it, have their samples, if not in the first dimension."""
    while True:
        axes: Mapping[str, int | None] | None = getattr(dataset, "axes", None)
        if axes is not None or not hasattr(dataset, "dataset"):
            return axes or {}
        dataset = dataset.dataset


def take_rows(batch: Batch, rows: npt.NDArray[np.intp]) -> dict[str, Array]:
    """The inputs of some samples of a batch, by their numbers."""
    axes = {name: batch.axes.get(name, 0) for name in batch.inputs}
    return {
        name: array if axes[name] is None else np.ascontiguousarray(np.take(array, rows, axes[name]))
        for name, array in batch.inputs.items()
    }


def run_padded(runner: Runner, batch: Batch) -> dict[str, Array]:
    """Runs one batch. A model of a fixed batch size gets pieces of it, the last one filled up with copies.

    What was filled up is cut off again: an output whose leading dimension is a multiple of the model's batch size is
    cut in proportion; one that does not depend on the batch is returned as the last piece gave it.

    Returns:
        Every output by name.

    Raises:
        ModelError: an output whose size depends on the values of a sample, as that of boxes after suppression.
    """
    fixed = fixed_batch_size(runner, batch.axes)
    size = len(batch)
    if fixed is None or fixed == size:
        return runner.run(batch.inputs)
    pieces = [_run_piece(runner, batch, start, min(fixed, size - start), fixed) for start in range(0, size, fixed)]
    if len(pieces) == 1:
        return pieces[0][0]
    whole = {}
    for name in pieces[0][0]:
        parts = [outputs[name] for outputs, _ in pieces]
        if len({part.shape[1:] for part in parts}) > 1:
            raise ModelError(f"output {name!r} is of another size for each sample: run it with --batch-size {fixed}")
        if batch.axes and fixed == 1 and parts[0].shape[:1] != (1,):  # the batch is elsewhere: a row for each sample
            whole[name] = np.stack(parts)
            continue
        whole[name] = np.concatenate(parts) if name in pieces[0][1] else parts[-1]
    return whole


def _run_piece(runner: Runner, batch: Batch, start: int, size: int, fixed: int) -> tuple[dict[str, Array], set[str]]:
    """Outputs of samples start .. start + size, and the names of those that have a row for each sample."""
    rows = start + np.arange(fixed) % size
    outputs = runner.run(take_rows(batch, rows))
    batched = {name for name, array in outputs.items() if array.ndim and array.shape[0] % fixed == 0}
    return {n: a[: a.shape[0] // fixed * size] if n in batched else a for n, a in outputs.items()}, batched
