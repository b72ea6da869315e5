"""Where the damage of quantization is measured, and how it is read."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.graph.measured_outputs import MeasuredOutput, measured_outputs
from quantkit.graph.passes.prepare import prepare

from .builder import Builder
from .quantizing import load


def measured(g: Builder, *outputs: str, types: tuple[type, ...] = ()) -> tuple[MeasuredOutput, ...]:
    return measured_outputs(prepare(load(g.model(*outputs, types=types)), name="model"))


def test_a_linear_layer_at_the_end_makes_class_scores() -> None:
    g = Builder()
    y = g.gemm(g.input("x", 8), 8, 5)
    assert measured(g, y) == (MeasuredOutput(y, "logits", 1),)


def test_so_do_a_product_with_a_bias_and_copies_behind() -> None:
    g = Builder()
    y = g.op("Reshape", g.linear(g.input("x", 8), 8, 5), g.constant(np.array([0, 5])))
    assert measured(g, y) == (MeasuredOutput(y, "logits", 1),)


def test_probabilities_have_the_axis_of_their_softmax() -> None:
    g = Builder()
    y = g.op("Softmax", g.conv(g.input("x", 3, 8, 8), 3, 5), axis=1)
    assert measured(g, y) == (MeasuredOutput(y, "probabilities", 1),)


def test_logarithms_of_probabilities_are_logits() -> None:
    g = Builder()
    y = g.op("LogSoftmax", g.linear(g.input("x", 4, 8), 8, 5), axis=-1)
    assert measured(g, y) == (MeasuredOutput(y, "logits", -1),)


def test_one_number_for_each_sample_is_no_class_score() -> None:
    g = Builder()
    y = g.gemm(g.input("x", 8), 8, 1)
    assert measured(g, y) == (MeasuredOutput(y, "values", 1),)


def test_an_image_has_its_channels_in_front() -> None:
    g = Builder()
    y = g.conv(g.input("x", 3, 8, 8), 3, 5)
    assert measured(g, y) == (MeasuredOutput(y, "values", 1),)


@pytest.mark.parametrize(
    ("shape", "axis"), [((100, 6), 2), ((6, 100), 1), ((6, "boxes"), 1), (("boxes", 6), 2), (("boxes", "other"), 2)]
)
def test_the_channels_of_a_list_of_boxes_are_the_shorter_axis(shape: tuple[int | str, ...], axis: int) -> None:
    g = Builder()
    y = g.op("Relu", g.input("x", *shape))
    assert measured(g, y) == (MeasuredOutput(y, "values", axis),)


def test_the_channels_of_tokens_are_what_a_linear_layer_makes() -> None:
    """However many tokens there are: an outlier of one token is an error in every channel, not in one of its own."""
    g = Builder()
    y = g.linear(g.input("x", 6, 8), 8, 32)
    assert measured(g, y) == (MeasuredOutput(y, "values", 2),)


def test_an_output_without_channels() -> None:
    g = Builder()
    y = g.op("ReduceMean", g.input("x", 8), axes=[1], keepdims=0)
    assert measured(g, y) == (MeasuredOutput(y, "values", None),)


def test_what_topk_chooses_from_is_measured_instead_of_what_it_chose() -> None:
    g = Builder()
    scores = g.gemm(g.input("x", 8), 8, 5)
    values = g.op("TopK", scores, g.constant(np.array([2])), outputs=2)
    assert measured(g, values) == (MeasuredOutput(scores, "logits", 1),)


def test_a_detector_is_measured_in_front_of_its_suppression_and_where_it_passes_by() -> None:
    g = Builder()
    x = g.input("x", 4, 8)
    boxes, mask = g.linear(x, 8, 4), g.linear(x, 8, 3)
    scores = g.op("Transpose", g.op("Sigmoid", g.linear(x, 8, 2)), perm=[0, 2, 1])
    kept = g.op("NonMaxSuppression", boxes, scores, g.constant(np.array([5])))
    shape = g.op("Mul", kept, g.constant(np.array([2])))
    found = measured(g, shape, mask, types=(np.int64, np.float32))
    assert {output.name for output in found} == {boxes, scores, mask}
    assert {output.kind for output in found} == {"values"}


def test_of_integers_the_last_float_tensor_in_front() -> None:
    g = Builder()
    y = g.gemm(g.input("x", 8), 8, 5)
    relu = g.op("Relu", y)
    last = g.op("Cast", relu, to=7)
    (found,) = measured(g, last, types=(np.int64,))
    assert found.name == relu
