import itertools

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantkit.errors import CalibrationError
from quantkit.numerics import (
    QuantParams,
    dequantize_array,
    fake_quantize,
    least_error_params,
    quantize_array,
    value_bounds,
    weight_params,
)
from quantkit.types import FP8, INT8, UINT8, QdqEdge, QuantFormat, block_format, weight_format

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
        lambda: QuantParams(np.float32(1), zero_point=1, format=FP8),
        lambda: QuantFormat("float", 16),
        lambda: QuantFormat("float", 8, narrow_range=True),
        lambda: QuantFormat("int", 4, "block", 0),
        lambda: QuantParams(np.ones(3, np.float32), format=block_format(2)),
    ],
)
def test_contradictory_formats_are_refused(make):
    with pytest.raises(CalibrationError):
        make()


def fp8_values() -> np.ndarray:
    """All 254 numbers of E4M3, from its definition: sign, 4 bits of exponent with bias 7, 3 of mantissa."""
    found = []
    for sign, exponent, mantissa in itertools.product((1, -1), range(16), range(8)):
        if (exponent, mantissa) != (15, 7):  # NaN
            found.append(sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)))
    return np.array(found, np.float32)


def test_every_fp8_value_is_kept():
    values = fp8_values()
    codes = quantize_array(values, QuantParams(np.float32(1), format=FP8))
    assert len(set(codes.view(np.uint8).tolist())) == 254
    np.testing.assert_array_equal(dequantize_array(codes, QuantParams(np.float32(1), format=FP8)), values)
    assert np.abs(values).max() == value_bounds(FP8)[1] == 448


def test_fp8_rounds_to_the_nearest_value_and_ties_to_even():
    values = np.unique(fp8_values())
    middles = (values[1:] + values[:-1]) / 2
    even = [
        a if a.view(np.uint8) % 2 == 0 else b for a, b in itertools.pairwise(values.astype(ml_dtypes.float8_e4m3fn))
    ]
    params = QuantParams(np.float32(1), format=FP8)
    np.testing.assert_array_equal(quantize_array(middles, params), np.array(even))
    for move, neighbors in ((np.inf, values[1:]), (-np.inf, values[:-1])):
        beside = np.nextafter(middles, np.float32(move))
        np.testing.assert_array_equal(dequantize_array(quantize_array(beside, params), params), neighbors)


def test_fp8_saturates_and_keeps_nan():
    x = np.array([448, 463.9, 464, 1e30, np.inf, -np.inf, np.nan, -0.0], np.float32)
    got = dequantize_array(
        quantize_array(x, QuantParams(np.float32(1), format=FP8)), QuantParams(np.float32(1), format=FP8)
    )
    np.testing.assert_array_equal(got, [448, 448, 448, 448, 448, -448, np.nan, 0])


def test_fp8_keeps_activations_four_times_larger_than_calibrated_and_loses_nothing_else():
    x = np.random.default_rng(0).standard_normal(10000).astype(np.float32)
    params, tight = QuantParams.from_amax(4.0, FP8), QuantParams(np.float32(4 / 448), format=FP8)

    def error(values: np.ndarray, params: QuantParams) -> float:
        rounded = dequantize_array(quantize_array(values, params), params)
        return float(np.square(rounded - values).sum() / np.square(values).sum())

    assert error(x, params) == pytest.approx(error(x, tight), rel=1e-3)
    assert error(4 * x, params) == pytest.approx(error(x, params), rel=1e-3)
    assert error(4 * x, tight) > 100 * error(4 * x, params)


