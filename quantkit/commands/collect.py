"""One pass over the data for calibration statistics, with checkpoints from which it resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.caches.reuse import find_checkpoint
from quantkit.calibration.parallel import CollectorGroup
from quantkit.calibration.statistics_file import KeptStatistics, save_statistics
from quantkit.commands.on_device import Member, choose_batch_size
from quantkit.datasets import Selection
from quantkit.datasets.batching import check_readable, make_batches
from quantkit.datasets.description import describe_skipped
from quantkit.errors import DatasetError
from quantkit.interrupts import advising
from quantkit.notices import Notice, Notify, logs_duration, plural
from quantkit.progress import show_progress, with_progress
from quantkit.types import Batch, CalibrationTable, Dataset

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import StatisticsOrigin
    from quantkit.graph.observed_tensors import ObservedTensors
    from quantkit.types.options import CalibrationOptions

_FEW_SAMPLES = 100

CHECKPOINT_S = 30.0
"""Seconds of work that an interruption may cost. Writing statistics of 300 tensors takes some 40 ms."""


def find_interrupted(
    checkpoint: Path | None,
    dataset: Dataset,
    observed: ObservedTensors,
    origin: StatisticsOrigin,
    options: CalibrationOptions,
    *,
    notify: Notify,
) -> KeptStatistics | None:
    """What an interrupted run left, if this run shall continue it; says what becomes of it."""
    if checkpoint is None:
        return None
    if options.resume:
        return find_checkpoint(
            checkpoint,
            origin,
            observed.names,
            dataset,
            batch_size=options.batch_size,
            strict=options.strict,
            notify=notify,
        )
    if checkpoint.exists():
        text = f"An interrupted run left {checkpoint}. Pass --resume to continue it; this run starts over."
        notify(Notice("info", "reuse", text))
    return None


@logs_duration
def collect_statistics(
    members: Sequence[Member],
    dataset: Dataset,
    origin: StatisticsOrigin,
    options: CalibrationOptions,
    resumed: KeptStatistics | None,
    *,
    checkpoint: Path | None,
    notify: Notify,
) -> KeptStatistics:
    """Runs the data through a model, from the start or from where `resumed` ends.

    Args:
        members: collectors that know `resumed`, and what feeds them; see `open_members`.
        dataset: the chosen samples, those of `origin.contents`.
        origin: what the statistics will belong to.
        options: its batch size and how data are read.
        resumed: statistics of the first samples.
        checkpoint: where statistics are left every `CHECKPOINT_S` seconds.
        notify: hears what was left out.

    Returns:
        Statistics of all samples.
    """
    skipped: dict[str, str] = {}
    total, start, repeated, batch_size = len(dataset), 0, 0, options.batch_size
    if resumed is not None:
        repeated, batch_size = resumed.num_repeated, resumed.batch_size
        skipped, start = dict(resumed.unreadable), resumed.num_read

    with ExitStack() as stack:
        collector = CollectorGroup([(member.runner, member.collector) for member in members])
        if batch_size is None:
            batch_size = choose_batch_size(members, dataset, strict=options.strict)
        stack.enter_context(collector)
        size, before = batch_size, 0 if resumed is None else resumed.num_samples

        def snapshot() -> KeptStatistics:
            # A batch ends with a readable sample: what was read is what was fed and what was left out before it.
            return KeptStatistics(
                origin=origin,
                tensors=collector.statistics,
                num_read=before + collector.num_samples + len(skipped),
                num_samples=before + collector.num_samples,
                unreadable=skipped,
                batch_size=size,
                num_repeated=repeated + (collector.num_repeated if collector.repeating else 0),
            )

        def save(path: Path) -> None:
            kept = snapshot()
            save_statistics(kept, path)
            advise(f"The same command with --resume goes on after {kept.num_read} of {total} samples.")

        advise = stack.enter_context(advising())
        if resumed is not None:
            advise(f"The same command with --resume goes on after {start} of {total} samples.")
        rest = Selection(dataset, tuple(range(start, total)))
        batches = _rest_of_batches(rest, size, options, skipped=skipped, total=total)
        if checkpoint is not None:
            batches = _with_checkpoints(batches, rest.ids, skipped, lambda: save(checkpoint))
        bar = stack.enter_context(show_progress(None, "calibrating", len(dataset), options.progress))
        bar.update(before)
        for batch in with_progress(batches, bar):
            collector.observe(batch)
        done = snapshot()
    check_collected(done, dataset, options, collector.repeating, notify)
    return done


def check_collected(
    found: KeptStatistics, dataset: Dataset, options: CalibrationOptions, repeating: Collection[str], notify: Notify
) -> None:
    """Refuses statistics of too few samples; says what was left out, and that copies count in tensors `repeating`."""
    check_readable(found.unreadable, len(dataset), options.min_readable)
    if found.unreadable:
        notify(Notice("warning", "unreadable", describe_skipped(found.unreadable, dataset)))
    if found.num_repeated:
        tensors = f", such as {min(repeating)!r}" if repeating else ""
        text = (
            f"the model takes a fixed number of samples at once: {found.num_repeated} copies filled up batches, and "
            f"count in tensors whose first dimension is not the batch{tensors}"
        )
        notify(Notice("info", "padding", text))


def warn_of_samples(table: CalibrationTable, needed: Collection[str], notify: Notify) -> None:
    """Warns of few samples, and of tensors among `needed` that were zero on all of them."""
    if table.num_samples < _FEW_SAMPLES:
        count = plural(table.num_samples, "calibration sample")
        notify(Notice("warning", "samples", f"Only {count}; {_FEW_SAMPLES}-500 are recommended."))
    for tensor in (name for name in table.skipped if name in needed):
        notify(Notice("warning", "constant", f"Tensor {tensor!r} was zero on every sample and is not quantized."))


def _rest_of_batches(
    rest: Dataset, batch_size: int, options: CalibrationOptions, *, skipped: dict[str, str], total: int
) -> Iterator[Batch]:
    """Batches of what a resumed run has left of `total` samples, which may be nothing, or nothing that can be read."""
    resumed = len(rest) < total
    if resumed and len(rest) == 0:
        return
    before = len(skipped)
    try:
        yield from make_batches(
            rest,
            batch_size,
            strict=options.strict,
            workers=options.workers,
            skipped=skipped,
            min_readable=options.min_readable,
            total=total,
        )
    except DatasetError:
        if options.strict or not resumed or len(skipped) - before < len(rest):
            raise


def _with_checkpoints(
    batches: Iterable[Batch], ids: Sequence[str], skipped: Collection[str], save: Callable[[], object]
) -> Iterator[Batch]:
    """The batches, of `ids` in order; after one was used, and when it is time, its statistics are saved.

    Samples of several shapes are read ahead, and a batch holds those of one: then it is not time before all that were
    read have been used or are in `skipped`, which grows meanwhile.
    """
    written, done = time.monotonic(), set[str]()
    earlier = frozenset(skipped)
    for batch in batches:
        yield batch
        done.update(batch.ids)
        if time.monotonic() - written >= CHECKPOINT_S:
            read = done | (set(skipped) - earlier)
            if read == set(ids[: len(read)]):
                save()
                written = time.monotonic()
