"""How much of a variant computes on INT8, and what does not, by reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantkit.reporting.formatting import format_count, one_line
from quantkit.types import LayerPlacement, Report

__all__ = ["Coverage", "OperatorCount", "ReasonGroup", "coverages", "left_in_float"]


@dataclass(frozen=True)
class OperatorCount:
    """Operators of one type: how many compute on INT8, of how many, and the share of them."""

    op_type: str
    int8_count: str
    operator_count: str
    share: float


@dataclass(frozen=True)
class ReasonGroup:
    """What stays in float for one reason."""

    reason: str
    reason_count: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """One variant: all weighted operators, by type, and those in float, by reason, the largest group first."""

    variant: str
    all: OperatorCount
    by_type: tuple[OperatorCount, ...]
    groups: tuple[ReasonGroup, ...]

    @property
    def rows(self) -> tuple[OperatorCount, ...]:
        """By type, then all where there are several types."""
        return self.by_type if len(self.by_type) == 1 else (*self.by_type, self.all)

    @property
    def sentence(self) -> str:
        """For people, on one line."""
        return f"{self.all.int8_count} of {self.all.operator_count} weighted operators compute on INT8"


def coverages(report: Report) -> tuple[Coverage, ...]:
    """Every variant that was looked into, in the order in which they come."""
    names = dict.fromkeys(layer.variant for layer in report.layers)
    return tuple(_coverage(name, [layer for layer in report.layers if layer.variant == name]) for name in names)


def left_in_float(report: Report) -> tuple[ReasonGroup, ...]:
    """What else the placement left in float, tensors for the most part, by reason; not what `coverages` names."""
    named = {layer.node for layer in report.layers if not layer.is_int8}
    return _group({name: reason for name, reason in report.skipped.items() if name not in named})


def _coverage(variant: str, layers: list[LayerPlacement]) -> Coverage:
    types = dict.fromkeys(layer.op_type for layer in layers)
    left: dict[str, str] = {}
    for layer in layers:
        if not layer.is_int8:
            left[f"{layer.op_type} {layer.node}"] = layer.reason or "no reason is known"
    return Coverage(
        variant=one_line(variant),
        all=_count("", layers),
        by_type=tuple(_count(op_type, [x for x in layers if x.op_type == op_type]) for op_type in types),
        groups=_group(left),
    )


def _count(op_type: str, layers: list[LayerPlacement]) -> OperatorCount:
    on_int8 = sum(layer.is_int8 for layer in layers)
    return OperatorCount(
        op_type=one_line(op_type),
        int8_count=format_count(on_int8),
        operator_count=format_count(len(layers)),
        share=round(on_int8 / len(layers), 4) if layers else 0.0,
    )


def _group(reasons: Mapping[str, str]) -> tuple[ReasonGroup, ...]:
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(one_line(reason), []).append(one_line(name))
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return tuple(ReasonGroup(reason, format_count(len(names)), tuple(names)) for reason, names in ordered)
