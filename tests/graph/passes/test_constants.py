"""Weights that a graph computes from constants are weights; an If that is decided is its branch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.runner import Runner

from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes import constants
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.placement.tensorrt import plan_tensorrt

from ..builder import Builder
from ..quantizing import random_inputs, run


def normalized(g: Builder) -> str:
    v = g.weight(16, 16, 3, 3)
    return g.op("Mul", g.op("Div", v, g.op("ReduceL2", v, axes=[1, 2, 3])), g.constant(np.ones((16, 1, 1, 1)) * 2))


def standardized(g: Builder) -> str:
    v = g.weight(16, 16, 3, 3)
    centered = g.op("Sub", v, g.op("ReduceMean", v, axes=[1, 2, 3]))
    deviation = g.op("Sqrt", g.op("ReduceMean", g.op("Mul", centered, centered), axes=[1, 2, 3]))
    return g.op("Div", centered, g.op("Add", deviation, g.constant(1e-5)))


def branches(g: Builder) -> str:
    pads = g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return g.op("Add", g.weight(16, 16, 3, 3), g.op("Pad", g.weight(16, 16, 1, 1), pads))


def sliced(g: Builder) -> str:
    starts, ends = g.constant(np.array([8])), g.constant(np.array([24]))
    return g.op("Slice", g.weight(32, 16, 3, 3), starts, ends, g.constant(np.array([0])))


def gathered(g: Builder) -> str:
    return g.op("Gather", g.weight(32, 16, 3, 3), g.constant(np.arange(0, 32, 2)))


def joined(g: Builder) -> str:
    return g.op("Concat", g.weight(8, 16, 3, 3), g.weight(8, 16, 3, 3), axis=0)


def filled(g: Builder) -> str:
    """As in onnx's own light models: no weight is stored at all."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.125])
    return g.op("ConstantOfShape", g.constant(np.array([16, 16, 3, 3])), value=value)


def adapted(g: Builder) -> str:
    low_rank = g.op("MatMul", g.weight(16, 4), g.weight(4, 144))
    return g.op("Add", g.weight(16, 16, 3, 3), g.op("Reshape", low_rank, g.constant(np.array([16, 16, 3, 3]))))


def net(weight: Callable[[Builder], str]) -> onnx.ModelProto:
    g = Builder()
    y = g.op("Conv", g.input("x", 16, 6, 6), weight(g), name="first", pads=[1] * 4)
    return g.model(g.conv(g.op("Relu", y), 16, 8))


@pytest.mark.parametrize(
    "weight", [normalized, standardized, branches, sliced, gathered, joined, filled, adapted], ids=lambda f: f.__name__
)
def test_a_weight_that_constants_make_is_stored(weight: Callable[[Builder], str]) -> None:
    proto = net(weight)
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert {edge.node: edge.axis for edge in plan_tensorrt(graph).weights}["first"] == 0
    assert [node.op_type for node in graph.graph] == ["Conv", "Relu", "Conv"]
    assert len(graph.graph.initializers) == 3
    inputs = random_inputs(graph)
    for name, values in run(proto, inputs).items():
        np.testing.assert_allclose(run(graph, inputs)[name], values, rtol=1e-4, atol=1e-5)


def test_what_would_be_too_large_stays_an_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "LARGEST_FOLDED_BYTES", 4 * 16 * 16 * 3 * 3 - 1)
    graph = FloatModel(net(filled).SerializeToString()).prepared()
    assert plan_tensorrt(graph).skipped["first"] == "its weight is computed at run time"


def test_a_mask_of_any_size_does_not_grow_the_model() -> None:
    """No weight is made of it: runtimes may compute it where they need it."""
    g = Builder()
    mask = g.op("ConstantOfShape", g.constant(np.array([1, 1 << 20])))
    g.model(product := g.linear(g.input("x", 8), 8, 8))
    proto = g.model(product, g.op("Mul", mask, g.op("ReduceMean", product)))
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert "ConstantOfShape" in {node.op_type for node in graph.graph}


def test_a_table_of_indices_in_front_of_a_product_does_not_grow_the_model() -> None:
    """Exporters make the places that ScatterND writes to, of a cache, by Expand and Concat."""
    g = Builder()
    cache = g.input("cache", 96, 64)
    index = g.op("Expand", g.constant(np.zeros((1, 1, 1), np.int64)), g.constant(np.array([1, 96 * 32, 1])))
    proto = g.model(g.linear(g.op("Gather", cache, g.op("Squeeze", index), axis=1), 64, 8))
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert "Expand" in {node.op_type for node in graph.graph}


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "QuantizeLinear"])
def test_chance_and_quantization_are_no_constants(op_type: str) -> None:
    g = Builder()
    scale = [g.constant(0.1)] if op_type == "QuantizeLinear" else []
    made = g.op("Cast", g.op(op_type, g.constant(np.ones((8, 4))), *scale), to=TensorProto.FLOAT)
    graph = FloatModel(g.model(g.op("MatMul", g.input("x", 8), made)).SerializeToString()).prepared()
    assert op_type in {node.op_type for node in graph.graph}


