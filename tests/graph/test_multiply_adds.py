"""Multiply-adds against the model itself: with ones for weights and inputs each product adds one to the output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.graph.multiply_adds import multiply_adds
from quantkit.graph.passes.prepare import prepare

from .builder import Builder
from .quantizing import load, run

MODELS: dict[str, Callable[[Builder], str]] = {
    "conv": lambda g: g.op("Conv", g.input("x", 6, 9, 8), ones(g, 4, 6, 3, 2)),
    "strided": lambda g: g.op("Conv", g.input("x", 6, 9, 8), ones(g, 4, 6, 3, 3), strides=[2, 3]),
    "dilated": lambda g: g.op("Conv", g.input("x", 6, 9, 8), ones(g, 4, 6, 3, 3), dilations=[2, 1]),
    "grouped": lambda g: g.op("Conv", g.input("x", 6, 9, 8), ones(g, 4, 3, 3, 3), group=2),
    "depthwise": lambda g: g.op("Conv", g.input("x", 6, 9, 8), ones(g, 6, 1, 3, 3), group=6),
    "one dimension": lambda g: g.op("Conv", g.input("x", 6, 9), ones(g, 4, 6, 3)),
    "three dimensions": lambda g: g.op("Conv", g.input("x", 2, 4, 5, 6), ones(g, 3, 2, 2, 3, 3)),
    "transposed": lambda g: g.op("ConvTranspose", g.input("x", 6, 5, 4), ones(g, 6, 3, 3, 2), strides=[2, 1]),
    "transposed, grouped": lambda g: g.op("ConvTranspose", g.input("x", 6, 5, 4), ones(g, 6, 3, 2, 2), group=2),
    "gemm": lambda g: g.op("Gemm", g.input("x", 7), ones(g, 7, 5)),
    "gemm, transposed weight": lambda g: g.op("Gemm", g.input("x", 7), ones(g, 5, 7), transB=1),
    "matmul": lambda g: g.op("MatMul", g.input("x", 6, 7), ones(g, 7, 5)),
    "matmul, stacked": lambda g: g.op("MatMul", g.input("x", 3, 6, 7), ones(g, 3, 7, 5)),
    "matmul, one stack for all": lambda g: g.op("MatMul", g.input("x", 6, 7), ones(g, 4, 1, 7, 5)),
    "matmul, weight on the left": lambda g: g.op("MatMul", ones(g, 5, 7), g.input("x", 7, 6)),
}


def ones(g: Builder, *shape: int) -> str:
    return g.constant(np.ones(shape))


def model(name: str) -> onnx.ModelProto:
    g = Builder(batch=2)
    return g.model(MODELS[name](g))


@pytest.mark.parametrize("name", MODELS)
def test_as_many_as_products_arrive_in_the_output(name: str) -> None:
    graph: ir.Model = prepare(load(model(name)), name="model")
    (x,) = graph.graph.inputs
    inputs = {"x": np.ones([int(size) for size in x.shape], np.float32)}
    ((output, values),) = run(graph, inputs).items()
    found = multiply_adds(graph, {"x": inputs["x"].shape, output: values.shape})
    assert list(found.values()) == [int(values.sum())]


def test_what_has_no_known_shape_counts_nothing() -> None:
    graph = prepare(load(model("conv")), name="model")
    assert list(multiply_adds(graph, {}).values()) == [0]


def test_a_product_of_activations_counts_too() -> None:
    g = Builder()
    x = g.input("x", 4, 4)
    y = g.op("MatMul", x, x, name="scores")
    graph = prepare(load(g.model(g.op("MatMul", y, ones(g, 4, 3), name="head"))), name="model")
    shapes = {"x": (1, 4, 4), "scores_out": (1, 4, 4), "head_out": (1, 4, 3)}
    assert multiply_adds(graph, shapes) == {"scores": 64, "head": 48}
