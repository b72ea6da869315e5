"""The metrics, one accumulator a file: update with each batch, compute a dict of numbers. CONTRIBUTING.md adds one."""

from __future__ import annotations

from quantkit.evaluation.metrics.metric import METRICS, Metric, Scope
from quantkit.registry import import_modules

__all__ = ["METRICS", "Metric", "Scope"]

import_modules(__name__, __path__)
