from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.passes.prepare import constant_of, has_qdq, prepare

from ..builder import Builder
from ..models import MODELS
from ..quantizing import load, quantized, random_inputs, run


def names_of(graph: ir.Model) -> set[str | None]:
    return {v.name for n in graph.graph for v in n.outputs} | set(graph.graph.initializers)


@pytest.mark.parametrize("name", list(MODELS))
def test_no_tensor_is_renamed(name: str) -> None:
    model = MODELS[name]()
    activations = {v for n in model.graph.node for v in n.output}
    graph = prepare(load(model), name=name)
    activations -= {str(name).removesuffix("_folded") for name in graph.graph.initializers}
    assert activations <= names_of(graph)
    assert [v.name for v in graph.graph.outputs] == [v.name for v in model.graph.output]
    assert {v.name for v in graph.graph.inputs} <= {v.name for v in model.graph.input}


@pytest.mark.parametrize("wanted", [13, 19])
@pytest.mark.parametrize("opset", [11, 12, 13, 16, 18])
@pytest.mark.parametrize(
    "name", ["residual_identity", "inverted_residual", "average_pool_classifier", "resize", "mlp_gelu", "dense_concat"]
)
def test_opset_conversion_changes_no_number(name: str, opset: int, wanted: int) -> None:
    model = MODELS[name](opset=opset)
    graph = prepare(load(model), name=name, opset=wanted)
    assert graph.opset_imports[""] == max(opset, wanted)
    assert {v for n in model.graph.node for v in n.output} <= names_of(graph)
    inputs = random_inputs(graph)
    expected, found = run(model, inputs), run(graph, inputs)
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-5)


def test_operators_that_changed_between_opsets() -> None:
    """Softmax, ReduceSum, Squeeze, Unsqueeze, Pad, Split: their axes became inputs or changed meaning at opset 13."""
    g = Builder(opset=11)
    x = g.conv(g.input("x", 8, 4, 4), 8, 8)
    y = g.op("Softmax", x, axis=1)
    y = g.op("Add", y, g.op("ReduceSum", x, axes=[2, 3], keepdims=1))
    y = g.op("Squeeze", g.op("Unsqueeze", y, axes=[0]), axes=[0])
    y = g.op("Pad", y, g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), g.constant(0.5))
    first = g.op("Split", y, outputs=2, axis=1, split=[4, 4])
    model = g.model(g.conv(g.op("Mul", first, f"{first}1"), 4, 8))
    for wanted in (13, 19):
        graph = prepare(load(model), name="model", opset=wanted)
        inputs = random_inputs(graph)
        for output, values in run(model, inputs).items():
            np.testing.assert_allclose(run(graph, inputs)[output], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["weight_from_constant_node", "weight_through_identity", "weight_through_transpose", "weight_through_cast"]
)
def test_weights_become_initializers(name: str) -> None:
    model = MODELS[name]()
    graph = prepare(load(model), name=name)
    for node in graph.graph:
        if node.op_type in ("Conv", "MatMul"):
            assert node.inputs[1].is_initializer()
    inputs = random_inputs(graph)
    for output, values in run(model, inputs).items():
        np.testing.assert_allclose(run(graph, inputs)[output], values, rtol=1e-5, atol=1e-6)
    assert not {"Constant", "Identity", "Transpose", "Cast"} & {n.op_type for n in graph.graph}


def test_names_of_nodes() -> None:
    """Every node has one, none twice; given names stay with the node that had them first."""
    g = Builder()
    x = g.input("x", 8, 4, 4)
    y = g.conv(x, 8, 8, name="")
    y = g.conv(y, 8, 8, name="Conv_0")
    y = g.conv(y, 8, 8, name="twice")
    y = g.conv(y, 8, 8, name="twice")
    model = g.model(y)
    for i, node in enumerate(model.graph.node):
        node.output[0] = f"y{i}"
        if i:
            node.input[0] = f"y{i - 1}"
    model.graph.output[0].name = "y3"
    for opset in (13, 19):
        names = [n.name for n in prepare(load(model), name="model", opset=opset).graph]
        assert names == ["Conv_0_", "Conv_0", "twice", "Conv_3"]


