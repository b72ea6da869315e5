"""How many classes a model names at all: one that always names the same tells nothing by agreeing with another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.accuracy import predict_classes
from quantkit.evaluation.metrics.metric import METRICS, Metric
from quantkit.significance import NAMED_CLASSES
from quantkit.types import Array


class NamedClasses(Metric):
    """Number of classes that are the highest score of at least one sample. Needs no labels.

    >>> named = NamedClasses()
    >>> named.update(np.array([[0.0, 1.0], [1.0, 2.0]]))
    >>> named.compute()
    {'named_classes': 1.0}
    """

    scope = "scores"
    numbers = (NAMED_CLASSES,)
    compares = False

    def __init__(self) -> None:
        self.named: set[int] = set()

    def update(
        self, values: Array, *, reference: Array | None = None, targets: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Adds scores [N, C]; `reference` and `targets` are not used."""
        self.named.update(np.unique(predict_classes(values)).tolist())

    def compute(self) -> dict[str, float]:
        """`named_classes`; empty before the first sample."""
        return {NAMED_CLASSES: float(len(self.named))} if self.named else {}


METRICS["named classes"] = NamedClasses
