"""Statistics between runs: collected with checkpoints, kept, found again where they fit, turned into ranges."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import CalibrationError, DatasetError
from quantkit.pipeline.data import (
    PathLike,
    Tell,
    count_samples,
    describe_skipped,
    list_some,
    make_batches,
    show_progress,
)
from quantkit.types import Batch, Dataset, HistogramRule, TensorRange, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin

__all__ = [
    "CHECKPOINT_S",
    "checkpoint_path",
    "choose_ranges",
    "collect_statistics",
    "find_checkpoint",
    "find_statistics",
    "lock_path",
    "statistics_path",
    "used_percentile",
]

_MOST_CLIPPED = 0.25
"""Share of a tensor's values; on the models of docs/calibration.md entropy clips a few percent at most."""

CHECKPOINT_S = 30.0
"""Seconds of work that an interruption may cost. Writing statistics of 300 tensors takes some 40 ms."""


def statistics_path(table_path: PathLike) -> Path:
    """Where statistics are kept: MODEL.calib.stats next to MODEL.calib.json."""
    return Path(table_path).with_suffix(".stats")


def checkpoint_path(table_path: PathLike) -> Path:
    """Where an unfinished run leaves its statistics: MODEL.calib.partial next to MODEL.calib.json."""
    return Path(table_path).with_suffix(".partial")


def lock_path(table_path: PathLike) -> Path:
    """Held while the files of one calibration are written: .MODEL.calib.lock next to MODEL.calib.json."""
    path = Path(table_path)
    return path.with_name(f".{path.name.removesuffix('.json').removesuffix('.calib')}.calib.lock")


def find_statistics(
    path: Path, origin: StatisticsOrigin, tensors: tuple[str, ...], *, strict: bool, tell: Tell
) -> KeptStatistics | None:
    """The kept statistics at `path`, if collecting would give the same ones; says why not otherwise."""
    from quantkit.calibration.statistics_file import load_statistics

    if not path.exists():
        return None
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        tell(f"warning: {error}")
        return None
    differences = _differences(kept, origin, tensors)
    if not kept.is_complete:
        differences.append("unfinished")
    if strict and kept.unreadable:
        differences.append(f"strict: {len(kept.unreadable)} samples could not be read")
    if differences:
        tell(f"not using {path.name}, kept of other inputs: {'; '.join(differences)}")
        return None
    return kept


def find_checkpoint(
    path: Path,
    origin: StatisticsOrigin,
    tensors: tuple[str, ...],
    *,
    batch_size: int | None,
    strict: bool,
    tell: Tell,
) -> KeptStatistics | None:
    """The statistics of an interrupted run, if continuing gives what an uninterrupted one would; else says why not."""
    from quantkit.calibration.statistics_file import load_statistics

    if not path.exists():
        tell(f"nothing to resume: there is no {path}; starting anew")
        return None
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        tell(f"warning: {error}; starting anew")
        return None
    differences = _differences(kept, origin, tensors)
    if not differences and kept.origin.contents != origin.contents:
        differences.append("order of the samples")
    if kept.origin.versions != origin.versions:
        differences.append(f"versions: {_versions_text(kept.origin)} → {_versions_text(origin)}")
    if batch_size not in (None, kept.batch_size):
        differences.append(f"batch size: {kept.batch_size} → {batch_size}")
    if strict and kept.unreadable:
        differences.append(f"strict: {len(kept.unreadable)} samples could not be read")
    if differences:
        tell(f"starting anew, since {path.name} was left by a run with other inputs: {'; '.join(differences)}")
        return None
    tell(f"resuming after {kept.num_read} of {len(origin.contents)} samples ({path.name})")
    return kept


