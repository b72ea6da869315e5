"""What a model's outputs mean, one task a file: the score of each variant, of each class, and what changed."""

from __future__ import annotations

from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.custom import Custom
from quantkit.evaluation.tasks.detection import Detection
from quantkit.evaluation.tasks.output_comparison import OutputComparison
from quantkit.evaluation.tasks.segmentation import Segmentation
from quantkit.evaluation.tasks.task import Task
from quantkit.evaluation.tasks.user_code import load_symbol

__all__ = ["Classification", "Custom", "Detection", "OutputComparison", "Segmentation", "Task", "load_symbol"]
