from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.graph.model import check_model, input_specs
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.prepare import FP16_OPSET, prepare

from ... import rtx
from ..builder import Builder
from ..models import MODELS
from ..quantizing import load, random_inputs, run, sqnr_db


def converted(model: onnx.ModelProto) -> ir.Model:
    graph = to_fp16(prepare(load(model), name="model", opset=FP16_OPSET))
    check_model(graph, "the FP16 model")
    return graph


def assert_close(
    model: onnx.ModelProto, *, decibels: float = 45, inputs: dict[str, np.ndarray] | None = None
) -> ir.Model:
    """Converts, compares with FP32 and returns the FP16 graph."""
    graph = converted(model)
    source = load(model)
    assert input_specs(graph) == input_specs(source)
    inputs = inputs or random_inputs(source)
    expected, found = run(model, inputs), run(graph, inputs)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        if values.dtype.kind == "f":
            assert sqnr_db(values, found[name]) > decibels, name
        else:
            np.testing.assert_array_equal(values, found[name])
    return graph


def types_of(graph: ir.Model, op_type: str) -> set[ir.DataType | None]:
    return {v.dtype for n in graph.graph if n.op_type == op_type for v in n.outputs}


@pytest.mark.parametrize("name", list(MODELS))
def test_models(name: str) -> None:
    graph = assert_close(MODELS[name]())
    assert types_of(graph, "Conv") | types_of(graph, "MatMul") | types_of(graph, "Gemm") == {ir.DataType.FLOAT16}
    outside = {"x", *(v.name for v in graph.graph.outputs)}
    full = [v.name for n in graph.graph for v in n.outputs if v.dtype is ir.DataType.FLOAT and v.name not in outside]
    inner = {n.op_type for n in graph.graph} & {"If"}
    assert not full or inner


@pytest.mark.parametrize("name", ["conv_relu", "attention", "resize", "squeeze_excite", "subgraph"])
def test_tensorrt_builds_it(name: str) -> None:
    layers = rtx.read_layers(rtx.build(ir.to_proto(converted(MODELS[name]())).SerializeToString()))
    products = [k for k in layers if k.kind in ("corrltn", "fully_connected")]
    assert products
    if name != "subgraph":
        assert {k.inputs[:2] for k in products} == {("half", "half")}


def test_scales_of_resize_stay_fp32() -> None:
    graph = assert_close(MODELS["resize"]())
    (node,) = (n for n in graph.graph if n.op_type == "Resize")
    assert node.inputs[2].dtype is ir.DataType.FLOAT
    assert node.outputs[0].dtype is ir.DataType.FLOAT16


def test_scales_of_resize_that_something_else_reads() -> None:
    g = Builder()
    x = g.input("x", 1, 4, 4)
    scales = g.constant(np.array([1.0, 1.0, 2.0, 2.0]))
    y = g.op("Resize", x, "", scales, mode="nearest")
    assert_close(g.model(g.op("Add", y, g.op("ReduceSum", scales, keepdims=0))))


def test_non_max_suppression_takes_fp32() -> None:
    g = Builder(batch=1)
    boxes = g.op("Sigmoid", g.gemm(g.input("x", 8), 8, 24))
    boxes = g.op("Reshape", boxes, g.constant(np.array([1, 6, 4])))
    scores = g.op("Reshape", g.op("Sigmoid", g.gemm("x", 8, 6)), g.constant(np.array([1, 1, 6])))
    limits = [g.constant(np.array([3])), g.constant(np.array([0.5])), g.constant(np.array([0.1]))]
    chosen = g.op("NonMaxSuppression", boxes, scores, *limits)
    graph = assert_close(g.model(chosen, boxes, types=(np.int64, np.float32)), decibels=40)
    (node,) = (n for n in graph.graph if n.op_type == "NonMaxSuppression")
    assert {node.inputs[i].dtype for i in (0, 1, 3, 4)} == {ir.DataType.FLOAT}


def test_branches_stay_fp32() -> None:
    graph = assert_close(MODELS["subgraph"]())
    (node,) = (n for n in graph.graph if n.op_type == "If")
    assert node.outputs[0].dtype is ir.DataType.FLOAT
    for inner in ir.traversal.RecursiveGraphIterator(node.attributes["then_branch"].as_graph()):
        assert inner.inputs[0].dtype is ir.DataType.FLOAT


def test_arithmetic_on_shapes_stays_exact() -> None:
    """2051 has no FP16 form: neighbors are 2050 and 2052."""
    g = Builder()
    x = g.input("x", 2051)
    size = g.op("Gather", g.op("Shape", x), g.constant(np.array([1])))
    half = g.op("Floor", g.op("Div", g.op("Cast", size, to=TensorProto.FLOAT), g.constant(1.0)))
    end = g.op("Cast", half, to=TensorProto.INT64)
    y = g.op("Slice", x, g.constant(np.array([0])), end, g.constant(np.array([1])))
    graph = assert_close(g.model(g.op("Relu", y)))
    assert types_of(graph, "Div") == {ir.DataType.FLOAT}


