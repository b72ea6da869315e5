"""The digits data set and its split into training, calibration and validation, shared by the examples.

Needs scikit-learn. `1_make_digits.py` writes the images, `2_train_digits.py` trains the model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SEED = 0
NUM_VAL = 597
CALIB_PER_CLASS = 30


@dataclass(frozen=True)
class Digits:
    """Pixels and classes of all 1,797 digits, and the indices of each split.

    Attributes:
        pixels: uint8 [1797, 8, 8], 0 is background, 255 is ink.
        classes: int64 [1797], 0 to 9.
        train: training indices, 1,200.
        val: validation indices, 597.
        calib: calibration indices, 30 of each class, a subset of `train`.
    """

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]
    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]
    calib: npt.NDArray[np.int64]


def load() -> Digits:
    """Loads the data set of scikit-learn (no download) and splits it, stratified by class."""
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = np.rint(source.images * 255 / 16).astype(np.uint8)
    classes = source.target.astype(np.int64)
    count = len(classes)

    # Hashes instead of a random generator, so that the split does not depend on library versions.
    order = np.array(sorted(range(count), key=lambda index: (classes[index], _rank(index))))
    # Evenly spaced in an order by class: exactly NUM_VAL in total, and each class in proportion to within one.
    held_out = np.diff(np.arange(count + 1) * NUM_VAL // count) == 1
    train, val = order[~held_out], order[held_out]
    calib = np.concatenate([train[classes[train] == digit][:CALIB_PER_CLASS] for digit in range(10)])
    return Digits(pixels, classes, train=np.sort(train), val=np.sort(val), calib=np.sort(calib))


def _rank(index: int) -> str:
    return hashlib.sha256(f"{SEED}/{index}".encode()).hexdigest()
