"""What calibration knows: statistics of tensors, ranges, the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from quantkit.errors import CalibrationError, StaleTableError
from quantkit.types.data import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["CalibrationTable", "HistogramRule", "TensorRange", "TensorStatistics"]

HistogramRule = Literal["exact", "tensorrt"]


@dataclass
class TensorStatistics:
    """What calibration knows of one tensor: everything that any method needs, from one pass over the data.

    Attributes:
        histogram: int64 [bins], counts of magnitudes; bin i holds |x| in [i, i + 1) * bin_width.
        bin_width: width of a bin, 0 while every value was 0.
        minimum, maximum: extremes of the values themselves, with sign.
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
    """Calibrated range of one tensor: clipped to [-amax, amax]; minimum and maximum are what was seen."""

    amax: float
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amax) and self.amax > 0):
            raise CalibrationError(f"amax {self.amax} must be positive and finite")
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum) and self.minimum <= self.maximum):
            raise CalibrationError(f"seen range [{self.minimum}, {self.maximum}] must be finite and ordered")


@dataclass(frozen=True)
class CalibrationTable:
    """The reusable result of calibration, and what it belongs to.

    Attributes:
        tensors: calibrated range by tensor name, in network order.
        skipped: tensors that were observed and got no range, with the reason (all zero).
        model_hash: hash of graph and weights (`quantkit.graph.model.model_hash`).
        dataset_fingerprint: `Dataset.fingerprint` of the samples used.
        num_samples: how many samples were seen.
        preprocessing: as the images were prepared; None for arrays.
        settings: everything else that decides the numbers: method, its parameters, histogram, order, seed, batch size.
        versions: of quantkit and the runtime that computed the activations.
    """

    tensors: Mapping[str, TensorRange]
    model_hash: str
    dataset_fingerprint: str
    num_samples: int
    settings: Mapping[str, str | int | float | bool | None]
    preprocessing: Preprocessing | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    model_name: str = ""
    format_version: int = 1

    def __post_init__(self) -> None:
        if not self.tensors:
            raise CalibrationError("a calibration table needs at least one tensor")
        if both := self.tensors.keys() & self.skipped.keys():
            raise CalibrationError(f"tensor {min(both)!r} is both calibrated and skipped")

    @property
    def method(self) -> str:
        """Name of the calibration method."""
        return str(self.settings.get("method", "unknown"))

    def check_model(self, model_hash: str, model_name: str) -> None:
        """Raises `StaleTableError`, naming both hashes, unless the table was made from this model."""
        if model_hash != self.model_hash:
            raise StaleTableError(
                f"the calibration table was made for model {self.model_name!r} (hash {self.model_hash[:12]}), "
                f"not for {model_name!r} (hash {model_hash[:12]}): calibrate {model_name!r} again"
            )
