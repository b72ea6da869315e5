import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from quantkit.errors import CalibrationError
from quantkit.numerics import QuantParams, dequantize_array, quantize_array, value_bounds, weight_params
from quantkit.types import INT8, UINT8, QdqEdge, QuantFormat, weight_format

FLOATS = st.floats(-1e4, 1e4, width=32)


def onnx_quantize(x, scale, zero_point):
    types = {"x": TensorProto.FLOAT, "s": TensorProto.FLOAT, "z": TensorProto.INT8}
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        "q",
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in types.items()],
        [helper.make_tensor_value_info("y", TensorProto.INT8, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero_point})[0]


VECTORS = hnp.arrays(np.float32, st.integers(1, 50), elements=FLOATS)
MATRICES = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=FLOATS)


@given(VECTORS, st.floats(2**-10, 100, width=32), st.integers(-128, 127))
def test_quantize_is_onnx_quantize_linear(x, scale, zero_point):
    params = QuantParams(scale=np.float32(scale), zero_point=zero_point)
    expected = onnx_quantize(x, np.float32(scale), np.int8(zero_point))
    np.testing.assert_array_equal(quantize_array(x, params), expected)


def test_half_rounds_to_even():
    params = QuantParams(scale=np.float32(1))
    np.testing.assert_array_equal(
        quantize_array(np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), params), [0, 2, 2, 0, -2]
    )


@given(MATRICES, st.sampled_from([None, 0, 1]))
def test_weights_come_back_within_half_a_step(weight, axis):
    params = weight_params(weight, axis)
    codes = quantize_array(weight, params)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    scale = params.scale if axis is None else np.expand_dims(params.scale, 1 - axis)
    error = np.abs(dequantize_array(codes, params) - weight)
    assert (error <= scale * 0.5 * (1 + 1e-5)).all()


def test_a_channel_of_zeros_gets_a_positive_scale_like_the_others():
    weight = np.array([[1.27, -1.27], [0, 0], [2.54, 0]], np.float32)
    params = weight_params(weight, 0)
    np.testing.assert_allclose(params.scale, [0.01, 0.015, 0.02], rtol=1e-6)
    assert (weight_params(np.zeros((2, 2), np.float32), 0).scale == 1).all()
    assert weight_params(np.zeros((2, 2), np.float32), None).scale == 1


def test_uint8_with_zero_point():
    params = QuantParams(scale=np.float32(0.5), zero_point=128, format=UINT8)
    np.testing.assert_array_equal(quantize_array(np.array([-1e9, 0, 1, 1e9], np.float32), params), [0, 128, 130, 255])
    np.testing.assert_array_equal(dequantize_array(np.array([0, 128, 130], np.uint8), params), [-64, 0, 1])


@pytest.mark.parametrize("axis", [0, 1])
def test_per_axis_shapes(axis):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert weight_params(weight, axis).scale.shape == (weight.shape[axis],)


def test_seven_bit_weights_fill_their_range_and_no_more():
    weight = np.linspace(-1, 1, 1001, dtype=np.float32)
    params = weight_params(weight, None, weight_format(None, bits=7))
    values = quantize_array(weight, params)
    assert (values.min(), values.max()) == value_bounds(params.format) == (-63, 63)
    assert values.dtype == np.int8


def test_a_narrow_range_clips_symmetrically():
    x = np.array([-1e9, 1e9], np.float32)
    assert quantize_array(x, QuantParams(np.float32(1))).tolist() == [-128, 127]
    assert quantize_array(x, QuantParams(np.float32(1), format=weight_format(None))).tolist() == [-127, 127]


@pytest.mark.parametrize(
    "make",
    [
        lambda: QuantFormat("int", 8, "block"),
        lambda: QuantFormat("int", 8, "channel", 32),
        lambda: QuantFormat("int", 0),
        lambda: QdqEdge("x", "conv", 0, axis=1, format=INT8),
        lambda: QdqEdge("w", "conv", 1, format=weight_format(0)),
        lambda: QuantParams(np.float32(1), format=QuantFormat("int", 8, "block", 32)),
        lambda: QuantParams(np.float32(1), format=QuantFormat("int", 16)),
        lambda: QuantParams(np.ones(3, np.float32), axis=0, format=INT8),
        lambda: QuantParams(np.float32(1), zero_point=-1, format=UINT8),
    ],
)
def test_contradictory_formats_are_refused(make):
    with pytest.raises(CalibrationError):
        make()
