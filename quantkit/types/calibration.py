"""What calibration knows: statistics of tensors, ranges, the table."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.errors import CalibrationError
from quantkit.types.data import Preprocessing
from quantkit.types.notebook import ShownInNotebook, ShownRow
from quantkit.types.quantization import INT8, QuantScheme

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from quantkit.types.refinement import Refinement

HistogramRule = Literal["exact", "tensorrt"]
Setting = str | int | float | bool | None

NOT_LISTED = "not in the cache that the table was made from"
"""Reason in a table's `skipped`: no range is known, which is not the same as always zero."""

NOT_OBSERVED = "behind an operator that calibration could not run"
"""Likewise: a plugin, for which ONNX Runtime has no kernel."""

NOT_FINITE = "NaN or infinite on a sample, or empty on all of them"
"""Likewise, of a tensor that no Q/DQ needs."""

_UNKNOWN = (NOT_LISTED, NOT_OBSERVED, NOT_FINITE)


@dataclass
class TensorStatistics:
    """What calibration knows of one tensor: everything that any method needs, from one pass over the data.

    Attributes:
        histogram: int64 [bins], counts of magnitudes. By the rule "exact" bin i holds |x| in (i, i + 1] * bin_width,
            and bin 0 zeros too; by "tensorrt" in [i, i + 1) * bin_width.
        bin_width: width of a bin, 0 while every value was 0.
        minimum, maximum: extremes of the values themselves, not of their magnitudes.
        rule: "exact" (bin width a power of two; merging is exact) or "tensorrt" (depends on the order of the data).
    """

    histogram: npt.NDArray[np.int64]
    bin_width: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    rule: HistogramRule = "exact"

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.histogram.sum())

    @property
    def amax(self) -> float:
        """Largest magnitude seen, 0 if there was none."""
        return max(-self.minimum, self.maximum, 0.0) if self.minimum <= self.maximum else 0.0


