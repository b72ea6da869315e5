"""A limit checked on a report: what `quantkit.evaluation.gate` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GateKind = Literal["drop", "agreement", "speedup", "size"]


@dataclass(frozen=True)
class GateCheck:
    """One limit on one variant of a report, kept or broken.

    Attributes:
        variant: its name.
        kind: what is limited: the loss of score, the agreement with the baseline, the speed-up, or the size.
        limit: the option that set it, for example "--max-drop 0.5pt".
        passed: whether it is kept.
        value: what was measured.
        bound: what it was compared with, in the same unit.
        undecided: the 95% interval of `value` holds `bound`.
        finding: all of this but the variant for a person; `sentence` names it too.
        interval: of `value`; None where the report holds none.
    """

    variant: str
    kind: GateKind
    limit: str
    passed: bool
    value: float
    bound: float
    undecided: bool
    finding: str
    interval: tuple[float, float] | None = None

    @property
    def sentence(self) -> str:
        """The finding, with the variant that it is of."""
        return f"{self.variant}: {self.finding}"
