"""A TensorRT cache or a calibration table in rows, one for each tensor, and what TensorRT does with it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.caches.formats.detect import cache_from_table, ranges_from_bits
from quantkit.caches.formats.tensorrt_cache import ALGORITHMS, parse_cache
from quantkit.caches.range_cache import version_from_number
from quantkit.calibration.table import load_table
from quantkit.errors import CalibrationError
from quantkit.types import CalibrationTable

if TYPE_CHECKING:
    from quantkit.types.calibration import TensorRange

Sort = Literal["network", "amax", "name"]


@dataclass(frozen=True)
class RangeRow:
    """Range of one tensor: `hex` is its scale's bits as TensorRT's cache has them; `flag` what is odd about it."""

    name: str
    amax: float
    scale: float
    hex: str
    flag: str = ""


@dataclass(frozen=True)
class CacheInspection:
    """TensorRT's calibration cache.

    Attributes:
        tensorrt_version: that wrote it, or that it was written for.
        algorithm: of the calibrator that reads it.
        meaning: what that means, one sentence each.
        tensors: in network order.
    """

    path: Path
    header: str
    tensorrt_version: str
    algorithm: str
    meaning: tuple[str, ...]
    tensors: tuple[RangeRow, ...]


@dataclass(frozen=True)
class TableInspection:
    """quantkit's calibration table, and its tensors as rows."""

    path: Path
    table: CalibrationTable
    tensors: tuple[RangeRow, ...]


def select_tensors(
    tensors: Iterable[RangeRow], *, sort: Sort = "network", pattern: str | None = None
) -> list[RangeRow]:
    """Rows whose name matches a shell pattern, sorted: as in the network, by falling amax, or by name."""
    rows = [row for row in tensors if pattern is None or fnmatch.fnmatchcase(row.name, pattern)]
    if sort == "amax":
        rows.sort(key=lambda row: -row.amax)
    elif sort == "name":
        rows.sort(key=lambda row: row.name)
    return rows


def rows_from_ranges(ranges: Mapping[str, TensorRange], table: CalibrationTable | None = None) -> tuple[RangeRow, ...]:
    """Ranges of any file as rows; of a table also which method chose each range, and what stays in float and why."""
    rows = []
    for name, r in ranges.items():
        flags = [r.note]
        if table is not None:
            calibrated = table.tensors.get(name)
            flags = [calibrated.method if calibrated is not None else "", r.note]
            if name in table.float_tensors:
                flags.append(f"stays in float: {table.float_tensors[name]}")
        rows.append(RangeRow(name, r.amax, r.scale, f"{r.scale_bits:x}", ", ".join(filter(None, flags))))
    return tuple(rows)


def inspect_tensorrt_cache(content: bytes, file: Path) -> CacheInspection:
    """What TensorRT's cache says, and what TensorRT does with it.

    Raises:
        CalibrationError: it is none.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{file} is not a TensorRT calibration cache: it is not UTF-8 text") from error
    cache = parse_cache(text, name=str(file))
    version = version_from_number(cache.version)
    return CacheInspection(
        path=file,
        header=text.partition("\n")[0],
        tensorrt_version=version,
        algorithm=cache.algorithm,
        meaning=_cache_meaning(version, cache.algorithm, list(cache.scale_bits.values())),
        tensors=rows_from_ranges(ranges_from_bits(cache.scale_bits)),
    )


def _cache_meaning(version: str, algorithm: str, bits: list[int]) -> tuple[str, ...]:
    calibrator = {
        "EntropyCalibration2": "IInt8EntropyCalibrator2",
        "MinMaxCalibration": "IInt8MinMaxCalibrator",
        "EntropyCalibration": "IInt8EntropyCalibrator",
        "LegacyCalibration": "IInt8LegacyCalibrator",
    }.get(algorithm)
    sentences = [
        f"TensorRT {version} loads it with {calibrator or 'the calibrator of that name'}; other versions and "
        "calibrators report a mismatch and recalibrate",
        "TensorRT 11 has no calibrators and ignores caches: use the model with Q/DQ",
        "TensorRT does not check that it belongs to the model; layers with a tensor that is not listed stay in float",
    ]
    if algorithm not in ALGORITHMS:
        sentences.insert(0, f"{algorithm} is not an algorithm of a TensorRT calibrator")
    if zeros := sum(b == 0 for b in bits):
        sentences.append(f"{zeros} tensors have scale 0: TensorRT 8.5 and later may fail to build with them")
    return tuple(sentences)


def inspect_table(file: Path) -> TableInspection:
    """A calibration table, and its tensors as rows."""
    table = load_table(file)
    return TableInspection(file, table, rows_from_ranges(cache_from_table(table, name=file.name).tensors, table))