def collect_statistics(
    exposed: ir.Model,
    dataset: Dataset,
    tensors: tuple[str, ...],
    origin: StatisticsOrigin,
    *,
    rule: HistogramRule,
    batch_size: int | None,
    resumed: KeptStatistics | None,
    checkpoint: Path | None,
    strict: bool,
    workers: int | None,
    progress: bool,
    tell: Tell,
) -> KeptStatistics:
    """Runs the data through a model, from the start or from where `resumed` ends.

    Args:
        exposed: the model with all of `tensors` among its outputs or inputs.
        dataset: the chosen samples, those of `origin.contents`.
        tensors: names to observe.
        origin: what the statistics will belong to.
        rule: histogram rule.
        batch_size: samples run at once; None chooses by memory.
        resumed: statistics of the first samples; changed in place.
        checkpoint: where statistics are left every `CHECKPOINT_S` seconds.
        strict: fail on the first sample that cannot be read.
        workers: decoding threads.
        progress: show a progress bar.
        tell: hears what was left out.

    Returns:
        Statistics of all samples.
    """
    from quantkit.backends.onnxruntime import OnnxRuntimeRunner
    from quantkit.calibration.collect import Collector, fitting_batch_size
    from quantkit.calibration.statistics_file import KeptStatistics, save_statistics
    from quantkit.datasets import Selection
    from quantkit.graph.expose import batch_first
    from quantkit.graph.model import serialize_model

    collector, skipped, start = Collector(tensors, rule=rule, batch_first=batch_first(exposed)), dict[str, str](), 0
    repeated = 0
    if resumed is not None:
        collector.statistics, collector.num_samples = dict(resumed.tensors), resumed.num_samples
        repeated = resumed.num_repeated
        skipped, start, batch_size = dict(resumed.unreadable), resumed.num_read, resumed.batch_size

    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder, ExitStack() as stack:
        serialized = serialize_model(exposed, folder)
        runner = stack.enter_context(OnnxRuntimeRunner(serialized, name=origin.model_name, spinning=False))
        if batch_size is None:
            first = next(iter(make_batches(dataset, 1, strict=strict, workers=1, skipped={})))
            batch_size = fitting_batch_size(runner, first)
        size = batch_size

        def snapshot() -> KeptStatistics:
            # A batch ends with a readable sample: what was read is what was fed and what was left out before it.
            return KeptStatistics(
                origin=origin,
                tensors=collector.statistics,
                num_read=collector.num_samples + len(skipped),
                num_samples=collector.num_samples,
                unreadable=skipped,
                batch_size=size,
                num_repeated=repeated + (collector.num_repeated if collector.repeating else 0),
            )

        rest = Selection(dataset, tuple(range(start, len(dataset))))
        batches = _rest_of_batches(rest, size, strict=strict, workers=workers, skipped=skipped, resumed=start > 0)
        if checkpoint is not None:
            batches = _with_checkpoints(batches, lambda: save_statistics(snapshot(), checkpoint))
        bar = stack.enter_context(show_progress(None, "calibrating", len(dataset), progress))
        bar.update(collector.num_samples)
        for batch in count_samples(batches, bar):
            collector.observe(runner, batch)
    if skipped:
        tell(f"warning: {describe_skipped(skipped, dataset)}")
    done = snapshot()
    if done.num_repeated:
        tensors_text = f", such as {min(collector.repeating)!r}" if collector.repeating else ""
        tell(
            f"note: the model takes a fixed number of samples at once: {done.num_repeated} copies filled up batches, "
            f"and count in tensors whose first dimension is not the batch{tensors_text}"
        )
    return done


def choose_ranges(
    kept: KeptStatistics, method: str, percentile: float | None, progress: bool, tell: Tell
) -> tuple[dict[str, TensorRange], dict[str, str]]:
    """Calibrated ranges, and the tensors that were always zero with the reason; tells what loses most of its values."""
    from quantkit.calibration.methods import find_method

    choose = find_method(method, percent=percentile)
    # Most probabilities and gates are near 0, and there KL divergence ends the range; the few large ones matter.
    # ONNX Runtime and ModelOpt fix the range of a Softmax likewise. TensorRT's own rule knows no exception.
    unclipped = kept.origin.unclipped if method == "entropy" and kept.rule == "exact" else frozenset()

    def threshold(name: str, tensor: TensorStatistics) -> float:
        return 0.0 if tensor.amax == 0 else tensor.amax if name in unclipped else choose(tensor)

    ranges, skipped = {}, {}
    for name, tensor in show_progress(kept.tensors.items(), "choosing ranges", len(kept.tensors), progress):
        amax = threshold(name, tensor)
        if amax > 0:
            ranges[name] = TensorRange(amax=amax, minimum=tensor.minimum, maximum=tensor.maximum)
        else:
            skipped[name] = "zero on every sample"
    if not ranges:
        raise CalibrationError("every observed tensor was zero on every sample: check model and preprocessing")
    _warn_of_clipping(kept, ranges, method, tell)
    return ranges, skipped


