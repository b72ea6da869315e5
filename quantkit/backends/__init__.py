"""Runtimes that run a model: the only place that imports them. CONTRIBUTING.md adds one."""

from __future__ import annotations

from quantkit.backends.registry import BACKENDS, Backend, find_backend
from quantkit.registry import import_modules

__all__ = ["BACKENDS", "Backend", "find_backend"]

import_modules(__name__, __path__)