def test_casts_and_filled_constants() -> None:
    g = Builder()
    x = g.input("x", 6)
    mask = g.op("Cast", g.op("Greater", x, g.constant(0.0)), to=TensorProto.FLOAT)
    zeros = g.op("ConstantOfShape", g.op("Shape", x))
    value = numpy_helper.from_array(np.array([2.5], np.float32))
    filled = g.op("ConstantOfShape", g.op("Shape", x), value=value)
    y = g.op("Add", g.op("Mul", mask, filled), zeros)
    graph = assert_close(g.model(g.op("Mul", x, y)))
    assert types_of(graph, "ConstantOfShape") == {ir.DataType.FLOAT16}


def test_random_numbers_stay_fp32() -> None:
    g = Builder()
    noise = g.op("RandomNormal", shape=[4], seed=1.0)
    graph = converted(g.model(g.op("Mul", g.op("Add", g.input("x", 4), noise), g.constant(0.0))))
    assert not any(np.any(v) for v in run(graph, {"x": np.ones((2, 4), np.float32)}).values())


def test_output_that_is_read_too() -> None:
    model = MODELS["output_read_inside"]()
    graph = assert_close(model)
    assert [v.name for v in graph.graph.outputs] == [v.name for v in model.graph.output]
    assert [v.dtype for v in graph.graph.outputs] == [ir.DataType.FLOAT] * 2


def test_input_that_is_an_output() -> None:
    g = Builder()
    x = g.input("x", 4)
    model = g.model(g.op("Relu", x), x)
    assert_close(model)


def test_output_that_is_a_constant() -> None:
    g = Builder()
    y = g.op("Relu", g.input("x", 4))
    model = g.model(y, g.op("Identity", g.constant(np.arange(4.0))))
    assert_close(model)


@pytest.mark.parametrize("mask", [-3.0e38, -np.inf, -1.0e9])
def test_masks_beyond_the_range(mask: float) -> None:
    g = Builder()
    x = g.input("x", 8)
    blocked = g.constant(np.where(np.arange(8) % 3 == 0, mask, 0.0))
    graph = assert_close(g.model(g.op("Softmax", g.op("Add", x, blocked), axis=-1)))
    values = run(graph, {"x": np.zeros((1, 8), np.float32)})
    assert all(np.isfinite(v).all() for v in values.values())


def test_small_constants_do_not_become_zero() -> None:
    g = Builder()
    x = g.input("x", 8)
    y = g.op("Div", x, g.op("Add", g.op("Abs", x), g.constant(1e-12)))
    values = run(converted(g.model(y)), {"x": np.zeros((1, 8), np.float32)})
    assert all(np.isfinite(v).all() for v in values.values())


def test_operators_of_other_domains_keep_fp32() -> None:
    g = Builder()
    g.domains["com.microsoft"] = 1
    y = g.op("Gelu", g.gemm(g.input("x", 16), 16, 16), domain="com.microsoft")
    graph = assert_close(g.model(g.gemm(y, 16, 8)))
    (node,) = (n for n in graph.graph if n.domain == "com.microsoft")
    assert node.inputs[0].dtype is ir.DataType.FLOAT


def test_split_and_optional_inputs() -> None:
    g = Builder()
    first = g.op("Split", g.input("x", 8), g.constant(np.array([4, 4])), outputs=2, axis=1)
    low = g.op("Clip", first, "", g.constant(0.5))
    assert_close(g.model(low, g.op("Clip", f"{first}1", g.constant(-0.5))))


def test_sequences() -> None:
    g = Builder()
    parts = g.op("SplitToSequence", g.input("x", 8), axis=1, keepdims=1)
    first = g.op("SequenceAt", parts, g.constant(np.array(0)))
    assert_close(g.model(g.op("Relu", g.op("Add", first, g.constant(1.0)))))


def test_loops() -> None:
    """The body reads an outer tensor and carries one."""
    g = Builder()
    x = g.op("Relu", g.input("x", 4))
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", x], ["sum"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
    )
    y = g.op("Loop", g.constant(np.array(3)), "", x, body=body)
    assert_close(g.model(g.gemm(y, 4, 4)))


def test_fp16_parts_of_an_fp32_model_stay_fp16() -> None:
    g = Builder()
    x = g.input("x", 8)
    half = g.op("Relu", g.op("Cast", x, to=TensorProto.FLOAT16))
    y = g.op("Cast", half, to=TensorProto.FLOAT)
    model = g.model(g.op("Add", y, x), half, types=(np.float32, np.float16))
    graph = assert_close(model)
    assert graph.graph.outputs[1].dtype is ir.DataType.FLOAT16


def test_double_precision_stays() -> None:
    g = Builder()
    x = g.input("x", 8)
    y = g.op("Cast", g.op("Exp", g.op("Cast", x, to=TensorProto.DOUBLE)), to=TensorProto.FLOAT)
    graph = assert_close(g.model(g.op("Add", x, y)))
    assert types_of(graph, "Exp") == {ir.DataType.DOUBLE}


def test_int64_inputs_and_embeddings() -> None:
    g = Builder()
    ids = g.input("ids", 4, dtype=np.int64)
    table = g.constant(g.random.standard_normal((16, 8)))
    assert_close(g.model(g.linear(g.op("Gather", table, ids), 8, 8)))


def test_twice_is_the_same_as_once() -> None:
    graph = converted(MODELS["conv_relu"]())
    before = [(n.op_type, n.name) for n in graph.graph]
    again = to_fp16(graph)
    check_model(again, "model")
    inputs = random_inputs(again)
    assert run(again, inputs)
    assert len(before) <= len(list(again.graph)) <= len(before) + 2
