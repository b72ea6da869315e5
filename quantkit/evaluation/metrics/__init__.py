"""The metrics, one accumulator a file: update with a batch, merge with another shard, compute a dict of numbers.

A new metric is one file and one line in `METRICS`. Accumulators hold sums in float64 and counts, never samples.
"""

from __future__ import annotations

from quantkit.evaluation.metrics.accuracy import Accuracy
from quantkit.evaluation.metrics.agreement import Agreement
from quantkit.evaluation.metrics.cosine import Cosine
from quantkit.evaluation.metrics.equality import Equality
from quantkit.evaluation.metrics.flips import Flips
from quantkit.evaluation.metrics.metric import Metric
from quantkit.evaluation.metrics.non_finite import NonFinite
from quantkit.evaluation.metrics.sqnr import Sqnr

__all__ = ["METRICS", "Accuracy", "Agreement", "Cosine", "Equality", "Flips", "Metric", "NonFinite", "Sqnr"]


METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "flips": Flips,
    "agreement": Agreement,
    "cosine": Cosine,
    "sqnr": Sqnr,
    "equality": Equality,
    "non_finite": NonFinite,
}
