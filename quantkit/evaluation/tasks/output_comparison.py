"""No task: outputs are compared with the baseline's alone, because nothing is known of what they mean."""

from __future__ import annotations

from quantkit.evaluation.metrics import Scope
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions
from quantkit.types import Dataset, PathLike


class OutputComparison(Task):
    """Agreement with the baseline, SQNR, cosine and equality of the outputs; no score."""

    shape_hint = "; if they are boxes, say --task detect"

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: object) -> OpenTask:
        """Class names mean nothing here."""
        return OpenTask(cls(), (), {})

    @property
    def metric_scopes(self) -> tuple[Scope, ...]:
        """All that need no label."""
        return ("scores", "floats", "others")


TASKS["none"] = OutputComparison