def test_names_do_not_depend_on_the_opset() -> None:
    model = MODELS["nameless_nodes"](opset=12)
    plain = [n.name for n in prepare(load(model), name="model").graph if n.op_type == "Conv"]
    half = [n.name for n in prepare(load(model), name="model", opset=19).graph if n.op_type == "Conv"]
    assert plain == half


def test_nodes_in_any_order() -> None:
    model = MODELS["conv_relu"]()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    graph = prepare(load(model), name="model")
    assert [n.op_type for n in graph.graph] == ["Conv", "Relu", "Conv", "Relu"]


def test_a_constant_that_is_an_output_stays() -> None:
    g = Builder()
    y = g.conv(g.input("x", 8, 4, 4), 8, 8)
    g.nodes.append(helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(2, np.float32))))
    graph = prepare(load(g.model(y, "k")), name="model")
    assert constant_of(graph.graph.outputs[1]) is not None
    assert set(run(graph, random_inputs(graph))) == {y, "k"}


def test_fp16_models_get_an_opset_with_fp16_scales() -> None:
    assert prepare(load(MODELS["conv_relu"](dtype=np.float16)), name="model").opset_imports[""] == 19
    assert prepare(load(MODELS["conv_relu"](dtype=np.float16, opset=21)), name="model").opset_imports[""] == 21
    model = MODELS["weight_from_constant_node"](dtype=np.float16)
    assert prepare(load(model), name="model").opset_imports[""] == 19


def test_sequences_are_no_tensors() -> None:
    g = Builder()
    parts = g.op("SplitToSequence", g.input("x", 8), axis=1, keepdims=1)
    graph = prepare(load(g.model(g.op("SequenceAt", parts, g.constant(np.array(0))))), name="model")
    assert isinstance(next(iter(graph.graph)).outputs[0].type, ir.SequenceType)


def test_what_cannot_be_converted_names_the_model() -> None:
    model = MODELS["conv_relu"](opset=11)
    model.graph.node.append(helper.make_node("Upsample", ["x"], ["bad"], name="bad"))
    with pytest.raises(ModelError, match=r"^tiny\.onnx: opset 11 .*export"):
        prepare(ir.from_proto(model), name="tiny.onnx", opset=19)


def test_has_qdq() -> None:
    assert not has_qdq(load(MODELS["conv_relu"]()))
    assert has_qdq(quantized("conv_relu").graph)
    g = Builder()
    g.inputs.append(helper.make_tensor_value_info("c", TensorProto.INT8, [2]))
    y = g.op("DequantizeLinear", "c", g.constant(0.5))
    assert has_qdq(load(g.model(y)))


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QGemm", "DynamicQuantizeMatMul"])
def test_quantized_operators_of_onnxruntime(op_type: str) -> None:
    g = Builder()
    g.domains["com.microsoft"] = 1
    assert has_qdq(load(g.model(g.op(op_type, g.input("x", 8), domain="com.microsoft"))))


def test_branches_compute_what_they_did() -> None:
    model = MODELS["subgraph"]()
    graph = prepare(load(model), name="model")
    inputs = random_inputs(graph)
    for output, values in run(model, inputs).items():
        np.testing.assert_allclose(run(graph, inputs)[output], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reader", ["Conv", "BatchNormalization"])
def test_what_computes_over_channels_of_nothing_is_refused(reader: str) -> None:
    """ONNX Runtime divides by zero and ends the process; found by fuzzing."""
    builder = Builder()
    pooled = builder.op("MaxPool", builder.input("x", 3, 1, 1), kernel_shape=[2, 2])
    weights = [builder.weight(4, 3, 1, 1)] if reader == "Conv" else [builder.weight(3) for _ in range(4)]
    y = builder.op(reader, pooled, *weights, name="reader")
    with pytest.raises(
        ModelError, match=rf"m: node 'reader' \({reader}\) reads .* of shape \[N,3,0,0\], which is empty"
    ):
        prepare(load(builder.model(y)), name="m")
