"""What calibration chose: the method of each range, what it left in float, and what quantizing each part costs."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.reporting.formatting import single_line
from quantkit.types import RankedUnit, Report

NUM_UNITS_SHOWN = 10

_TITLES = {"tensor": "Tensors", "operator": "Operators"}


@dataclass(frozen=True)
class MethodRow:
    """How many quantized activations have a range of one method, and their share of all, 0 to 1."""

    method: str
    num_tensors: int
    share: float


@dataclass(frozen=True)
class FloatTensorRow:
    """A tensor whose readers stay in float, and why; each on one line."""

    tensor: str
    reason: str


@dataclass(frozen=True)
class UnitRow:
    """A tensor or an operator with its rank from 1; its damage as a share of the largest, 0 to 1."""

    unit: RankedUnit
    rank: int
    share: float

    @property
    def name(self) -> str:
        """On one line."""
        return single_line(self.unit.name)


@dataclass(frozen=True)
class UnitTable:
    """Tensors, or operators, the one that costs most first."""

    title: str
    rows: tuple[UnitRow, ...]

    @property
    def worst(self) -> tuple[UnitRow, ...]:
        """The first of them, which are shown."""
        return self.rows[:NUM_UNITS_SHOWN]


def method_rows(report: Report) -> tuple[MethodRow, ...]:
    """The method of the most ranges first; empty where one method chose them all by name."""
    total = sum(report.range_methods.values())
    ordered = sorted(report.range_methods.items(), key=lambda item: (-item[1], item[0]))
    return tuple(MethodRow(single_line(method), count, count / total if total else 0.0) for method, count in ordered)


def float_tensor_rows(report: Report) -> tuple[FloatTensorRow, ...]:
    """In the order of the report."""
    return tuple(FloatTensorRow(single_line(name), single_line(why)) for name, why in report.float_tensors.items())


def unit_tables(report: Report) -> tuple[UnitTable, ...]:
    """Tensors and operators, as far as a sensitivity analysis ranked them."""
    found = report.sensitivity
    if found is None:
        return ()
    largest = max((unit.damage for unit in found.units), default=0.0)
    tables = []
    for kind, title in _TITLES.items():
        units = [unit for unit in found.units if unit.kind == kind]
        rows = [
            UnitRow(unit, rank, max(unit.damage, 0.0) / largest if largest > 0 else 0.0)
            for rank, unit in enumerate(units, start=1)
        ]
        tables += [UnitTable(title, tuple(rows))] if rows else []
    return tuple(tables)