@dataclass(frozen=True)
class TensorRange:
    """Range of one tensor, of any origin: calibrated here, or as another tool's file has it.

    Attributes:
        amax: values are clipped to [-amax, amax]; another tool's may be unusable: see `is_valid`.
        minimum, maximum: what was seen; None where that is not known.
        note: what is odd about it, a few words.
        is_asymmetric: the file gives the two sides a zero point of their own, which a scale alone cannot hold.
        method: the calibration method that chose it, where that was decided for this tensor alone.
    """

    amax: float
    minimum: float | None = None
    maximum: float | None = None
    note: str = ""
    is_asymmetric: bool = False
    method: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether INT8 can use it: the scale positive, finite, and one that float32 holds."""
        return math.isfinite(self.amax) and self.amax > 0 and 0 < self.scale_bits < 0x7F800000

    @property
    def scale_bits(self) -> int:
        """Amax / 127 as the 32 bits of a float32; of infinity where float32 does not reach."""
        return bits_from_amax(self.amax)

    @property
    def scale(self) -> float:
        """`scale_bits` as a number."""
        return float(struct.unpack(">f", struct.pack(">I", self.scale_bits))[0])

    @property
    def seen(self) -> float | None:
        """Largest magnitude seen; None where that is not known."""
        return None if self.minimum is None or self.maximum is None else max(-self.minimum, self.maximum)

    @property
    def low(self) -> float:
        """Lowest value: as seen, or what symmetry gives where that is not known."""
        return -self.amax if self.minimum is None else self.minimum

    @property
    def high(self) -> float:
        """Highest value, likewise."""
        return self.amax if self.maximum is None else self.maximum

    def check_calibrated(self) -> None:
        """Raises `CalibrationError` unless a table may hold it: positive and finite, with what was seen in order."""
        if not (math.isfinite(self.amax) and self.amax > 0):
            raise CalibrationError(f"amax {self.amax} must be positive and finite")
        low, high = self.minimum, self.maximum
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise CalibrationError(f"seen range [{low}, {high}] must be finite and ordered")


def bits_from_amax(amax: float) -> int:
    """Bits of amax / 127 as float32; of infinity where float32 does not reach."""
    try:
        packed = struct.pack(">f", float(amax) / 127)
    except OverflowError:
        packed = struct.pack(">f", math.copysign(math.inf, amax))
    return int(struct.unpack(">I", packed)[0])


@dataclass(frozen=True, repr=False)
class CalibrationTable(ShownInNotebook):
    """The reusable result of calibration, and what it belongs to.

    Attributes:
        tensors: calibrated range by tensor name, in network order.
        skipped: tensors that were observed and got no range, with the reason (all zero).
        float_tensors: tensors whose readers stay in float although there is a range, with the reason: INT8 would cost
            too much of the output's accuracy.
        model_hash: hash of graph and weights (`quantkit.graph.model.model_hash`).
        dataset_fingerprint: `Dataset.fingerprint` of the samples used.
        num_samples: how many samples were seen.
        preprocessing: as the images were prepared; None for arrays.
        settings: everything else that decides the numbers: method, its parameters, histogram, order, seed, batch size.
        versions: of quantkit and the runtime that computed the activations.
        quality: what the INT8 output is worth on samples that nothing was chosen on, by name: see
            `quantkit.refinement.quality`.
        refinement: what was found on samples beside the ranges; None without it, or where its file is not there.
        formats: of activations whose readers a plan quantizes to another format than INT8; no part of the file.
        roundings: weights and biases that were rounded on samples for other formats, by their names in `SCHEMES`.
        unusable: what lies beside the table and cannot be used, and why, in words, by format.
        path: the file that it was read from; None for one that was made here.
    """

    tensors: Mapping[str, TensorRange]
    model_hash: str
    dataset_fingerprint: str
    num_samples: int
    settings: Mapping[str, Setting]
    preprocessing: Preprocessing | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    float_tensors: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    refinement: Refinement | None = field(default=None, compare=False, repr=False)
    formats: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    roundings: Mapping[str, Refinement] = field(default_factory=dict, compare=False, repr=False)
    unusable: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    path: Path | None = field(default=None, compare=False, repr=False)
    model_name: str = ""
    format_version: int = 1

    def __post_init__(self) -> None:
        if not self.tensors:
            raise CalibrationError("a calibration table needs at least one tensor")
        for value in self.tensors.values():
            value.check_calibrated()
        if both := self.tensors.keys() & self.skipped.keys():
            raise CalibrationError(f"tensor {min(both)!r} is both calibrated and skipped")

    def _title(self) -> str:
        return f"Calibration table of {self.model_name or 'a model'}: {self.method}, {self.num_samples:,} samples"

    def _rows(self) -> list[ShownRow]:
        return [
            {
                "tensor": name,
                "amax": found.amax,
                "minimum": found.minimum,
                "maximum": found.maximum,
                "method": found.method or self.method,
                "in float": self.float_tensors.get(name),
            }
            for name, found in self.tensors.items()
        ]

    @property
    def method(self) -> str:
        """Name of the calibration method."""
        return str(self.settings.get("method", "unknown"))

    @property
    def in_float(self) -> dict[str, str]:
        """Tensors that are not quantized, with the reason: `skipped` and `float_tensors`."""
        return {**self.skipped, **self.float_tensors}

    @property
    def magnitudes(self) -> dict[str, float]:
        """The largest magnitude of each tensor, seen or calibrated."""
        return {name: max(r.amax, r.seen or 0.0) for name, r in self.tensors.items()}

    def for_scheme(self, scheme: QuantScheme) -> CalibrationTable:
        """The table as a scheme takes it: INT8 what was chosen for it, others the magnitudes that were seen.

        The step of a floating-point number is relative to it: clipping large values does not make small ones more
        exact. What INT8 ruins need not stay in float, and FP8 has a choice of its own.
        """
        if scheme.activations == INT8:
            return self
        seen = {name: replace(found, amax=found.seen or found.amax) for name, found in self.tensors.items()}
        kept = self.roundings.get("fp8") if scheme.activations is not None else None
        return replace(self, tensors=seen, float_tensors=kept.float_tensors if kept else {}, refinement=kept)

    @property
    def always_zero(self) -> tuple[str, ...]:
        """Of `skipped`, the tensors that were zero on every sample; of the others no range is known."""
        return tuple(name for name, reason in self.skipped.items() if reason not in _UNKNOWN)
