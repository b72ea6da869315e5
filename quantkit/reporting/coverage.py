"""Coverage: which operators of a variant run in INT8 or its other format, and what stays in float, by reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantkit.notices import group_by_reason
from quantkit.reporting.formatting import format_count, single_line
from quantkit.types import LayerPlacement, Report, title_of


@dataclass(frozen=True)
class OperatorCount:
    """Operators of one type, all types if empty: how many are quantized, and of how many."""

    op_type: str
    num_quantized: int
    num_all: int

    @property
    def share(self) -> float:
        """Fraction that is quantized."""
        return round(self.num_quantized / self.num_all, 4) if self.num_all else 0.0


@dataclass(frozen=True)
class ReasonGroup:
    """What stays in float for one kind of reason; names are followed by what a reason says of each alone."""

    reason: str
    names: tuple[str, ...]

    @property
    def reason_count(self) -> str:
        """How many names there are."""
        return format_count(len(self.names))


@dataclass(frozen=True)
class Coverage:
    """One variant: its format, weighted operators by type and in total, and the float ones by reason."""

    variant: str
    format: str
    rows: tuple[OperatorCount, ...]
    groups: tuple[ReasonGroup, ...]

    @property
    def sentence(self) -> str:
        """For people, on one line."""
        total = self.rows[-1]
        counts = format_count(total.num_quantized), format_count(total.num_all)
        return f"{' of '.join(counts)} weighted operators run in {self.format}"


def coverages(report: Report) -> tuple[Coverage, ...]:
    """Every variant that was analyzed, in the order in which they come."""
    names = dict.fromkeys(layer.variant for layer in report.layers)
    titles = {e.name: title_of([e.precision]) for e in report.evaluations if e.is_quantized}
    return tuple(
        _coverage(name, titles.get(name, "INT8"), [layer for layer in report.layers if layer.variant == name])
        for name in names
    )


def coverage_title(report: Report) -> str:
    """Title of the section."""
    return f"{title_of([c.format for c in coverages(report)] or ['int8'])} coverage"


def left_in_float(report: Report) -> tuple[ReasonGroup, ...]:
    """What else the placement left in float, mostly tensors, by reason; not what is named elsewhere."""
    named = {layer.node for layer in report.layers if not layer.is_int8} | report.float_tensors.keys()
    return _group({name: reason for name, reason in report.skipped.items() if name not in named})


def _coverage(variant: str, title: str, layers: Sequence[LayerPlacement]) -> Coverage:
    types = dict.fromkeys(layer.op_type for layer in layers)
    rows = [_count(op_type, [x for x in layers if x.op_type == op_type]) for op_type in types]
    left = {f"{x.op_type} {x.node}": x.reason or "unknown reason" for x in layers if not x.is_int8}
    return Coverage(
        single_line(variant), title, tuple(rows if len(rows) == 1 else [*rows, _count("", layers)]), _group(left)
    )


def _count(op_type: str, layers: Sequence[LayerPlacement]) -> OperatorCount:
    return OperatorCount(single_line(op_type), sum(layer.is_int8 for layer in layers), len(layers))


def _group(reasons: Mapping[str, str]) -> tuple[ReasonGroup, ...]:
    """The largest group first."""
    found = group_by_reason({single_line(name): single_line(reason) for name, reason in reasons.items()})
    return tuple(ReasonGroup(reason, tuple(names)) for reason, names in found.items())
