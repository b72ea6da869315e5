"""Top-1 agreement with the baseline: how often the variant names the same class, right or wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.metrics.accuracy import predict_classes
from quantkit.evaluation.metrics.metric import METRICS, Metric
from quantkit.types import Array


class Agreement(Metric):
    """Share of samples with the baseline's class: ``sum(argmax x == argmax xq) / N``. Needs no labels.

    Ties go to the lower index. A sample with a NaN in either row of scores does not agree.

    >>> agreement = Agreement()
    >>> agreement.update(np.array([[0.0, 1.0], [1.0, 0.0]]), reference=np.array([[0.0, 9.0], [0.0, 9.0]]))
    >>> agreement.compute()
    {'agreement': 0.5}
    """

    scope = "scores"
    numbers = ("agreement",)

    def __init__(self) -> None:
        self.num_samples = 0
        self.same = 0

    def update(self, values: Array, *, reference: Array, targets: npt.NDArray[np.int64] | None = None) -> None:
        """Adds the variant's scores and the baseline's, both [N, C]; `targets` is not used."""
        predicted = predict_classes(values)
        self.num_samples += len(predicted)
        self.same += int(((predicted == predict_classes(reference)) & (predicted >= 0)).sum())

    def compute(self) -> dict[str, float]:
        """`agreement`, a fraction of 1; empty before the first sample."""
        return {"agreement": self.same / self.num_samples} if self.num_samples else {}


METRICS["agreement"] = Agreement
