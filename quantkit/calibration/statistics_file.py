"""Statistics on disk: what calibration counted and of which samples, so that it can be resumed, merged and reused.

One file: a line with its length and checksum, a line of JSON, the occupied bins. `docs/reference/table_format.md`
specifies it; this module reads version 1. Nothing in a file is executed or decompressed, and every length is checked
before use.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from quantkit.calibration.sealed_file import Seal
from quantkit.calibration.statistics import EXACT_BINS, TENSORRT_BINS
from quantkit.errors import CalibrationError, DatasetError
from quantkit.machine import open_regular, read_input
from quantkit.storage import write_bytes
from quantkit.types import HistogramRule, Preprocessing, TensorStatistics
from quantkit.types.calibration import Setting

_SEAL = Seal(b"quantkit statistics ", 1, "a statistics file of calibrate --keep-statistics")
_MOST_TENSORS = 20_000
"""Each takes 64 KiB of memory, however few bytes of the file: a hostile file cannot ask for more than about 1 GB."""

_NARROWEST: dict[HistogramRule, float] = {"exact": 2.0**-126, "tensorrt": 2.0**-160}
"""Bin widths: what the exact rule begins with, and the smallest float32 divided into TensorRT's 2048 bins."""

_WIDEST = 2.0**126
"""Wider bins than any that float32 needs; their reciprocal would be denormal."""


@dataclass(frozen=True)
class StatisticsOrigin:
    """What statistics belong to.

    Attributes:
        model_hash, model_name: of the float model.
        contents: id and content hash of every chosen sample, in the order of the run.
        preprocessing: of images; None for arrays.
        settings: everything else that decides the statistics, by the names that a table has them under.
        versions: of quantkit and the runtime.
        unclipped: probabilities and gates, whose seen range method "entropy" keeps.
    """

    model_hash: str
    model_name: str
    contents: tuple[tuple[str, str], ...]
    preprocessing: Preprocessing | None
    settings: Mapping[str, Setting]
    versions: Mapping[str, str]
    unclipped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class KeptStatistics:
    """Statistics, and how much of their samples they hold.

    Attributes:
        origin: what they belong to.
        tensors: statistics by name, in network order.
        num_read: how many of `origin.contents` were read, from the first; all of them when the run is complete.
        num_samples: how many of those were fed: the readable ones.
        unreadable: reason by id of the others.
        batch_size: samples run at once.
        num_repeated: copies of samples that filled a fixed batch size up, where a tensor counts them: one whose first
            dimension is not known to be the batch.
    """

    origin: StatisticsOrigin
    tensors: Mapping[str, TensorStatistics]
    num_read: int
    num_samples: int
    unreadable: Mapping[str, str]
    batch_size: int
    num_repeated: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_samples <= self.num_read <= len(self.origin.contents):
            raise CalibrationError(
                f"{self.num_samples} samples fed, {self.num_read} read, of {len(self.origin.contents)}"
            )
        if self.num_read - self.num_samples != len(self.unreadable):
            raise CalibrationError(f"{len(self.unreadable)} unreadable, but {self.num_read - self.num_samples} not fed")
        if self.batch_size < 1:
            raise CalibrationError(f"batch size {self.batch_size} must be at least 1")
        if self.num_repeated < 0:
            raise CalibrationError(f"{self.num_repeated} repeated samples must be at least 0")

    @property
    def is_complete(self) -> bool:
        """Whether every chosen sample was read."""
        return self.num_read == len(self.origin.contents)

    @property
    def rule(self) -> HistogramRule:
        """Histogram rule of the tensors."""
        return next(iter(self.tensors.values())).rule


