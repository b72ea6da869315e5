"""Every rule of TensorRT's for Q/DQ, broken on purpose; and what quantkit writes breaks none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.graph.passes.prepare import prepare
from quantkit.graph.qdq_lint import lint_qdq, planned_operators, quantized_operators

from .models import FLOAT_ON_RTX, MODELS
from .quantizing import quantized

WEIGHT = np.ones((4, 3, 3, 3), np.int8)
_SCALE = np.float32(0.1)
_ZERO = np.int8(0)


def qdq_model(
    *,
    scale=_SCALE,
    zero=_ZERO,
    weight_scale=None,
    weight_axis=0,
    bias=None,
    quantize_activation=True,
    quantize_weight=True,
    between: str | None = None,
    opset: int = 17,
) -> ir.Model:
    """x → Q → DQ → [between] → Conv(DQ(weight)) → y."""
    nodes, tensors = [], {}

    def constant(name: str, array) -> str:
        tensors[name] = np.asarray(array)
        return name

    data = "x"
    parameters = [constant("scale", scale), *([constant("zero", zero)] if zero is not None else [])]
    if quantize_activation:
        nodes += [
            helper.make_node("QuantizeLinear", ["x", *parameters], ["xq"], name="q", axis=1),
            helper.make_node("DequantizeLinear", ["xq", *parameters], ["xd"], name="dq", axis=1),
        ]
        data = "xd"
    if between:
        nodes.append(helper.make_node(between, [data], ["m"], name="between", kernel_shape=[3, 3], pads=[1] * 4))
        data = "m"
    weight_scale = np.full(4, 0.5, np.float32) if weight_scale is None else weight_scale
    if quantize_weight:
        inputs = [
            constant("w", WEIGHT),
            constant("ws", weight_scale),
            constant("wz", np.zeros_like(weight_scale, np.int8)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", inputs, ["wd"], name="wdq", axis=weight_axis))
    else:
        constant("wd", WEIGHT.astype(np.float32))
    inputs = [data, "wd"]
    if bias is not None:
        nodes.append(helper.make_node("DequantizeLinear", [constant("b", bias), "scale"], ["bd"], name="bdq"))
        inputs.append("bd")
    nodes.append(helper.make_node("Conv", inputs, ["y"], name="conv", pads=[1] * 4))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return prepare(ir.from_proto(proto), name="net", opset=opset)


def rules(model: ir.Model) -> set[tuple[str, str, str]]:
    return {(f.rule, f.node, f.severity) for f in lint_qdq(model)}


def test_a_right_model_breaks_nothing() -> None:
    model = qdq_model()
    assert rules(model) == set()
    assert [(o.name, o.is_weighted, o.is_quantized) for o in quantized_operators(model)] == [("conv", True, True)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"zero": np.int8(3)}, {("zero point", "q", "refused"), ("zero point", "dq", "refused")}),
        ({"zero": np.uint8(0)}, {("uint8", "q", "wrong"), ("uint8", "dq", "wrong")}),
        ({"zero": np.uint8(128)}, {("zero point", "q", "refused"), ("zero point", "dq", "refused")}),
        ({"scale": np.float32([0.1])}, {("scale rank", "q", "float"), ("scale rank", "dq", "float")}),
        ({"scale": np.float32(0)}, {("scale not positive", "q", "refused"), ("scale not positive", "dq", "refused")}),
        (
            {"scale": np.full(3, 0.1, np.float32), "zero": np.zeros(3, np.int8)},
            {("scales of an activation", "q", "float"), ("scales of an activation", "dq", "float")},
        ),
        ({"weight_scale": np.float32([1, 0, 1, 1])}, {("scale not positive", "wdq", "refused")}),
        ({"weight_scale": np.float32([1, 1, 1]), "weight_axis": 1}, {("weight axis", "conv", "float")}),
        ({"bias": np.ones(4, np.int32)}, {("int32 bias", "bdq", "refused")}),
        ({"quantize_activation": False}, {("weight only", "conv", "float")}),
        ({"quantize_weight": False}, {("activation only", "conv", "float")}),
        ({"between": "AveragePool"}, {("weight only", "conv", "float")}),
        ({"between": "MaxPool"}, set()),
        ({"zero": None}, {("no zero point", "q", "wrong")}),
    ],
)
def test_rules(change, expected) -> None:
    model = qdq_model(**change)
    assert rules(model) == expected
    stays_float = {"weight axis", "weight only", "activation only", "scale rank", "scales of an activation"}
    conv = next(o for o in quantized_operators(model) if o.name == "conv")
    assert conv.is_quantized == (not {rule for rule, _, _ in expected} & stays_float)
    assert bool(conv.reason) == (not conv.is_quantized)


def test_concat_with_different_scales() -> None:
    def model(second: float) -> ir.Model:
        nodes, tensors = [], {"w": WEIGHT.repeat(2, 1), "ws": np.float32(0.5)}
        for i, scale in enumerate((0.1, second)):
            tensors[f"s{i}"] = np.float32(scale)
            nodes.append(helper.make_node("QuantizeLinear", ["x", f"s{i}", "z"], [f"q{i}"], name=f"q{i}"))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", "z"], [f"d{i}"], name=f"d{i}"))
        tensors["z"] = np.int8(0)
        nodes.append(helper.make_node("Concat", ["d0", "d1"], ["c"], name="concat", axis=1))
        nodes.append(helper.make_node("DequantizeLinear", ["w", "ws", "z"], ["wd"], name="wdq"))
        nodes.append(helper.make_node("Conv", ["c", "wd"], ["y"], name="conv"))
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return prepare(ir.from_proto(proto), name="net")

    assert rules(model(0.1)) == set()
    assert ("scales of a Concat", "concat", "float") in rules(model(0.2))


def test_operators_of_onnx_runtime_are_refused() -> None:
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], name="c")
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert rules(prepare(ir.from_proto(proto), name="net")) == {("integer operator", "c", "refused")}


@pytest.mark.parametrize("name", list(MODELS))
def test_what_quantkit_writes_breaks_no_rule(name: str) -> None:
    q = quantized(name)
    model = prepare(ir.from_proto(onnx.ModelProto.FromString(q.proto.SerializeToString())), name=name)
    expected = {"ConvTranspose"} if name in FLOAT_ON_RTX else set()
    assert {rule for rule, _, _ in rules(model)} == expected
    planned = {e.node for e in q.plan.activations}
    read = quantized_operators(model)
    assert {o.name for o in read if o.is_quantized and o.is_weighted} == {
        o.name for o in read if o.is_weighted
    } & planned


def test_planned_operators_carry_reasons() -> None:
    model = prepare(ir.from_proto(MODELS["mlp_gelu"]()), name="mlp")
    operators = planned_operators(model)
    assert all(o.is_quantized for o in operators if o.op_type == "MatMul")
    assert {o.name for o in operators} == {node.name for node in model.graph}


def test_reasons_of_tensors_are_not_those_of_nodes_of_the_same_name() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[4, 64] x) => (float[4, 64] y) <float[64, 64] w> {
            gated = Sigmoid(x)
            product = MatMul(gated, w)
            y = Exp(product)
        }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    for node in proto.graph.node:
        node.name = node.output[0]  # as converters from TensorFlow name them
    operators = {o.name: o for o in planned_operators(prepare(ir.from_proto(proto), name="net"))}
    assert operators["product"].is_quantized
    assert {o.reason for o in operators.values()} == {""}


def test_integer_operators_are_counted_as_products_only_where_they_multiply() -> None:
    domain = "com.microsoft"
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"]),
        helper.make_node("DynamicQuantizeLSTM", ["x3", "w3", "r3"], ["h"], domain=domain, hidden_size=4),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8]),
            helper.make_tensor_value_info("x3", TensorProto.FLOAT, [2, 1, 8]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.INT32, [2, 4]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 1, 1, 4]),
        ],
        [
            numpy_helper.from_array(np.ones((8, 4), np.int8), "w"),
            numpy_helper.from_array(np.ones((1, 8, 16), np.int8), "w3"),
            numpy_helper.from_array(np.ones((1, 4, 16), np.int8), "r3"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)])
    model = prepare(ir.from_proto(proto), name="net")
    found = quantized_operators(model)
    assert {o.op_type for o in found if o.is_weighted} == {"MatMulInteger", "DynamicQuantizeLSTM"}
    assert all(o.is_quantized for o in found)
    assert {f.rule for f in lint_qdq(model)} == {"integer operator"}
    assert len(lint_qdq(model)) == 3