def branch(g: Builder, kernel: int, name: str) -> onnx.GraphProto:
    """A convolution of `x`, with its weight inside."""
    values = g.random.normal(size=(8, 3, kernel, kernel)).astype(np.float32)
    weight = numpy_helper.from_array(values, "weight")
    conv = helper.make_node("Conv", ["x", "weight"], [name], name="inner", pads=[kernel // 2] * 4)
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([conv], name, [], [result], [weight])


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_an_if_that_is_decided_is_its_branch(holds: bool, at_the_end: bool) -> None:
    g = Builder()
    g.input("x", 3, 6, 6)
    condition = g.op("Greater", g.constant(float(holds)), g.constant(0.5))
    y = g.op("If", condition, then_branch=branch(g, 3, "then"), else_branch=branch(g, 1, "else"))
    proto = g.model(y if at_the_end else g.conv(y, 8, 8))
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert "If" not in {node.op_type for node in graph.graph}
    (inner,) = (node for node in graph.graph if node.name == "inner")
    assert inner.inputs[1].const_value.shape[2] == (3 if holds else 1)
    assert len(weighted_nodes(graph)) == (1 if at_the_end else 2)
    inputs = random_inputs(graph)
    for name, values in run(proto, inputs).items():
        np.testing.assert_allclose(run(graph, inputs)[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rate", "kernel"), [(16000, 3), (8000, 1)])
def test_an_input_of_one_value_decides_an_if_and_nothing_else(rate: int, kernel: int) -> None:
    g = Builder()
    g.input("x", 3, 6, 6)
    g.inputs.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
    condition = g.op("Equal", "sr", g.constant(np.array(16000)))
    y = g.op("If", condition, then_branch=branch(g, 3, "then"), else_branch=branch(g, 1, "else"))
    proto = g.model(g.op("Mul", y, g.op("Cast", "sr", to=TensorProto.FLOAT)))
    model = FloatModel(proto.SerializeToString())
    assert constants.decided_by(model.graph, {"sr", "x"}) == ["sr"]
    assert "If" in {node.op_type for node in model.prepared().graph}
    graph = model.fixing({"sr": np.array(rate)}).prepared()
    assert sorted(node.op_type for node in graph.graph) == ["Cast", "Conv", "Mul"]  # the rate is still read
    (conv,) = (node for node in graph.graph if node.op_type == "Conv")
    assert conv.inputs[1].const_value.shape[2] == kernel
    inputs = random_inputs(graph) | {"sr": np.array(rate)}
    for name, values in run(proto, inputs).items():
        np.testing.assert_allclose(run(graph, inputs)[name], values, rtol=1e-4)


def test_an_if_that_data_decide_too_is_left() -> None:
    g = Builder()
    g.input("x", 3, 6, 6)
    g.inputs.append(helper.make_tensor_value_info("limit", TensorProto.FLOAT, []))
    condition = g.op("Greater", g.op("ReduceMax", "x", keepdims=0), "limit")
    y = g.op("If", condition, then_branch=branch(g, 3, "then"), else_branch=branch(g, 1, "else"))
    model = FloatModel(g.model(y).SerializeToString())
    assert constants.decided_by(model.graph, {"limit"}) == []
    graph = model.fixing({"limit": np.array(1, np.float32)}).prepared()
    assert "If" in {node.op_type for node in graph.graph}


def test_a_network_whose_weights_are_all_expressions() -> None:
    """One of onnx's own light models (opset 9), with the output that onnx ships for it."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = FloatModel(folder / "light_squeezenet.onnx")
    graph = model.prepared()
    assert len({edge.node for edge in plan_tensorrt(graph).activations}) == len(weighted_nodes(graph)) == 26
    (spec,) = model.inputs
    image = Runner.generate_dummy_data(helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape))
    expected = TensorProto.FromString((folder / "light_squeezenet_output_0.pb").read_bytes())
    (found,) = run(graph, {spec.name: image}).values()
    np.testing.assert_allclose(found, numpy_helper.to_array(expected).reshape(found.shape), rtol=1e-4)