def save_statistics(kept: KeptStatistics, path: str | os.PathLike[str]) -> Path:
    """Writes the file atomically. Returns its path.

    Raises:
        OutputError: the file cannot be written.
    """
    entries, body = [], []
    for name, tensor in kept.tensors.items():
        occupied = np.flatnonzero(tensor.histogram)
        seen = tensor.minimum <= tensor.maximum
        bins = occupied.astype("<u2").tobytes() + tensor.histogram[occupied].astype("<i8").tobytes()
        entries.append(
            {
                "name": name,
                "bin_width": tensor.bin_width,
                "minimum": tensor.minimum if seen else None,
                "maximum": tensor.maximum if seen else None,
                "num_occupied": occupied.size,
                "unclipped": name in kept.origin.unclipped,
                "digest": _short_digest(bins),
            }
        )
        body.append(bins)
    origin = kept.origin
    header = {
        "model": {"name": origin.model_name, "hash": origin.model_hash},
        "preprocessing": None if origin.preprocessing is None else origin.preprocessing.declared(),
        "settings": dict(origin.settings),
        "versions": dict(origin.versions),
        "histogram": kept.rule,
        "num_read": kept.num_read,
        "num_samples": kept.num_samples,
        "batch_size": kept.batch_size,
        "num_repeated": kept.num_repeated,
        "unreadable": dict(kept.unreadable),
        "samples": origin.contents,
        "tensors": entries,
    }
    content = b"".join([msgspec.json.encode(header), b"\n", *body])
    write_bytes(path, _SEAL.put(content))
    return Path(path)


