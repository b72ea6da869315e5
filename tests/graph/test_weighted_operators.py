"""Coverage of CPU models is checked against what ONNX Runtime makes of them: it writes its optimized model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from quantkit.errors import ModelError
from quantkit.graph.model import save_model
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.quantize_cpu import cpu_tensors, quantize_for_cpu
from quantkit.graph.weighted_operators import Producer, find_producers, weighted_coverage, weighted_types

from .builder import Builder
from .models import MODELS
from .quantizing import load, observe, quantize, quantized, random_inputs

INTEGER_OPS = {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "ConvInteger", "DynamicQuantizeMatMul"}


def prepared(model: onnx.ModelProto):
    return prepare(load(model), name="model")


def types_in_onnxruntime(path: Path) -> dict[str, str]:
    """Operator type by node name, as ONNX Runtime runs the model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {node.name: node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def is_integer(name: str, types: dict[str, str]) -> bool:
    found = [kind for node, kind in types.items() if node == name or node.startswith(f"{name}/")]
    return any(kind in INTEGER_OPS for kind in found)


NOT_FOR_CPU = ["matmul_batched_constant", "matmul_constant_left"]
"""Models without an operator that has an integer kernel in ONNX Runtime."""


@pytest.mark.parametrize("name", NOT_FOR_CPU)
def test_models_that_are_not_for_the_cpu(name: str) -> None:
    with pytest.raises(ModelError, match="no node to quantize"):
        cpu_tensors(prepared(MODELS[name]()))


@pytest.mark.parametrize("name", sorted(MODELS.keys() - set(NOT_FOR_CPU)))
def test_cpu_models_run_as_it_says(name: str, tmp_path) -> None:
    model = MODELS[name]()
    tensors = cpu_tensors(prepared(model))
    graph, plan = quantize_for_cpu(prepared(model), observe(model, tensors, random_inputs(load(model))))
    save_model(graph, tmp_path / "int8.onnx")
    types = types_in_onnxruntime(tmp_path / "int8.onnx")
    found = weighted_coverage(prepare(load(onnx.load(tmp_path / "int8.onnx")), name="int8"), prepared(model))
    assert {o.name: o.is_quantized for o in found} == {o.name: is_integer(o.name, types) for o in found}
    assert {o.name for o in found if o.is_quantized} == {edge.node for edge in plan.weights}
    assert all(o.reason for o in found if not o.is_quantized)


@pytest.mark.parametrize("zero", [0, 100])
def test_a_convolution_for_onnxruntime_needs_its_output_quantized(zero, tmp_path) -> None:
    g = Builder()
    x = g.input("x", 16, 8, 8)
    scale, shift = g.constant(0.1), g.constant(0.25)
    zero_point = onnx.numpy_helper.from_array(np.array(zero, np.uint8), "zero_point")
    weight_zero = onnx.numpy_helper.from_array(np.array(0, np.int8), "weight_zero")
    codes = onnx.numpy_helper.from_array(g.random.integers(-127, 127, (16, 16, 3, 3)).astype(np.int8), "codes")
    g.initializers += [zero_point, weight_zero, codes]

    def through(value: str) -> str:
        return g.op("DequantizeLinear", g.op("QuantizeLinear", value, scale, "zero_point"), scale, "zero_point")

    def conv(value: str, name: str) -> str:
        return g.op("Conv", value, g.op("DequantizeLinear", "codes", scale, "weight_zero"), name=name, pads=[1] * 4)

    y = conv(through(x), "requantized")
    y = conv(through(y), "behind_relu")
    y = conv(through(g.op("Relu", y)), "read_as_float")
    y = conv(through(g.op("Add", y, shift)), "an_output")
    model = g.model(y)
    onnx.save(model, tmp_path / "int8.onnx")
    types = types_in_onnxruntime(tmp_path / "int8.onnx")
    found = weighted_coverage(prepared(model), prepared(MODELS["conv_relu"]()))
    assert {o.name: o.is_quantized for o in found} == {
        "requantized": True,
        "behind_relu": zero == 0,  # else the Relu is not what the codes do
        "read_as_float": False,
        "an_output": False,
    }
    assert {o.name: o.is_quantized for o in found} == {o.name: is_integer(o.name, types) for o in found}
    assert [bool(o.reason) for o in found] == [not o.is_quantized for o in found]
    assert "output is not quantized" in found[-1].reason


@pytest.mark.parametrize("name", ["residual_identity", "conv_bn_relu", "depthwise"])
def test_what_is_placed_for_tensorrt_is_int8_by_its_rules(name: str) -> None:
    made = quantized(name)
    found = weighted_coverage(made.graph, prepared(MODELS[name]()))
    assert [(o.name, o.op_type) for o in found] == list(weighted_types(prepared(MODELS[name]())).items())
    assert all(o.is_quantized for o in found)


def test_excluded_nodes_are_float_and_float_models_have_none() -> None:
    model = MODELS["conv_relu"]()
    first, second = weighted_types(prepared(model))
    found = weighted_coverage(quantize(model, exclude=(second,)).graph, prepared(model))
    assert {o.name: o.is_quantized for o in found} == {first: True, second: False}
    assert weighted_coverage(prepared(model), prepared(model)) == ()


def test_names_are_those_of_the_original() -> None:
    model = MODELS["conv_relu"]()
    original = prepared(model)
    made = quantized("conv_relu").proto
    for i, node in enumerate(made.graph.node):
        node.name = "" if node.op_type == "Conv" else f"node{i}"
    assert [o.name for o in weighted_coverage(prepared(made), original)] == list(weighted_types(original))


def test_producers_in_network_order() -> None:
    g = Builder()
    y = g.op("Relu", g.conv(g.input("x", 8, 4, 4), 8, 8, name="c"), name="r")
    y = g.op("Clip", y, g.constant(-1.0), g.constant(6.0), name="six")
    found = find_producers(prepared(g.model(y)))
    infinite = (-np.inf, np.inf)
    assert list(found.values()) == [
        Producer("input", *infinite),
        Producer("Conv c", *infinite),
        Producer("Relu r", 0.0, np.inf),
        Producer("Clip six", -1.0, 6.0),
    ]
