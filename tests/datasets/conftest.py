from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.types import Preprocessing, TensorSpec


@pytest.fixture
def spec() -> TensorSpec:
    return TensorSpec("image", np.dtype(np.float32), ("N", 3, 8, 8))


@pytest.fixture
def plain() -> Preprocessing:
    """Pixels as they are, 8 x 8."""
    return Preprocessing(size=(8, 8), interpolation="nearest")


@pytest.fixture
def save_image(tmp_path: Path) -> Callable[..., Path]:
    """Writes an 8 x 8 image of one gray level below tmp_path."""

    def save(name: str, level: int = 7) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(path)
        return path

    return save
