import math

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from quantkit.refinement.unfold import layer_shape, spread_positions

CONV = [
    ((2, 6, 9, 8), (4, 6, 3, 3), {}),
    ((2, 6, 9, 8), (4, 6, 1, 1), {"strides": [2, 2]}),
    ((3, 6, 9, 8), (4, 6, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ((2, 6, 9, 8), (9, 2, 3, 3), {"group": 3, "pads": [1, 1, 1, 1], "dilations": [2, 1]}),
    ((2, 6, 9, 8), (6, 1, 5, 5), {"group": 6, "pads": [2, 2, 2, 2]}),
    ((2, 6, 9, 8), (12, 1, 3, 3), {"group": 6, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 6, 9, 8), (4, 6, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ((2, 6, 9, 8), (4, 6, 3, 3), {"auto_pad": "VALID"}),
    ((2, 3, 11), (4, 3, 3), {"pads": [2, 0], "strides": [2]}),
    ((2, 4, 5, 6, 4), (4, 2, 3, 2, 1), {"group": 2, "pads": [1, 0, 0, 1, 1, 0], "strides": [1, 2, 1]}),
]
TRANSPOSED = [
    ((2, 6, 4, 5), (6, 4, 3, 3), {}),
    ((2, 6, 4, 5), (6, 4, 2, 2), {"strides": [2, 2]}),
    ((2, 6, 4, 5), (6, 2, 3, 3), {"group": 3, "strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 2]}),
    ((2, 6, 4, 5), (6, 1, 4, 4), {"group": 6, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 6, 4, 5), (6, 4, 3, 3), {"strides": [2, 2], "dilations": [2, 1]}),
    ((2, 6, 4, 5), (6, 4, 1, 1), {"strides": [3, 3]}),
    ((2, 6, 4, 5), (6, 4, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 6, 4, 5), (6, 4, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((2, 6, 4, 5), (6, 4, 3, 3), {"strides": [2, 2], "output_shape": [8, 10]}),
    ((2, 3, 7), (3, 4, 5), {"strides": [3], "pads": [1, 2], "output_padding": [1]}),
    ((2, 4, 3, 4, 2), (4, 1, 2, 3, 2), {"group": 2, "strides": [2, 1, 2], "pads": [0, 1, 0, 1, 0, 1]}),
]
GEMM = [
    ((5, 7), (7, 4), {}, 1),
    ((5, 7), (4, 7), {"transB": 1}, 1),
    ((7, 5), (7, 4), {"transA": 1}, 1),
    ((7, 5), (4, 7), {"transA": 1, "transB": 1}, 1),
    ((7, 5), (4, 7), {}, 0),
    ((7, 5), (7, 4), {"transA": 1}, 0),
    ((5, 7), (4, 7), {"transB": 1}, 0),
    ((5, 7), (7, 4), {"transA": 1, "transB": 1}, 0),
]
MATMUL = [
    ((5, 7), (7, 4), {}, 1),
    ((3, 5, 7), (7, 4), {}, 1),
    ((2, 3, 5, 7), (7, 4), {}, 1),
    ((2, 3, 5, 7), (3, 7, 4), {}, 1),
    ((2, 3, 5, 7), (1, 3, 7, 4), {}, 1),
    ((2, 3, 5, 7), (2, 1, 7, 4), {}, 1),
    ((5, 7), (3, 7, 4), {}, 1),
    ((3, 5, 7), (3, 7, 4), {}, 1),
    ((2, 1, 5, 7), (3, 7, 4), {}, 1),
    ((2, 5, 7), (7,), {}, 1),
    ((7, 5), (4, 7), {}, 0),
    ((3, 7, 5), (4, 7), {}, 0),
    ((2, 3, 7, 5), (3, 4, 7), {}, 0),
    ((3, 7, 5), (7,), {}, 0),
]
CASES = [
    *(("Conv", x, w, attributes, 1) for x, w, attributes in CONV),
    *(("ConvTranspose", x, w, attributes, 1) for x, w, attributes in TRANSPOSED),
    *(("Gemm", *case) for case in GEMM),
    *(("MatMul", *case) for case in MATMUL),
]


def run(op_type, x, weight, attributes, operand):
    """What ONNX Runtime computes."""
    node = helper.make_node(op_type, ["x", "w"] if operand == 1 else ["w", "x"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def by_row(op_type, output, layer, operand):
    """An output [N, ...] as [G, R, samples, positions of a sample]."""
    groups, rows, _ = layer.matrix_shape
    if op_type.startswith("Conv"):
        return np.moveaxis(output.reshape(len(output), groups, rows, -1), 0, 2)
    if len(layer.weight_shape) == 1:
        return output.reshape(1, 1, len(output), -1)
    output = output if operand == 1 else output.swapaxes(-1, -2)
    stack = layer.weight_shape[:-2]
    stacked = [output.ndim - 2 - len(stack) + i for i, size in enumerate(stack) if size != 1]
    output = np.moveaxis(output, [*stacked, -1], range(len(stacked) + 1))
    samples = output.shape[len(stacked) + 1]
    # A stack with a dimension of 1 gives its output one more: the samples come first all the same.
    return output.reshape(groups, rows, samples, -1)


@pytest.mark.parametrize(("op_type", "x_shape", "weight_shape", "attributes", "operand"), CASES)
def test_matrix_times_columns_is_the_output(op_type, x_shape, weight_shape, attributes, operand):
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, weight_shape))
    layer = layer_shape(op_type, weight_shape, attributes, operand=operand)
    expected = by_row(op_type, run(op_type, x, weight, attributes, operand), layer, operand)
    matrix = layer.matrix(weight)
    assert matrix.shape == layer.matrix_shape
    np.testing.assert_array_equal(layer.weight_from(matrix), weight)

    columns = layer.columns(x)
    assert columns.dtype == np.float32
    np.testing.assert_allclose(matrix @ columns, expected.reshape(*matrix.shape[:2], -1), rtol=1e-4, atol=1e-5)

    *_, samples, available = expected.shape
    assert layer.num_positions(x_shape) == available
    positions = rng.integers(0, available, size=(samples, 3))
    some = np.take_along_axis(expected, positions[None, None], axis=3)
    np.testing.assert_allclose(
        matrix @ layer.columns(x, positions), some.reshape(*matrix.shape[:2], -1), rtol=1e-4, atol=1e-5
    )


@st.composite
def convolutions(draw):
    """A Conv or ConvTranspose of any rank with attributes that ONNX Runtime takes."""
    rank, op_type = draw(st.integers(1, 3)), draw(st.sampled_from(["Conv", "ConvTranspose"]))

    def along(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    group, per_group, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 2)), along(1, 3)
    attributes = {"group": group, "strides": along(1, 3), "dilations": along(1, 2), "pads": along(0, 2) + along(0, 2)}
    channels = group * draw(st.integers(1, 2))
    if op_type == "Conv":
        weight_shape = (group * per_group, channels // group, *kernel)
    else:
        weight_shape = (channels, per_group, *kernel)
        attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in attributes["strides"]]
    return op_type, (2, channels, *along(5, 7)), weight_shape, attributes


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_any_convolution_is_unfolded(case):
    op_type, x_shape, weight_shape, attributes = case
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, weight_shape))
    layer = layer_shape(op_type, weight_shape, attributes)
    assume(layer.num_positions(x_shape) > 0)
    expected = by_row(op_type, run(op_type, x, weight, attributes, 1), layer, 1)
    found = (layer.matrix(weight) @ layer.columns(x)).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op_type", "weight_shape", "attributes", "operand", "axis", "expected"),
    [
        ("Conv", (8, 3, 3, 3), {"group": 2}, 1, 0, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2}, 1, 1, [0, 1, 2, 3, 4, 5]),
        ("Gemm", (7, 4), {}, 1, 1, [0, 1, 2, 3]),
        ("MatMul", (2, 4, 7), {}, 0, 1, [0, 1, 2, 3, 0, 1, 2, 3]),
    ],
)
def test_rows_belong_to_output_channels_and_scales(op_type, weight_shape, attributes, operand, axis, expected):
    layer = layer_shape(op_type, weight_shape, attributes, operand=operand)
    assert layer.output_channels.ravel().tolist() == expected
    assert layer.output_channels.shape == layer.matrix_shape[:2]
    assert math.prod(layer.scale_shape(axis)) == weight_shape[axis]
    assert layer.scale_shape(None) == (1, 1)
    # One number for each scale lands in the same place by way of the matrix and in the weight itself.
    along = np.arange(weight_shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(weight_shape))])
    matrix = np.arange(weight_shape[axis]).reshape(*layer.scale_shape(axis), 1)
    in_matrix = np.broadcast_to(matrix, layer.matrix_shape)
    np.testing.assert_array_equal(layer.weight_from(in_matrix), np.broadcast_to(along, weight_shape))


def test_unknown_attributes_are_ignored():
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "alpha": 0.5}
    assert layer_shape("Conv", [2, 2, 3, 3], attributes).columns(np.ones((1, 2, 4, 4), np.float32)).shape == (1, 18, 16)


@given(st.integers(1, 3000), st.integers(1, 5), st.integers(1, 200), st.integers(0, 9), st.data())
def test_positions_are_distinct_and_do_not_depend_on_the_batches(available, samples, limit, first, data):
    found = spread_positions(available, samples, limit, first)
    assert found.shape == (samples, min(limit, available))
    assert 0 <= found.min() <= found.max() < available
    assert all(len(set(row)) == len(row) for row in found.tolist())
    cut = data.draw(st.integers(0, samples))
    parts = [
        spread_positions(available, cut, limit, first),
        spread_positions(available, samples - cut, limit, first + cut),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), found)


@pytest.mark.parametrize("size", [16, 64, 80, 112])
def test_positions_prefer_no_row_column_or_border(size):
    row, column = np.divmod(spread_positions(size * size, 64, 16), size)
    for along in (row, column):
        counts = np.bincount(along.ravel() * 8 // size, minlength=8)
        assert counts.min() > 0.7 * counts.mean()
        in_a_sample = [len(set((values * 4 // size).tolist())) for values in along]
        assert min(in_a_sample) >= 3