def squared_fp8_errors(rows: np.ndarray, scales: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Of rows [R, K] with a scale each: distances to the nearest of all numbers of E4M3."""
    distances = np.abs(rows[:, :, None] / scales[:, None, None] - fp8_values().astype(np.float64))
    return np.sum(np.square(distances.min(axis=2) * scales[:, None]) * importance, axis=1)


def octave_of(rows: np.ndarray) -> np.ndarray:
    """Sixteen scales for each row [R, K], exact in FP16: from the largest weight / 448 to almost twice that."""
    largest = np.abs(rows).max(axis=1) / np.float32(448)
    return (largest * np.exp2(np.arange(16) / 16)[:, None]).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("width", [4, 30])
def test_fp8_scales_of_weights_are_the_best_of_an_octave(width):
    random = np.random.default_rng(0)
    rows, importance = random.standard_normal((40, width)).astype(np.float32), random.exponential(size=(40, width))
    errors = np.array([squared_fp8_errors(rows, scales, importance) for scales in octave_of(rows)])
    params = least_error_params(rows, 0, weight_format(0, kind="float"), importance=importance)
    found = squared_fp8_errors(rows, params.scale.astype(np.float64), importance)
    np.testing.assert_allclose(found, errors.min(axis=0), rtol=1e-3)
    assert found.sum() < 0.8 * errors[0].sum()


def test_another_octave_gives_fp8_the_same_errors():
    rows = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    for scales in octave_of(rows)[::5]:
        once, twice = (squared_fp8_errors(rows, scales * factor, np.ones(30)) for factor in (1, 2))
        np.testing.assert_allclose(once, twice, rtol=1e-4)


@given(MATRICES, hnp.arrays(np.float32, (1, 6), elements=st.floats(0, 100, width=32)), st.sampled_from([None, 0, 1]))
def test_fp8_weights_are_never_worse_than_with_the_largest_magnitude(weight, importance, axis):
    counts = importance[:, : weight.shape[1]]
    fmt = weight_format(axis, kind="float")
    params, plain = least_error_params(weight, axis, fmt, importance=counts), weight_params(weight, axis, fmt)
    plain = QuantParams(np.maximum(plain.scale, 2.0**-24).astype(np.float16), axis=axis, format=fmt)
    assert (params.scale == params.scale.astype(np.float16)).all()
    assert (params.scale >= plain.scale).all()  # nothing is clipped

    def error(chosen: QuantParams) -> float:
        missing = dequantize_array(quantize_array(weight, chosen), chosen) - weight
        return float(np.sum(np.square(missing) * counts, dtype=np.float64))

    assert error(params) <= error(plain) * (1 + 1e-5)


def test_a_scale_beyond_fp16_stays_as_it_is():
    weight = np.array([[1e8, 3e7], [1e25, 1e25]], np.float32)  # of which no square is finite
    params = least_error_params(weight, 0, weight_format(0, kind="float"))
    np.testing.assert_allclose(dequantize_array(quantize_array(weight, params), params), weight, rtol=1 / 16)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32)), st.floats(2**-10, 100, width=32))
def test_fp8_is_onnx_quantize_linear(x, scale):
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("Cast", ["q"], ["y"], to=1)]
    types = {"x": TensorProto.FLOAT, "s": TensorProto.FLOAT, "z": TensorProto.FLOAT8E4M3FN}
    inputs = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in types.items()]
    graph = helper.make_graph(nodes, "q", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    feeds = {"x": x, "s": np.float32(scale), "z": np.zeros((), ml_dtypes.float8_e4m3fn)}
    with np.errstate(all="ignore"):
        got = quantize_array(x, QuantParams(np.float32(scale), format=FP8)).astype(np.float32)
        (expected,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fmt", [INT8, FP8], ids=["int8", "fp8"])
@given(hnp.arrays(np.float32, st.integers(1, 50), elements=FLOATS), st.floats(2**-10, 100, width=32))
def test_fake_quantize_is_quantize_and_dequantize(fmt, x, scale):
    params = QuantParams(np.float32(scale), format=fmt)
    expected = dequantize_array(quantize_array(x, params), params)
    np.testing.assert_array_equal(fake_quantize(x, scale, fmt), expected)
    np.testing.assert_array_equal(fake_quantize(x, np.full(x.shape, scale, np.float32), fmt), expected)


def test_every_pair_of_int4_is_packed_with_the_first_in_the_low_bits():
    pairs = np.array(list(itertools.product(range(-8, 8), repeat=2)), np.float32)
    codes = quantize_array(pairs, QuantParams(np.ones((256, 1), np.float32), axis=1, format=block_format(2)))
    tensor = ir.serde.serialize_tensor(ir.tensor(codes, name="w"))
    assert (tensor.data_type, tensor.dims) == (TensorProto.INT4, [256, 2])
    assert list(tensor.raw_data) == [(int(a) & 15) | (int(b) & 15) << 4 for a, b in pairs]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), pairs)


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(-8, 7)))
def test_packed_int4_comes_back(values):
    """An odd number of them too: half a byte is left over."""
    tensor = ir.serde.serialize_tensor(ir.tensor(values.astype(ml_dtypes.int4), name="w"))
    assert len(tensor.raw_data) == (values.size + 1) // 2
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)


def test_int4_saturates():
    params = QuantParams(np.full((1, 1), 0.5, np.float32), axis=1, format=block_format(4))
    codes = quantize_array(np.array([[-1e9, -4.2, 3.4, np.inf]], np.float32), params)
    assert codes.astype(int).tolist() == [[-8, -8, 7, 7]]
    assert dequantize_array(codes, params).tolist() == [[-4, -4, 3.5, 3.5]]


@given(MATRICES, st.sampled_from([0, 1]), st.integers(1, 8))
def test_each_block_has_a_scale_of_its_own(weight, axis, block):
    params = weight_params(weight, axis, block_format(block))
    moved = np.moveaxis(weight, axis, 0)
    for i, scale in enumerate(np.moveaxis(params.scale, axis, 0)):
        largest = np.abs(moved[i * block : (i + 1) * block]).max(axis=0)
        np.testing.assert_array_equal(scale[largest > 1e-20], (largest / np.float32(7))[largest > 1e-20])
    error = np.abs(dequantize_array(quantize_array(weight, params), params) - weight)
    steps = np.repeat(params.scale, block, axis=axis).take(range(weight.shape[axis]), axis=axis)
    assert (error <= steps * 0.5 * (1 + 1e-5)).all()
