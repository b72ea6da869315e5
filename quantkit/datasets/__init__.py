"""The data that calibration and evaluation run on: folders and lists of images, arrays; chosen, prepared, batched."""

from __future__ import annotations

from quantkit.datasets.batching import iterate_batches
from quantkit.datasets.open import holds_arrays, open_dataset
from quantkit.datasets.preprocess import preprocess
from quantkit.datasets.presets import PRESETS, Preset
from quantkit.datasets.resolve_preprocessing import resolve_preprocessing
from quantkit.datasets.sampling import Selection, describe, select

__all__ = [
    "PRESETS",
    "Preset",
    "Selection",
    "describe",
    "holds_arrays",
    "iterate_batches",
    "open_dataset",
    "preprocess",
    "resolve_preprocessing",
    "select",
]
