"""Ranges of any origin in one form, to be shown, compared and converted. Files are left to `formats`."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from quantkit.errors import CalibrationError
from quantkit.types import CalibrationTable, TensorRange
from quantkit.types.calibration import NOT_LISTED

CacheForm = Literal["table", "tensorrt", "ort-flatbuffers", "ort-json", "ort-text", "json", "qdq", "statistics"]

_BINS = 2048
"""Bins of TensorRT's histogram."""


@dataclass(frozen=True)
class RangeCache:
    """What a file says about ranges.

    Attributes:
        name: of the file.
        form: of the file.
        tensors: in the file's order.
        method: how the ranges were chosen, as far as the file says.
        version, algorithm: of TensorRT's cache only.
        table: of quantkit's table only: everything else that it says.
        notes: what of the file is not in `tensors`, one sentence each.
        made_of: of a model with Q/DQ, checksum of the calibration table that it says it was made of.
    """

    name: str
    form: CacheForm
    tensors: Mapping[str, TensorRange]
    method: str = "unknown"
    version: int | None = None
    algorithm: str | None = None
    table: CalibrationTable | None = None
    notes: tuple[str, ...] = ()
    made_of: str = ""

    @property
    def title(self) -> str:
        """What the file is, in words."""
        if self.version is not None:
            return f"TensorRT {version_from_number(self.version)} cache"
        return _TITLES[self.form]


_TITLES: dict[CacheForm, str] = {
    "table": "quantkit calibration table",
    "tensorrt": "TensorRT cache",
    "ort-flatbuffers": "ONNX Runtime calibration table (flatbuffers)",
    "ort-json": "ONNX Runtime calibration table (JSON)",
    "ort-text": "ONNX Runtime calibration table (text)",
    "json": "ranges (JSON)",
    "qdq": "ONNX model with Q/DQ",
    "statistics": "quantkit statistics",
}


@dataclass(frozen=True)
class TensorDifference:
    """One tensor in two files: `ratio` is second over first, `bins` how many 2048ths of the range they are apart."""

    name: str
    first: TensorRange
    second: TensorRange
    ratio: float
    bins: float

    @property
    def is_identical(self) -> bool:
        """Whether the scales are the same, bit for bit."""
        return self.first.scale_bits == self.second.scale_bits


@dataclass(frozen=True)
class CacheDifference:
    """Two files compared: common tensors, those furthest apart first, and what only one of them has."""

    tensors: tuple[TensorDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def num_identical(self) -> int:
        """Tensors with the same scale, bit for bit."""
        return sum(t.is_identical for t in self.tensors)

    @property
    def is_same(self) -> bool:
        """Whether both say the same of the same tensors."""
        return not (self.only_first or self.only_second) and self.num_identical == len(self.tensors)


def amax_from_bits(bits: int) -> float:
    """127 * scale, exact in double; infinite or NaN where the scale is."""
    return 127 * float(struct.unpack(">f", struct.pack(">I", bits))[0])


def version_from_number(number: int) -> str:
    """8601 → "8.6.1", 101601 → "10.16.1" (getInferLibVersion)."""
    base = 1000 if number < 10000 else 10000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def difference(first: RangeCache, second: RangeCache) -> CacheDifference:
    """Compares tensor by tensor.

    A bin is 1/2048 of what a tensor reached, as the histogram of TensorRT has them, where one of the files says how far
    that is; else of the larger of both ranges.
    """
    found = []
    for name, one in first.tensors.items():
        other = second.tensors.get(name)
        if other is None:
            continue
        if one.scale_bits == other.scale_bits:
            found.append(TensorDifference(name, one, other, 1.0, 0.0))
            continue
        ratio = other.amax / one.amax if one.amax else math.inf
        reach = max(abs(one.amax), abs(other.amax), one.seen or 0.0, other.seen or 0.0)
        usable = math.isfinite(reach) and reach > 0
        bins = abs(other.amax - one.amax) / reach * _BINS if usable else math.inf
        found.append(TensorDifference(name, one, other, ratio, bins))
    found.sort(key=lambda t: -_distance(t.ratio))
    return CacheDifference(
        tensors=tuple(found),
        only_first=tuple(n for n in first.tensors if n not in second.tensors),
        only_second=tuple(n for n in second.tensors if n not in first.tensors),
    )


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if math.isfinite(ratio) and ratio > 0 else math.inf


def rename(cache: RangeCache, names: Mapping[str, str]) -> RangeCache:
    """The same ranges under new names (old → new).

    Raises:
        CalibrationError: an old name is not in the file, or two tensors would get one name.
    """
    if unknown := [old for old in names if old not in cache.tensors]:
        raise CalibrationError(f"{cache.name} has no tensor {unknown[0]!r}, which the map renames")
    tensors: dict[str, TensorRange] = {}
    for name, value in cache.tensors.items():
        new = names.get(name, name)
        if new in tensors:
            raise CalibrationError(f"two tensors of {cache.name} would be named {new!r}: remove one from the map")
        tensors[new] = value
    return replace(cache, tensors=tensors, table=None if names else cache.table)


def _why_unusable(cache: RangeCache, value: TensorRange) -> str:
    if cache.form == "table" and value.note:
        return value.note
    return "zero in the cache" if value.amax == 0 else NOT_LISTED


def table_from_cache(
    cache: RangeCache,
    ranges: Mapping[str, TensorRange],
    *,
    missing: Mapping[str, str],
    model_hash: str,
    model_name: str,
    versions: Mapping[str, str],
) -> CalibrationTable:
    """A calibration table out of another tool's ranges. It names no data: what was seen is unknown.

    Args:
        cache: where they come from.
        ranges: what of it fits the model, in network order.
        missing: tensors that INT8 needs and the cache does not list → reason.
        model_hash: of the model that it is to be used with.
        model_name: of that model's file.
        versions: of what made the table.

    Raises:
        CalibrationError: no range is usable.
    """
    usable = {name: r for name, r in ranges.items() if r.is_valid}
    if not usable:
        raise CalibrationError(f"{cache.name} has no usable range for a tensor of {model_name}")
    skipped = {n: _why_unusable(cache, r) for n, r in ranges.items() if n not in usable}
    return CalibrationTable(
        tensors={
            # Without a seen range nothing says that one side is not used.
            name: TensorRange(r.amax, r.low, r.high)
            for name, r in usable.items()
        },
        skipped={**skipped, **missing},
        model_hash=model_hash,
        model_name=model_name,
        dataset_fingerprint="",
        num_samples=0,
        settings={"calibrator": cache.title, "method": cache.method, "source": cache.name},
        versions=dict(versions),
    )
