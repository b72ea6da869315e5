"""Scales read back out of a model with Q/DQ are those that went in."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.qdq_scales import activation_scales
from quantkit.graph.quant_params import activation_params
from quantkit.types import TensorRange

from .models import MODELS


@pytest.mark.parametrize("name", ["conv_relu", "residual_downsample", "dense_concat", "attention", "gemm_plain"])
def test_what_was_inserted_is_read(name):
    model = prepare(ir.from_proto(MODELS[name]()), name=name)
    plan = plan_tensorrt(model)
    ranges = {t: TensorRange(1.1 + i, -1.0, 1.0 + i) for i, t in enumerate(plan.tensors)}
    params = activation_params(plan, ranges)
    found, unread = activation_scales(insert_qdq(model, plan, params))
    assert unread == {}
    assert found.keys() == params.keys()
    for tensor, read in found.items():
        assert np.float32(read.scale) == params[tensor].scale
        assert read.is_symmetric
        assert read.source == tensor
        assert (read.minimum, read.maximum) == (-127 * read.scale, 127 * read.scale)


def qdq(zero=None, scale=0.5, *, dtype=np.int8, times=1, scales=()) -> ir.Model:
    scale = np.array(scale, np.float32)
    tensors = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.array(2.0, np.float32), "other")]
    inputs = ["x", "s"]
    if zero is not None:
        tensors.append(numpy_helper.from_array(np.full(scale.shape, zero, dtype), "z"))
        inputs.append("z")
    nodes = [helper.make_node("QuantizeLinear", inputs, ["q"])]
    if times == 2:
        nodes.append(helper.make_node("QuantizeLinear", ["x", "other", *inputs[2:]], ["q2"]))
    kind = TensorProto.INT8 if dtype is np.int8 and zero is not None else TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2])],
        [helper.make_tensor_value_info("q", kind, [4, 2])],
        tensors,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_zero_points_shift_the_range():
    found, _ = activation_scales(qdq(3))
    assert (found["x"].minimum, found["x"].maximum) == ((-128 - 3) * 0.5, (127 - 3) * 0.5)
    assert not found["x"].is_symmetric
    found, _ = activation_scales(qdq(128, dtype=np.uint8))
    # The codes of INT8 with zero point 0, moved by 128.
    assert (found["x"].minimum, found["x"].maximum, found["x"].is_symmetric) == (-63.5, 63.5, True)
    found, _ = activation_scales(qdq())
    assert (found["x"].minimum, found["x"].maximum) == (0.0, 127.5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (qdq(0, times=2), "quantized twice"),
        (qdq(0, scale=[0.5, 0.25]), "2 scales"),
        (qdq(0, scale=0.0), "not positive"),
        (qdq(0, scale=np.inf), "not positive"),
        (qdq(0, dtype=np.int16), "8 bits"),
    ],
)
def test_what_cannot_be_read_says_why(model, reason):
    found, unread = activation_scales(model)
    assert found == {}
    assert reason in unread["x"]


def test_weights_are_left_out():
    model = MODELS["conv_relu"]()
    assert activation_scales(ir.from_proto(model)) == ({}, {})
    assert isinstance(model, onnx.ModelProto)


def test_an_output_that_onnx_runtime_renamed_has_its_own_name():
    tensors = [numpy_helper.from_array(np.array(0.5, np.float32), "s"), numpy_helper.from_array(np.int8([0])[0], "z")]
    nodes = [
        helper.make_node("Relu", ["x"], ["y_QuantizeLinear_Input"]),
        helper.make_node("QuantizeLinear", ["y_QuantizeLinear_Input", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found, unread = activation_scales(ir.from_proto(model))
    assert (list(found), unread) == (["y"], {})


def test_a_graph_as_nncf_writes_it():
    """UINT8 activations with zero points, INT8 weights with a scale for each channel, axes on Q and DQ, own names."""
    rng = np.random.default_rng(2)
    tensors = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "scale_x_1": np.array(0.02, np.float32),
        "zero_point_x_1": np.array(114, np.uint8),
        "scale_w_1": np.full(4, 0.01, np.float32),
        "zero_point_w_1": np.zeros(4, np.int8),
        "scale_r_1": np.array(0.05, np.float32),
        "zero_point_r_1": np.array(0, np.uint8),
    }

    def pair(edge, axis):
        scales = [f"scale_{edge}_1", f"zero_point_{edge}_1"]
        names = {"name": f"QuantizeLinear_{edge}_1", "axis": axis}, {"name": f"DequantizeLinear_{edge}_1", "axis": axis}
        return [
            helper.make_node("QuantizeLinear", [edge, *scales], [f"q_output_{edge}_1"], **names[0]),
            helper.make_node("DequantizeLinear", [f"q_output_{edge}_1", *scales], [f"dq_output_{edge}_1"], **names[1]),
        ]

    nodes = [
        *pair("x", None),
        *pair("w", 0),
        helper.make_node("Conv", ["dq_output_x_1", "dq_output_w_1"], ["c"], name="/conv"),
        helper.make_node("Relu", ["c"], ["r"], name="/relu"),
        *pair("r", None),
        helper.make_node("GlobalAveragePool", ["dq_output_r_1"], ["y"], name="/pool"),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", c, None, None]) for n, c in (("x", 3), ("y", 4))
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    found, unread = activation_scales(ir.from_proto(model))
    assert (list(found), unread) == (["x", "r"], {})
    assert (found["x"].minimum, found["x"].maximum) == pytest.approx((-114 * 0.02, 141 * 0.02))
    assert (found["r"].minimum, found["r"].maximum) == pytest.approx((0, 255 * 0.05))


def test_what_nncf_wrote_is_read():
    """The model of tests/cli/conftest.py, quantized by NNCF 3.4.0 (preset MIXED)."""
    model = ir.load(Path(__file__).parent / "data" / "nncf_3.4.0.onnx")
    found, unread = activation_scales(model)
    assert (list(found), unread) == (["x", "r", "g"], {})
    assert [read.is_symmetric for read in found.values()] == [False, False, False]
    assert found["x"].minimum < 0 < found["x"].maximum
    assert found["r"].minimum == found["g"].minimum == 0
    q = next(node for node in model.graph if node.inputs[0] is not None and node.inputs[0].name == "r")
    assert found["r"].scale == float(q.inputs[1].const_value.numpy())