def is_statistics_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as statistics do; it may be damaged after that."""
    try:
        with open_regular(path) as file:
            return file.read(len(_SEAL.magic)) == _SEAL.magic
    except OSError:
        return False


def load_statistics(path: str | os.PathLike[str]) -> KeptStatistics:
    """Reads and verifies a statistics file.

    Raises:
        CalibrationError: one line: the file is missing, no statistics, cut short, of a newer format, changed after it
            was written, or contradicts itself.
    """
    file = Path(path)
    stored = read_input(file, CalibrationError, "statistics", most_bytes=None)
    content = _SEAL.check(file, stored, _changed_place)
    text, _, body = content.partition(b"\n")
    try:
        return _decode(msgspec.json.decode(text, type=_Header), body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, CalibrationError, DatasetError) as error:
        raise CalibrationError(f"{file} is not a valid statistics file: {error}") from error


class _Model(msgspec.Struct):
    name: str
    hash: str


class _Tensor(msgspec.Struct):
    name: str
    bin_width: float
    minimum: float | None
    maximum: float | None
    num_occupied: int
    unclipped: bool
    digest: str | None = None


class _Tensors(msgspec.Struct):
    """As much of a header as says where the histograms lie."""

    tensors: list[_Tensor]


class _Header(msgspec.Struct):
    model: _Model
    preprocessing: Preprocessing | None
    settings: dict[str, Setting]
    versions: dict[str, str]
    histogram: HistogramRule
    num_read: int
    num_samples: int
    batch_size: int
    unreadable: dict[str, str]
    samples: tuple[tuple[str, str], ...]
    tensors: list[_Tensor]
    num_repeated: int = 0


def _short_digest(content: bytes) -> str:
    """Finds the tensor that was damaged; that one was, the checksum says."""
    return hashlib.sha256(content).hexdigest()[:8]


def _changed_place(content: bytes) -> str:
    """Where content without a right checksum was changed, as far as its header can still be read."""
    text, _, body = content.partition(b"\n")
    try:
        tensors = msgspec.json.decode(text, type=_Tensors).tensors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "its header (line 2) is damaged"
    if sum(max(10 * entry.num_occupied, 0) for entry in tensors) != len(body):
        return "its header (line 2) lists other histograms than follow"
    offset = 0
    for entry in tensors:
        end = offset + max(10 * entry.num_occupied, 0)
        if entry.digest is not None and entry.digest != _short_digest(body[offset:end]):
            return f"the histogram of tensor {entry.name[:60]!r}"
        offset = end
    if any(entry.digest is None for entry in tensors):
        return "its checksum is wrong, and it has no digests to locate the damage"
    return "its checksum, or the header (line 2); all histograms are whole"


def _decode(header: _Header, body: bytes) -> KeptStatistics:
    if not 0 < len(header.tensors) <= _MOST_TENSORS:
        raise CalibrationError(f"{len(header.tensors)} tensors, expected 1 to {_MOST_TENSORS}")
    bins = EXACT_BINS if header.histogram == "exact" else TENSORRT_BINS
    tensors: dict[str, TensorStatistics] = {}
    offset = 0
    for entry in header.tensors:
        size = 10 * entry.num_occupied
        if not 0 <= entry.num_occupied <= bins or offset + size > len(body):
            raise CalibrationError(f"tensor {entry.name!r} has {entry.num_occupied} occupied bins, which are not there")
        if entry.name in tensors:
            raise CalibrationError(f"tensor {entry.name!r} is there twice")
        index = np.frombuffer(body, "<u2", entry.num_occupied, offset).astype(np.int64)
        counts = np.frombuffer(body, "<i8", entry.num_occupied, offset + 2 * entry.num_occupied).astype(np.int64)
        tensors[entry.name] = _tensor(entry, header.histogram, bins, index, counts)
        offset += size
    if offset != len(body):
        raise CalibrationError(f"{len(body) - offset} bytes follow the last histogram")
    if len(set(header.samples)) != len(header.samples):
        raise CalibrationError("a sample is there twice")
    origin = StatisticsOrigin(
        model_hash=header.model.hash,
        model_name=header.model.name,
        contents=header.samples,
        preprocessing=header.preprocessing,
        settings=header.settings,
        versions=header.versions,
        unclipped=frozenset(entry.name for entry in header.tensors if entry.unclipped),
    )
    return KeptStatistics(
        origin=origin,
        tensors=tensors,
        num_read=header.num_read,
        num_samples=header.num_samples,
        unreadable=header.unreadable,
        batch_size=header.batch_size,
        num_repeated=header.num_repeated,
    )


def _tensor(
    entry: _Tensor, rule: HistogramRule, bins: int, index: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> TensorStatistics:
    """One tensor's statistics, unless they contradict themselves."""

    def refuse(what: str) -> CalibrationError:
        return CalibrationError(f"tensor {entry.name!r}: {what}")

    if (counts <= 0).any() or counts.sum(dtype=np.float64) >= 2.0**62:
        raise refuse("a count is not positive, or they are too large")
    if (np.diff(index) <= 0).any() or (index >= bins).any():
        raise refuse(f"bins must ascend below {bins}")
    if (entry.minimum is None) != (entry.maximum is None) or (entry.minimum is None) != (index.size == 0):
        raise refuse("extremes without values, or values without extremes")
    histogram = np.zeros(bins, np.int64)
    histogram[index] = counts
    statistics = TensorStatistics(histogram=histogram, bin_width=entry.bin_width, rule=rule)
    if entry.minimum is not None and entry.maximum is not None:
        if not (math.isfinite(entry.minimum) and math.isfinite(entry.maximum) and entry.minimum <= entry.maximum):
            raise refuse(f"seen range [{entry.minimum}, {entry.maximum}] must be finite and ordered")
        statistics.minimum, statistics.maximum = entry.minimum, entry.maximum
    _check_width(statistics, index, refuse)
    return statistics


def _check_width(
    statistics: TensorStatistics, index: npt.NDArray[np.int64], refuse: Callable[[str], CalibrationError]
) -> None:
    """The bin width must be one that the rule gives, and the largest magnitude must lie in the last occupied bin."""
    width, amax = statistics.bin_width, statistics.amax
    if width == 0:
        if amax or index[1:].size or index[:1].any():
            raise refuse("values that are not 0 in bins of width 0")
        return
    if not 0 < width <= _WIDEST or (statistics.rule == "exact" and math.frexp(width)[0] != 0.5):
        raise refuse(f"bin width {width} must be a positive power of two")
    if width < _NARROWEST[statistics.rule]:
        raise refuse(f"bin width {width} is smaller than any that is counted with")
    if not index.size or statistics.rule != "exact":
        return
    reached = amax / width  # infinite for a width that the file has from elsewhere
    if not math.isfinite(reached) or max(math.ceil(reached) - 1, 0) != index[-1]:
        raise refuse(f"the largest magnitude {amax} is not in the last occupied bin, {index[-1]} of width {width}")
