"""Where the pixels of an image lie in a model's input, and back: the one place that knows how images are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.types import Preprocessing

__all__ = ["Fit", "fit_image"]


@dataclass(frozen=True)
class Fit:
    """How an image is fitted into a model's input: resized, then moved; all pairs are (height, width) or (down, right).

    Attributes:
        image_size: of the image, upright, in pixels.
        resized: what the image is resized to.
        offset: where its top left corner comes to lie in the input: positive is padding, negative is cut off.
        input_size: of the model's input.
    """

    image_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    input_size: tuple[int, int]

    def image_from_input(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Boxes [M, 4] (left, top, right, bottom) in pixels of the input → the same in pixels of the image, clipped."""
        scale, offset = self._along_corners()
        height, width = self.image_size
        moved: npt.NDArray[np.float64] = (corners - offset) / scale
        return np.clip(moved, 0, np.array([width, height, width, height], np.float64))

    def input_from_image(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Boxes [M, 4] in pixels of the image → in pixels of the input, not clipped."""
        scale, offset = self._along_corners()
        moved: npt.NDArray[np.float64] = corners * scale + offset
        return moved

    def _along_corners(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        down, right = (new / old for new, old in zip(self.resized, self.image_size, strict=True))
        top, left = self.offset
        return np.array([right, down, right, down], np.float64), np.array([left, top, left, top], np.float64)


def fit_image(image_size: tuple[int, int], preprocessing: Preprocessing) -> Fit:
    """How `preprocessing` fits an image of (height, width) pixels.

    Rounding is torchvision's for "crop" (Resize, CenterCrop) and Ultralytics' for "letterbox" (an odd pixel of padding
    goes right and below).
    """
    size = preprocessing.size
    if preprocessing.resize == "stretch":
        return Fit(image_size, size, (0, 0), size)
    if preprocessing.resize == "crop":
        assert preprocessing.shorter_side is not None
        short, long = min(image_size), max(image_size)
        longer_side = int(preprocessing.shorter_side * long / short)
        portrait = image_size[1] <= image_size[0]
        resized = (longer_side, preprocessing.shorter_side) if portrait else (preprocessing.shorter_side, longer_side)
        top, left = (round((have - want) / 2) for have, want in zip(resized, size, strict=True))
        return Fit(image_size, resized, (-top, -left), size)
    ratio = min(want / have for want, have in zip(size, image_size, strict=True))
    height, width = (max(1, min(want, round(have * ratio))) for have, want in zip(image_size, size, strict=True))
    return Fit(image_size, (height, width), ((size[0] - height) // 2, (size[1] - width) // 2), size)
