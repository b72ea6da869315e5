"""Weights whose sums cannot saturate in 16 bits, rounded so that their sums stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.unsaturated_weights import round_keeping_sums, unsaturated_scales
from quantkit.graph.quantize_cpu import quantize_for_cpu
from quantkit.types import TensorRange

from ..builder import Builder
from ..quantizing import run

KERNELS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6),
    elements=st.floats(-100, 100, allow_subnormal=False),
)


@given(KERNELS)
def test_no_pair_of_products_saturates_and_no_scale_is_larger_than_that_of_7_bits(weights: np.ndarray) -> None:
    rows = weights.reshape(len(weights), -1)
    scale = unsaturated_scales(rows)
    codes = round_keeping_sums(weights / scale[:, None, None].astype(np.float64)).reshape(len(weights), -1)
    for sign in (1, -1):
        largest = np.sort(np.maximum(sign * codes, 0), axis=1)[:, -2:].sum(axis=1)
        assert (255 * largest <= 2**15 - 1).all()
    assert np.abs(codes).max() <= 127
    used = np.abs(rows).max(axis=1) > 1e-3
    assert (scale[used] <= np.abs(rows).max(axis=1)[used] / 63 * (1 + 1e-6)).all()


@given(KERNELS)
def test_each_weight_goes_to_a_neighbor_and_sums_stay(values: np.ndarray) -> None:
    codes = round_keeping_sums(values)
    error = codes - values
    assert np.abs(error).max() <= 1
    assert np.abs(error.sum(axis=2)).max() <= 1 + 1e-9
    assert np.abs(error.sum(axis=(1, 2))).max() <= 0.5 + 1e-9


def test_a_weight_that_stands_alone_gets_nearly_8_bits() -> None:
    alone, pair = unsaturated_scales(np.array([[1.0, 0.02, -0.9], [1.0, 1.0, 0.0]]))
    assert (1 / alone, 1 / pair) == (pytest.approx(126 / 1.02), pytest.approx(63))


def test_many_small_weights_do_not_shift_the_output() -> None:
    """A large weight makes the small ones of its channel a third of a step: to nearest all would be 0."""
    g = Builder()
    g.input("x", 16, 6, 6)
    weight = np.full((4, 16, 3, 3), 0.3 / 63, np.float32)
    weight[:, 0, 0, :2] = 1.0
    w, b = g.constant(weight), g.constant(np.zeros(4, np.float32))
    y = g.op("Conv", "x", w, b, pads=[0] * 4)
    model = FloatModel(g.model(g.op("Neg", y)).SerializeToString())
    x = np.random.default_rng(0).uniform(0.5, 1, size=(2, 16, 6, 6)).astype(np.float32)
    (name,) = (value.name for value in model.graph.graph.outputs)
    expected = run(model.prepared(), {"x": x})[name]
    largest = float(-expected.min())
    ranges = {"x": TensorRange(1.0, 0.0, 1.0), y: TensorRange(largest, 0.0, largest)}
    result, _ = quantize_for_cpu(model.prepared(), ranges, reduce_range=True)
    codes = [v.const_value.numpy() for v in result.graph.initializers.values() if v.dtype is ir.DataType.INT8]
    (stored,) = (array for array in codes if array.ndim == 4)
    assert np.count_nonzero(stored[0]) > 30
    found = run(result, {"x": x})[name]
    assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()
