"""The decoders of examples/decoders.py find the boxes that were put into raw outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantkit.user_code import load_symbol

FILE = Path(__file__).parents[3] / "examples" / "decoders.py"
SIZE = (64, 128)


def best(found):
    boxes, scores, classes = found
    top = scores.argmax()
    return boxes[top].tolist(), scores[top], classes[top]


def test_fastestdet():
    maps = np.zeros((2, 5 + 3, 4, 8), np.float32)  # cells of 16 pixels
    maps[1, :, 2, 5] = [0.9, np.arctanh(0.5), 0, 0, np.log(1 / 3), 0, 0.8, 0]  # half the width, a quarter of the height
    empty, found = load_symbol(f"{FILE}:fastestdet")({"x": maps}, SIZE)
    assert empty[1].max() == 0
    box, score, index = best(found)
    assert box == pytest.approx([88 - 32, 32 - 8, 88 + 32, 32 + 8])
    assert (score, index) == (pytest.approx(0.9**0.6 * 0.8**0.4), 1)


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
@pytest.mark.parametrize("is_joined", [True, False])
def test_nanodet(strides, is_joined):
    counts = [(64 // s) * (128 // s) for s in strides]
    scores, sides = np.full((1, sum(counts), 3), 0.01, np.float32), np.zeros((1, sum(counts), 32), np.float32)
    place = counts[0] + 8 * 1 + 2  # second row, third column of 16 pixels
    scores[0, place, 2] = 0.7
    sides[0, place, [1, 8 + 2, 16 + 1, 24 + 2]] = 50.0  # left 1, top 2, right 1, bottom 2 strides
    outputs = {"both": np.concatenate((scores, sides), axis=2)}
    if not is_joined:
        cuts = np.cumsum(counts)[:-1]
        parts = [*np.split(sides, cuts, axis=1), *np.split(scores, cuts, axis=1)]
        outputs = {str(number): part for number, part in enumerate(parts)}
    (found,) = load_symbol(f"{FILE}:nanodet")(outputs, SIZE)
    box, score, index = best(found)
    shift = 0 if len(strides) == 4 else 7.5
    x, y = 32 + shift, 16 + shift
    assert box == pytest.approx([x - 16, y - 32, x + 16, y + 32], abs=1e-3)
    assert (score, index) == (pytest.approx(0.7), 2)


def test_yunet():
    outputs = {}
    for stride in (8, 16, 32):
        count = (64 // stride) * (128 // stride)
        outputs |= {f"{name}_{stride}": np.full((1, count, 1), 0.1, np.float32) for name in ("cls", "obj")}
        outputs |= {f"bbox_{stride}": np.zeros((1, count, 4), np.float32), f"kps_{stride}": np.zeros((1, count, 10))}
    place = 8 * 1 + 2  # second row, third column of 16 pixels
    outputs["cls_16"][0, place], outputs["obj_16"][0, place] = 0.9, 0.4
    outputs["bbox_16"][0, place] = [0.5, 0.25, np.log(2), np.log(1.5)]
    (found,) = load_symbol(f"{FILE}:yunet")(outputs, SIZE)
    box, score, index = best(found)
    assert box == pytest.approx([40 - 16, 20 - 12, 40 + 16, 20 + 12])
    assert (score, index) == (pytest.approx(0.6), 0)


@pytest.mark.parametrize("has_batch", [True, False])
def test_scrfd(has_batch):
    counts = [2 * (64 // s) * (128 // s) for s in (8, 16, 32)]
    scores, sides = ([np.zeros((1, count, columns), np.float32) for count in counts] for columns in (1, 4))
    place = 2 * (8 * 1 + 2) + 1  # second row, third column of 16 pixels, second box
    scores[1][0, place], sides[1][0, place] = 0.7, [1, 0.5, 2, 1.5]
    arrays = [*scores, *sides, *(np.zeros((1, count, 10), np.float32) for count in counts)]
    outputs = {str(number): array if has_batch else array[0] for number, array in enumerate(arrays)}
    (found,) = load_symbol(f"{FILE}:scrfd")(outputs, SIZE)
    box, score, index = best(found)
    assert box == pytest.approx([32 - 16, 16 - 8, 32 + 32, 16 + 24])
    assert (score, index) == (pytest.approx(0.7), 0)
