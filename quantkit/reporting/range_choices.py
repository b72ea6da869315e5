"""What calibration and `tune` chose: methods of ranges, what stays in float, and what quantizing each part costs."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.reporting.formatting import format_percent, format_significant, single_line
from quantkit.types import PlanPoint, QuantizationPlan, RankedUnit, Report

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
class ChoiceRow:
    """What `tune` measured with some tensors in float."""

    plan: QuantizationPlan
    point: PlanPoint

    @property
    def score(self) -> str:
        """The score; a fraction in percent."""
        return f"{100 * self.point.score:.2f}" if self.plan.is_fraction else format_significant(self.point.score, 4)

    @property
    def work(self) -> str:
        """Share of the multiply-adds that is quantized, in percent."""
        return format_percent(self.point.quantized_work)

    @property
    def loss(self) -> str:
        """What the score lost, in the unit of the budget."""
        return self._in_unit(self.point.loss)

    @property
    def interval(self) -> str:
        """95% interval of the loss; empty where there is none."""
        return "" if self.point.interval is None else " to ".join(map(self._in_unit, self.point.interval))

    @property
    def mark(self) -> str:
        """Empty but for the choice that the plan holds."""
        return "chosen" if self.point == self.plan.point else ""

    def _in_unit(self, loss: float) -> str:
        return f"{100 * loss:.2f}" if self.plan.loss_unit else format_significant(loss)


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


def choice_rows(plan: QuantizationPlan | None) -> tuple[ChoiceRow, ...]:
    """The fewest tensors in float first; none without a plan."""
    return () if plan is None else tuple(ChoiceRow(plan, point) for point in plan.front)


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


def unit_rows(report: Report) -> list[UnitRow]:
    """The rows of all `unit_tables`."""
    return [row for table in unit_tables(report) for row in table.rows]
