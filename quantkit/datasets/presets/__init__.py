"""Named preprocessings for `--preprocess`. CONTRIBUTING.md adds one; `resolve_preprocessing` applies it to a model."""

from __future__ import annotations

from quantkit.datasets.presets.preset import PRESETS, Preset
from quantkit.registry import import_modules

__all__ = ["PRESETS", "Preset"]

import_modules(__name__, __path__)
