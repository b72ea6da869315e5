"""Measuring variants of a model: accuracy against labels and the baseline, latency side by side, and the machine."""

from quantkit.evaluation.bootstrap import draw_weights, mean_difference_interval, percentile_interval
from quantkit.evaluation.environment import describe_environment
from quantkit.evaluation.gate import check_limits, require_passed
from quantkit.evaluation.gpu_environment import describe_gpu_settings
from quantkit.evaluation.latency.device import latency_notes, measure_device_latency
from quantkit.evaluation.latency.host import LatencyOptions, measure_latency
from quantkit.evaluation.limits import GATES, Limits, parse_drop
from quantkit.evaluation.metrics import METRICS
from quantkit.evaluation.preprocessing_score import (
    PreprocessingScore,
    advantage,
    is_clearly_better,
    score_preprocessing,
)
from quantkit.evaluation.run import Measurement, evaluate, feed, metric_notes
from quantkit.evaluation.tasks import Task
from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.output_comparison import OutputComparison
from quantkit.paired_statistics import difference_interval, mcnemar_p_value, samples_needed

__all__ = [
    "GATES",
    "METRICS",
    "Classification",
    "LatencyOptions",
    "Limits",
    "Measurement",
    "OutputComparison",
    "PreprocessingScore",
    "Task",
    "advantage",
    "check_limits",
    "describe_environment",
    "describe_gpu_settings",
    "difference_interval",
    "draw_weights",
    "evaluate",
    "feed",
    "is_clearly_better",
    "latency_notes",
    "mcnemar_p_value",
    "mean_difference_interval",
    "measure_device_latency",
    "measure_latency",
    "metric_notes",
    "parse_drop",
    "percentile_interval",
    "require_passed",
    "samples_needed",
    "score_preprocessing",
]
