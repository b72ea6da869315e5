"""What a model's outputs mean, one task a file: scores of variants and classes, changes. CONTRIBUTING.md adds one."""

from __future__ import annotations

from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions
from quantkit.registry import import_modules

__all__ = ["TASKS", "OpenTask", "Task", "TaskOptions"]

import_modules(__name__, __path__)
