"""Types that ONNX's inference does not tell."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.backends import onnxruntime as runtime
from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.types.running import TYPE_SOURCES

from ..builder import Builder


def group_norm() -> onnx.ModelProto:
    g = Builder(opset=21)
    y = g.conv(g.input("x", 3, 6, 6), 3, 8)
    for _ in range(2):
        y = g.op("GroupNormalization", y, g.constant(np.ones(8)), g.constant(np.zeros(8)), num_groups=2)
        y = g.conv(g.op("Relu", y), 8, 8)
    return g.model(y)


def fused(op_type: str, *, domain: str = "com.microsoft") -> onnx.ModelProto:
    g = Builder()
    g.domains[domain] = 1
    y = g.op(op_type, g.linear(g.input("x", 5, 8), 8, 8), g.weight(8), domain=domain)
    return g.model(g.linear(y, 8, 8))


def test_a_type_from_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.graph.passes.element_types.TYPE_SOURCES", {})
    graph = FloatModel(group_norm().SerializeToString()).prepared()
    assert len(plan_tensorrt(graph).weights) == 3
    values = [value for node in graph.graph for value in node.outputs if not value.is_graph_output()]
    assert {value.dtype for value in values} == {ir.DataType.FLOAT}
    assert {tuple(value.shape)[1:] for value in values} == {(8, 6, 6)}


def test_a_type_from_the_runtime() -> None:
    assert TYPE_SOURCES["onnxruntime"] is runtime.infer_output_types
    graph = FloatModel(fused("BiasGelu").SerializeToString()).prepared()
    assert len(plan_tensorrt(graph).weights) == 2


def test_the_weight_of_a_reader_tells_the_type_behind_an_unknown_operator() -> None:
    plan = plan_tensorrt(FloatModel(fused("Swirl", domain="lab.test").SerializeToString()).prepared())
    assert len(plan.weights) == 2


def test_an_operator_that_no_runtime_knows_is_named() -> None:
    g = Builder()
    g.domains["lab.test"] = 1
    y = g.op("Swirl", g.linear(g.input("x", 5, 8), 8, 8), domain="lab.test")
    product = g.op("MatMul", y, g.op("Transpose", y, perm=[0, 2, 1]))
    plan = plan_tensorrt(FloatModel(g.model(product).SerializeToString()).prepared())
    assert len(plan.weights) == 1
    expected = "the type of its inputs is unknown: no runtime here knows the operator lab.test.Swirl before it"
    assert expected in plan.skipped.values()
