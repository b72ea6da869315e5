"""Measuring variants of a model: accuracy against labels and the baseline, latency side by side, and the machine."""

from quantkit.evaluation.environment import describe_environment
from quantkit.evaluation.evaluate import evaluate, feed, metric_notes
from quantkit.evaluation.gpu_latency import latency_notes, measure_device_latency
from quantkit.evaluation.latency import measure_latency
from quantkit.evaluation.metrics import METRICS
from quantkit.evaluation.significance import difference_interval, mcnemar_p_value

__all__ = [
    "METRICS",
    "describe_environment",
    "difference_interval",
    "evaluate",
    "feed",
    "latency_notes",
    "mcnemar_p_value",
    "measure_device_latency",
    "measure_latency",
    "metric_notes",
]
