"""What there is to see of a calibration file: its ranges, and the histograms that were kept with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.formats.detect import cache_from_table
from quantkit.caches.open import open_cache
from quantkit.caches.range_cache import RangeCache
from quantkit.caches.reuse import not_of_table, statistics_beside
from quantkit.caches.siblings import describe_provenance
from quantkit.calibration.magnitude_histogram import MagnitudeHistogram, magnitude_columns
from quantkit.calibration.statistics_file import is_statistics_file, load_statistics
from quantkit.calibration.table import load_table
from quantkit.errors import CalibrationError
from quantkit.types import PathLike
from quantkit.types.calibration import TensorRange

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import KeptStatistics


@dataclass(frozen=True)
class Shown:
    """What there is to see of a file of ranges.

    Attributes:
        cache: its ranges.
        histograms: by tensor, where statistics are kept.
        statistics: the file of these; None where there is none.
        notes: one sentence each.
    """

    cache: RangeCache
    histograms: Mapping[str, MagnitudeHistogram]
    statistics: Path | None
    notes: tuple[str, ...]


def shown_cache(path: PathLike) -> Shown:
    """Any file of ranges with what belongs to it: for a table its statistics, for statistics their table.

    Raises:
        QuantKitError: the file cannot be read; the message names it.
    """
    file = Path(path)
    if is_statistics_file(file):
        return _shown_statistics(file)
    cache = open_cache(file)
    notes = [*cache.notes, *describe_provenance(file, cache.made_of)]
    if cache.table is None:
        return Shown(cache, {}, None, tuple(notes))
    kept, reason = statistics_beside(file, cache.table)
    if kept is None:
        return Shown(cache, {}, None, (*notes, reason) if reason else tuple(notes))
    histograms = {name: magnitude_columns(tensor) for name, tensor in kept.tensors.items()}
    return Shown(cache, histograms, CalibrationFiles(file).statistics, tuple(notes))


def _shown_statistics(file: Path) -> Shown:
    kept = load_statistics(file)
    histograms = {name: magnitude_columns(tensor) for name, tensor in kept.tensors.items()}
    origin = kept.origin
    notes = [
        f"{kept.num_samples} samples of {origin.model_name} (hash {origin.model_hash[:12]}), "
        f"{kept.rule} histogram of {next(iter(kept.tensors.values())).histogram.size} bins"
    ]
    if not kept.is_complete:
        notes.append(f"unfinished: {kept.num_read} of {len(origin.contents)} samples; calibrate --resume continues it")
    table_path = file.with_suffix(".json")
    if kept.is_complete and table_path.is_file():
        try:
            table = load_table(table_path)
        except CalibrationError as error:
            notes.append(str(error))
        else:
            differing = not_of_table(kept, table)
            if not differing:
                notes.append(f"amax and method are those of {table_path.name} beside it, which was made of it")
                cache = replace(cache_from_table(table, name=file.name), form="statistics", table=None)
                return Shown(cache, histograms, file, tuple(notes))
            notes.append(f"{table_path.name} beside it was not made of it ({differing})")
    notes.append("amax is the largest magnitude seen: 'quantkit cache merge' creates a table by a method")
    return Shown(_largest_seen(file, kept), histograms, file, tuple(notes))


def _largest_seen(file: Path, kept: KeptStatistics) -> RangeCache:
    tensors = {}
    for name, tensor in kept.tensors.items():
        seen = tensor.minimum <= tensor.maximum
        low, high = (tensor.minimum, tensor.maximum) if seen else (None, None)
        flag = "" if tensor.amax > 0 else "zero on every sample" if seen else "no value"
        tensors[name] = TensorRange(tensor.amax, low, high, flag)
    return RangeCache(file.name, "statistics", tensors, method="none")
