"""A decoder of the user's: what it gets, what it may return, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation.detection.decoding import Frame
from quantkit.evaluation.detection.user_decoder import UserDecoder

FRAME = Frame(2, (64, 96), 0.1, {})
OUTPUTS = {"raw": np.arange(16, dtype=np.float32).reshape(2, 8)}
BOX = ([[1, 2, 3, 4], [5, 6, 7, 8]], [0.9, 0.05], [2, 0])
NOTHING = ([], [], [])


def decode(function):
    decoder = UserDecoder(function)
    bound = decoder.bind(OUTPUTS, num_samples=2, num_classes=3)
    return decoder.decode(OUTPUTS, bound, FRAME, is_checked=True)


def test_it_gets_outputs_and_input_size_and_its_boxes_above_the_threshold_count():
    seen = []

    def read(outputs, input_size):
        seen.append((outputs["raw"].shape, outputs["raw"].flags.writeable, input_size))
        return [BOX, NOTHING]

    first, second = decode(read)
    assert seen == [((2, 8), False, (64, 96))]
    assert (first.corners.tolist(), first.classes.tolist()) == ([[1, 2, 3, 4]], [2])
    assert len(second.scores) == 0


def test_a_generator_will_do():
    assert [len(found.scores) for found in decode(lambda outputs, size: (box for box in (NOTHING, BOX)))] == [0, 1]


def test_what_is_not_finite_is_counted():
    first, _ = decode(lambda outputs, size: [([[1, 2, np.nan, 4], [1, 2, 3, 4]], [0.9, np.nan], [0, 0]), NOTHING])
    assert (len(first.scores), first.non_finite) == (0, 2)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([BOX], r"returned list of 1: a list of \(boxes, scores, classes\) is needed, one for each of the 2 images"),
        (None, "returned NoneType: a list"),
        ([BOX, 3], r"image 1 of <lambda>: no \(boxes, scores, classes\), but int"),
        ([([[1, 2, 3]], [0.5], [0]), BOX], r"shapes \[1, 3\], \[1\], \[1\], not \[M, 4\], \[M\], \[M\]"),
        ([([[1, 2, 3, 4]], [7], [0]), BOX], "scores reach 7, but must be from 0 to 1"),
        ([([[1, 2, 3, 4]], [-0.5], [0]), BOX], "scores reach -0.5, but must be from 0 to 1"),
        ([([[1, 2, 3, 4]], [0.5], ["cat"]), BOX], "must be numbers"),
        ([([[1, 2, 3, 4]], [0.5], [np.nan]), BOX], "classes must be whole numbers"),
        ([([[1, 2, 3, 4]], [0.5], [0.7]), BOX], "classes must be whole numbers"),
        ([([[1, 2, 3, 4]], [0.5], [-1]), BOX], "class -1 is negative"),
        ([([[1, 2, 3, 4]], [], [9]), BOX], r"shapes \[1, 4\], \[0\], \[1\]"),
    ],
)
def test_what_it_must_return(returned, said):
    with pytest.raises(EvaluationError, match=said):
        decode(lambda outputs, size: returned)


def test_its_own_error_is_told_by_file_and_line():
    with pytest.raises(EvaluationError, match=r"test_user_decoder\.py:\d+: .* raised KeyError: 'other'"):
        decode(lambda outputs, size: outputs["other"])


def test_raw_outputs_are_compared_unless_the_function_says_no():
    def read(outputs, input_size): ...

    assert UserDecoder(read).is_aligned
    read.compares_outputs = False
    assert not UserDecoder(read).is_aligned


def test_something_else_than_a_function_is_refused():
    with pytest.raises(EvaluationError, match="3 is no function"):
        UserDecoder(3)
