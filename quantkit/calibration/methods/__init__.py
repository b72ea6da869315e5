"""Calibration methods, one file each: pure functions from `TensorStatistics` to amax. CONTRIBUTING.md adds one."""

from __future__ import annotations

from quantkit.calibration.methods.registry import (
    METHODS,
    Method,
    bind_method,
    cache_algorithm,
    method_settings,
)
from quantkit.registry import import_modules

__all__ = ["METHODS", "Method", "bind_method", "cache_algorithm", "method_settings"]

import_modules(__name__, __path__)
for _name in sorted(METHODS):  # whichever module imported which
    METHODS[_name] = METHODS.pop(_name)
