"""Where a box of an image lies in a model's input: the inverse of what the package computes."""

from __future__ import annotations

import numpy as np

from quantkit.numerics import ImageTransform


def input_from_image(fit: ImageTransform, corners: np.ndarray) -> np.ndarray:
    """Boxes [M, 4] in pixels of the image → in pixels of the input, not clipped."""
    down, right = (new / old for new, old in zip(fit.resized, fit.image_size, strict=True))
    top, left = fit.offset
    return corners * [right, down, right, down] + [left, top, left, top]
