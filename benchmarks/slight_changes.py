"""Images changed by less than anyone sees, for benchmarks of what a model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def with_noise(images: Sequence[np.ndarray], level: float, levels: float) -> list[np.ndarray]:
    """Every value moved by at most so many levels of a pixel, all amounts alike; `level` is one in the input's unit."""
    generator = np.random.default_rng(0)
    return [a + np.float32(level) * generator.uniform(-levels, levels, a.shape).astype(np.float32) for a in images]


def save_as_jpeg(source: Path, target: Path, *, subsampling: int = -1) -> None:
    """Images of `source` as JPEG files of quality 95; `subsampling` as Pillow takes it, -1 for its default."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        Image.open(file).convert("RGB").save(target / f"{file.stem}.jpg", quality=95, subsampling=subsampling)
