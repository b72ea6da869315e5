"""Kept statistics, found for a table and made small enough to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantkit.errors import CalibrationError
from quantkit.pipeline.data import PathLike
from quantkit.pipeline.statistics import statistics_path

if TYPE_CHECKING:
    from quantkit.calibration.ranges import RangeCache
    from quantkit.calibration.statistics_file import KeptStatistics
    from quantkit.types import CalibrationTable, TensorStatistics

__all__ = ["MagnitudeHistogram", "Shown", "not_of_table", "shown_cache", "statistics_beside"]

_COLUMNS = 20


@dataclass(frozen=True)
class MagnitudeHistogram:
    """How often which magnitude came, in columns of equal width.

    Attributes:
        upper: the largest magnitude seen: the columns cover 0 to it.
        counts: values in each column.
    """

    upper: float
    counts: tuple[int, ...]


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
    from quantkit.calibration.statistics_file import is_statistics_file
    from quantkit.pipeline.cache_sets import describe_origin
    from quantkit.pipeline.caches import open_cache

    file = Path(path)
    if is_statistics_file(file):
        return _shown_statistics(file)
    cache = open_cache(file)
    notes = [*cache.notes, *describe_origin(file, cache.made_of)]
    if cache.table is None:
        return Shown(cache, {}, None, tuple(notes))
    kept, reason = statistics_beside(file, cache.table)
    if kept is None:
        return Shown(cache, {}, None, (*notes, reason) if reason else tuple(notes))
    histograms = {name: _columns(tensor) for name, tensor in kept.tensors.items()}
    return Shown(cache, histograms, statistics_path(file), tuple(notes))


def statistics_beside(table_path: PathLike, table: CalibrationTable) -> tuple[KeptStatistics | None, str]:
    """The statistics next to a table, or why they are not used; (None, "") where there are none."""
    from quantkit.calibration.statistics_file import load_statistics

    path = statistics_path(table_path)
    if not path.is_file():
        return None, ""
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        return None, str(error)
    if differing := not_of_table(kept, table):
        return None, f"{path.name} beside it is not of this table ({differing}): it is not used"
    return kept, ""


def not_of_table(kept: KeptStatistics, table: CalibrationTable) -> str:
    """What shows that a table was not made of statistics; "" where nothing does."""
    from quantkit.datasets.fingerprint import fingerprint_of

    origin = kept.origin
    if not kept.is_complete:
        return f"unfinished: {kept.num_read} of {len(origin.contents)} samples"
    if origin.model_hash != table.model_hash:
        return f"model hash {origin.model_hash[:12]}, not {table.model_hash[:12]}"
    fingerprint = fingerprint_of(origin.contents)
    if fingerprint != table.dataset_fingerprint:
        return f"data fingerprint {fingerprint[:12]}, not {table.dataset_fingerprint[:12]}"
    if origin.preprocessing != table.preprocessing:
        return "other preprocessing"
    for name, tensor in kept.tensors.items():
        stated = table.tensors.get(name)
        if stated is None and name not in table.skipped:
            return f"the table does not have tensor {name!r}"
        if stated is not None and (stated.minimum, stated.maximum) != (tensor.minimum, tensor.maximum):
            return f"tensor {name!r} was seen from {tensor.minimum:.6g} to {tensor.maximum:.6g} in it"
    if missing := [name for name in table.tensors if name not in kept.tensors]:
        return f"it does not have tensor {missing[0]!r}"
    return ""


def _shown_statistics(file: Path) -> Shown:
    from quantkit.calibration.formats import cache_from_table
    from quantkit.calibration.statistics_file import load_statistics
    from quantkit.calibration.table import load_table

    kept = load_statistics(file)
    histograms = {name: _columns(tensor) for name, tensor in kept.tensors.items()}
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
    notes.append("amax is the largest magnitude seen: 'quantkit cache merge' makes a table of it by a method")
    return Shown(_largest_seen(file, kept), histograms, file, tuple(notes))


def _largest_seen(file: Path, kept: KeptStatistics) -> RangeCache:
    from quantkit.calibration.ranges import CachedRange, RangeCache, bits_from_amax

    tensors = {}
    for name, tensor in kept.tensors.items():
        seen = tensor.minimum <= tensor.maximum
        low, high = (tensor.minimum, tensor.maximum) if seen else (None, None)
        flag = "" if tensor.amax > 0 else "zero on every sample" if seen else "no value"
        tensors[name] = CachedRange(tensor.amax, bits_from_amax(tensor.amax), low, high, flag)
    return RangeCache(file.name, "statistics", tensors, method="none")


def _columns(tensor: TensorStatistics) -> MagnitudeHistogram:
    """The histogram in few columns. A bin belongs to the column of its middle: known to within one bin."""
    upper = tensor.amax if tensor.minimum <= tensor.maximum else 0.0
    if upper == 0 or tensor.bin_width == 0:
        return MagnitudeHistogram(0.0, (int(tensor.count), *[0] * (_COLUMNS - 1)))
    occupied = np.flatnonzero(tensor.histogram)
    with np.errstate(over="ignore"):  # bins wider than all values, in a file of another's making: the last column
        middles = (occupied + 0.5) * tensor.bin_width
        column = np.minimum(middles / upper * _COLUMNS, _COLUMNS - 1).astype(np.int64)
    counts = np.zeros(_COLUMNS, np.int64)
    np.add.at(counts, column, tensor.histogram[occupied])
    return MagnitudeHistogram(upper, tuple(int(n) for n in counts))
