"""What quantizing each part of a model costs its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class UnitSensitivity:
    """What quantizing one tensor, or one operator, costs.

    Attributes:
        name: of the activation or the operator.
        kind: "tensor": an activation as all of its quantized readers read it, or a group that shares one scale because
            a Concat joins them. "operator": the quantized inputs of a weighted operator, its weight among them.
        tensors: quantized activations that it consists of; without the weight.
        nodes: operators that run in float if it is left in float.
        damage: to the output, where this unit alone is quantized.
        saved: damage that leaving it in float saves, where everything else is quantized; negative where it adds.
        num_samples: that the damage was measured on: more for the worst units.
        work: share of the multiply-adds that would run in float, 0 to 1.
        sqnr_db: signal-to-noise ratio of a tensor's own values, or of an operator's output, where this unit alone is
            quantized; None where there is no error.
        clipped: share of its activations' values beyond the range, 0 to 1.
        codes: how many of the 256 quantized values occur, the fewest of its activations.
    """

    name: str
    kind: Literal["tensor", "operator"]
    tensors: tuple[str, ...]
    nodes: tuple[str, ...]
    damage: float
    saved: float
    num_samples: int
    work: float
    sqnr_db: float | None
    clipped: float
    codes: int


@dataclass(frozen=True)
class Sensitivity:
    """Units of a quantized model, ranked.

    Attributes:
        model_name: file name of the model.
        model_hash: of the float model.
        table_checksum: of the calibration table that gave the ranges.
        measure: what damage is: "KL divergence" (of class scores, in nats) or "relative error".
        damage: with everything quantized.
        num_samples: of the data; some of them for the damage of a unit.
        units: the one that costs the output most first.
        work: share of the multiply-adds, 0 to 1, of every weighted operator.
        in_float: tensors that calibration left in float, with the reason: they are not ranked.
    """

    model_name: str
    model_hash: str
    table_checksum: str
    measure: str
    damage: float
    num_samples: int
    units: tuple[UnitSensitivity, ...]
    work: Mapping[str, float] = field(default_factory=dict)
    in_float: Mapping[str, str] = field(default_factory=dict)

    def of_kind(self, kind: Literal["tensor", "operator"]) -> tuple[UnitSensitivity, ...]:
        """The units of one kind, in the same order."""
        return tuple(unit for unit in self.units if unit.kind == kind)


@dataclass(frozen=True)
class RankedUnit:
    """What quantizing one tensor, or one operator, costs the output.

    Attributes:
        name: of the activation or the operator.
        kind: "tensor" or "operator".
        damage: where this unit alone is quantized.
        saved: by leaving it in float where everything else is quantized; negative where that adds damage.
    """

    name: str
    kind: Literal["tensor", "operator"]
    damage: float
    saved: float


@dataclass(frozen=True)
class SensitivityRanking:
    """A sensitivity analysis of the table behind the INT8 variants.

    Attributes:
        measure: what damage is: "KL divergence" (of class scores, in nats) or "relative error".
        damage: with everything quantized.
        units: the one that costs the output most first.
    """

    measure: str
    damage: float
    units: tuple[RankedUnit, ...]
