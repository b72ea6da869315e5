"""What `evaluate` asks of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from quantkit.types import Array, Batch, ChangedSample, ClassScore, Score, TaskName

__all__ = ["Task"]


class Task(Protocol):
    """Judges the outputs of all variants on the same samples; made anew for each evaluation.

    It holds what it needs of each sample (counts, a score, matched boxes), never inputs or outputs, so that memory does
    not grow with the size of an image.

    Attributes:
        name: as the command line and the report call it.
    """

    name: ClassVar[TaskName]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names in `quantkit.evaluation.metrics.METRICS` that compare raw outputs and are computed besides; where there
        are none, outputs may differ in shape between variants.
        """

    @property
    def score(self) -> Score | None:
        """What the variants are judged by; None where there is nothing (no labels). Known after `compute`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before using the numbers, one sentence each. Known after `compute`."""

    @property
    def facts(self) -> Mapping[str, int]:
        """What was judged, for the report's description of the data ("num_objects"). Known after `compute`."""

    def update(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> None:
        """Adds a batch: outputs [N, ...] by variant and name, the baseline first.

        Raises:
            EvaluationError: outputs that are not what the task needs, naming the output and what is expected.
        """

    def compute(self) -> dict[str, dict[str, float]]:
        """Variant → metric → value, the score and the interval of its difference from the baseline among them."""

    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each class in each variant; empty where there are no classes."""

    def changes(self) -> tuple[ChangedSample, ...]:
        """Samples that a variant answers otherwise than the baseline, worst first; of each variant all are counted in
        `num_changes`, and only the most telling are here.
        """

    def num_changes(self) -> dict[str, dict[str, int]]:
        """Variant → kind ("broken", "fixed", "changed") → number of samples."""
