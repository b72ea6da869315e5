"""No task: outputs are compared with the baseline's alone, because nothing is known of what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from quantkit.types import Array, Batch, ChangedSample, ClassScore, Score, TaskName

__all__ = ["OutputComparison"]


class OutputComparison:
    """Agreement with the baseline, SQNR, cosine and equality of the outputs; no score."""

    name: ClassVar[TaskName] = "none"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that need no label."""
        return ("agreement", "cosine", "sqnr", "equality", "non_finite")

    @property
    def score(self) -> Score | None:
        """None."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def facts(self) -> dict[str, int]:
        """None."""
        return {}

    def update(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> None:
        """Does nothing: the metrics compare the outputs."""

    def compute(self) -> dict[str, dict[str, float]]:
        """Nothing."""
        return {}

    def classes(self) -> tuple[ClassScore, ...]:
        """Nothing."""
        return ()

    def changes(self) -> tuple[ChangedSample, ...]:
        """Nothing."""
        return ()

    def num_changes(self) -> dict[str, dict[str, int]]:
        """Nothing."""
        return {}
