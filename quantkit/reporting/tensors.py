"""Layer-wise error: what quantization does to each activation, in network order, and the worst of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.charts.activations import Histogram, Profile, make_histogram, make_profile
from quantkit.reporting.formatting import format_significant, single_line
from quantkit.types import Report, TensorQuality

NUM_WORST = 10

_LEAST_TOP_DB = 40.0
"""The bars of SQNR end here or at the best tensor: INT8 of uniform values has 20 log10(2^8) = 48 dB at the most."""


@dataclass(frozen=True)
class TensorRow:
    """One activation, its position from 1, its rank among the worst (0 if not), its bars (0 to 1) and its histogram."""

    quality: TensorQuality
    position: int
    rank: int
    bar: float
    own_bar: float
    histogram: Histogram | None

    @property
    def name(self) -> str:
        """On one line."""
        return single_line(self.quality.tensor)

    @property
    def producer(self) -> str:
        """On one line, and what is done to the activation before it is quantized."""
        transform = f" ({self.quality.transform})" if self.quality.transform else ""
        return single_line(self.quality.producer + transform)


@dataclass(frozen=True)
class TensorTable:
    """The activations of one variant: the worst first, and all in network order."""

    variant: str
    worst: tuple[TensorRow, ...]
    all: tuple[TensorRow, ...]
    profile: Profile | None
    top_db: str


def tensor_tables(report: Report) -> tuple[TensorTable, ...]:
    """One table for each variant that was analyzed; empty where none was."""
    names = dict.fromkeys(tensor.variant for tensor in report.tensors)
    return tuple(_table(name, [t for t in report.tensors if t.variant == name]) for name in names)


def _table(variant: str, tensors: Sequence[TensorQuality]) -> TensorTable:
    order = sorted(range(len(tensors)), key=lambda i: _severity(tensors[i]))
    worst = [i for i in order if tensors[i].own_sqnr_db is not None or tensors[i].sqnr_db is not None][:NUM_WORST]
    ranks = {i: rank for rank, i in enumerate(worst, start=1)}
    finite = [v for t in tensors for v in (t.sqnr_db, t.own_sqnr_db) if v is not None and math.isfinite(v)]
    top = max([_LEAST_TOP_DB, *finite])
    rows = [
        TensorRow(t, i + 1, ranks.get(i, 0), _bar(t.sqnr_db, top), _bar(t.own_sqnr_db, top), make_histogram(t))
        for i, t in enumerate(tensors)
    ]
    return TensorTable(
        variant=single_line(variant),
        worst=tuple(rows[i] for i in worst),
        all=tuple(rows),
        profile=make_profile(tensors, worst),
        top_db=format_significant(top, 2),
    )


def _severity(tensor: TensorQuality) -> tuple[float, float]:
    """Lowest local SQNR first; NaN, which is no number at all, before everything."""
    values = (math.inf if v is None else v for v in (tensor.own_sqnr_db, tensor.sqnr_db))
    own, total = (-math.inf if math.isnan(v) else v for v in values)
    return own, total


def _bar(value: float | None, top: float) -> float:
    if value is None:
        return 1.0
    return 0.0 if math.isnan(value) else round(min(max(value / top, 0.0), 1.0), 4)