def _warn_of_clipping(kept: KeptStatistics, ranges: Mapping[str, TensorRange], method: str, tell: Tell) -> None:
    """A range that most values lie beyond is a method's failure on this tensor, and the end of the model's accuracy."""
    cut = {}
    for name, chosen in ranges.items():
        statistics = kept.tensors[name]
        beyond = int(statistics.histogram[math.ceil(chosen.amax / statistics.bin_width) :].sum())
        reaching = statistics.count - int(statistics.histogram[0])
        if beyond > _MOST_CLIPPED * max(reaching, 1):
            cut[name] = f"{name} ({100 * beyond / reaching:.0f} % beyond {chosen.amax:.4g})"
    if cut:
        tell(
            f"warning: {method} cuts off much of what is not zero in {list_some(list(cut.values()))}: take another "
            "--method if INT8 is less accurate than FP32"
        )


def used_percentile(method: str, percent: float | None) -> float | None:
    """The percentile that a method uses, None where it has none."""
    from quantkit.calibration.methods import DEFAULT_PERCENTILE

    return (percent if percent is not None else DEFAULT_PERCENTILE) if method == "percentile" else None


def _differences(kept: KeptStatistics, origin: StatisticsOrigin, tensors: tuple[str, ...]) -> list[str]:
    """Names of what differs between stored statistics and those that a run would collect, in a user's words."""
    old = kept.origin
    differences = []
    if old.model_hash != origin.model_hash:
        differences.append(f"model hash: {old.model_hash[:12]} → {origin.model_hash[:12]}")
    elif tuple(kept.tensors) != tensors:
        differences.append(f"observed tensors: {len(kept.tensors)} → {len(tensors)}")
    changed = dict(old.contents).items() ^ dict(origin.contents).items()
    if changed:
        differences.append(f"samples: {list_some(sorted({name for name, _ in changed}))}")
    if old.preprocessing != origin.preprocessing:
        differences.append("preprocessing")
    deciding = ["histogram"]
    if origin.settings["histogram"] == "tensorrt":
        deciding += ["order", "seed", "batch_size"]
    for name in deciding:
        if old.settings.get(name) != origin.settings[name]:
            differences.append(f"{name.replace('_', ' ')}: {old.settings.get(name)} → {origin.settings[name]}")
    return differences


def _versions_text(origin: StatisticsOrigin) -> str:
    return ", ".join(f"{name} {version}" for name, version in origin.versions.items())


def _rest_of_batches(
    rest: Dataset, batch_size: int, *, strict: bool, workers: int | None, skipped: dict[str, str], resumed: bool
) -> Iterator[Batch]:
    """Batches of what a resumed run has left, which may be nothing, or nothing that can be read."""
    if resumed and len(rest) == 0:
        return
    before = len(skipped)
    try:
        yield from make_batches(rest, batch_size, strict=strict, workers=workers, skipped=skipped)
    except DatasetError:
        if strict or not resumed or len(skipped) - before < len(rest):
            raise


def _with_checkpoints(batches: Iterable[Batch], save: Callable[[], object]) -> Iterator[Batch]:
    """The batches; after one was used, and when it is time, its statistics are saved."""
    written = time.monotonic()
    for batch in batches:
        yield batch
        if time.monotonic() - written >= CHECKPOINT_S:
            save()
            written = time.monotonic()
