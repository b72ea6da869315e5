"""Matrix products under other names are MatMul, Gemm and Conv, and compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.tensorrt import plan_tensorrt

from ..builder import Builder
from ..quantizing import random_inputs, run

MICROSOFT = "com.microsoft"


def contrib() -> Builder:
    g = Builder()
    g.domains[MICROSOFT] = 1
    return g


def check(proto: onnx.ModelProto, kinds: set[str], *, planned: int = 1) -> None:
    """The prepared model has operators of these kinds, plans INT8 products and computes the same."""
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert {node.op_type for node in graph.graph} == kinds
    plan = plan_tensorrt(graph)
    assert len({edge.node for edge in plan.activations if not edge.shared}) == planned
    assert {edge.axis is None for edge in plan.weights} <= {False}
    inputs = random_inputs(graph)
    found = run(graph, inputs)
    for name, values in run(proto, inputs).items():
        assert np.shape(found[name]) == np.shape(values)
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "left", "weight", "kinds"),
    [
        ("bnd,dk->bnk", (5, 6), (6, 8), {"MatMul"}),
        ("bnd,dhk->bnhk", (5, 6), (6, 2, 4), {"MatMul", "Reshape"}),
        ("bnhk,hkd->bnd", (5, 2, 3), (2, 3, 8), {"Reshape", "MatMul"}),
        ("bnd,dhk->bhnk", (5, 6), (6, 2, 4), {"MatMul", "Reshape", "Transpose"}),
        ("bdn,kd->bnk", (6, 5), (8, 6), {"Transpose", "MatMul"}),
        ("bnd, kd", (5, 6), (8, 6), {"MatMul", "Transpose"}),
    ],
)
def test_einsum_with_a_weight(equation, left, weight, kinds) -> None:
    g = Builder()
    check(g.model(g.op("Einsum", g.input("x", *left), g.weight(*weight), equation=equation)), kinds)


def test_einsum_with_the_weight_in_front() -> None:
    g = Builder()
    proto = g.model(g.op("Einsum", g.weight(6, 8), g.input("x", 5, 6), equation="dk,bnd->bnk", name="project"))
    check(proto, {"MatMul"})
    assert [node.name for node in FloatModel(proto.SerializeToString()).prepared().graph] == ["project"]


@pytest.mark.parametrize(
    ("equation", "second", "kinds"),
    [
        ("bnhk,bmhk->bhnm", (7, 2, 4), {"Transpose", "MatMul"}),
        ("bnhk,bhkm->bnhm", (2, 4, 7), {"Transpose", "MatMul"}),
    ],
)
def test_einsum_of_two_activations(equation, second, kinds) -> None:
    g = Builder()
    check(g.model(g.op("Einsum", g.input("q", 5, 2, 4), g.input("k", *second), equation=equation)), kinds)


@pytest.mark.parametrize("equation", ["bnd,bnd->bn", "bnd,dk->nk", "...d,dk->...k", "bnd,dd->bn"])
def test_einsum_that_is_no_matrix_product_stays(equation: str) -> None:
    g = Builder()
    second = g.input("y", 6, 6) if equation.startswith("bnd,bnd") else g.weight(6, 6)
    node = g.op("Einsum", g.input("x", 6, 6), second, equation=equation)
    graph = FloatModel(g.model(g.op("Add", node, node)).SerializeToString()).prepared()
    assert "Einsum" in {node.op_type for node in graph.graph}


@pytest.mark.parametrize("options", [{"alpha": 0.5}, {"alpha": 3.0, "beta": 2.0, "transB": 1}, {"beta": 0.25}])
def test_gemm_that_scales(options: dict[str, float]) -> None:
    g = Builder()
    weight = g.weight(8, 6) if options.get("transB") else g.weight(6, 8)
    proto = g.model(g.op("Gemm", g.input("x", 6), weight, g.weight(8), **options))
    check(proto, {"Gemm"})
    (node,) = FloatModel(proto.SerializeToString()).prepared().graph
    assert (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)) == (1.0, 1.0)


def test_gemm_that_transposes_its_input() -> None:
    g = Builder(batch=6)
    check(g.model(g.op("Gemm", g.input("x", 3), g.weight(6, 8), transA=1)), {"Transpose", "Gemm"})


def test_gemm_that_scales_a_product_of_activations_keeps_its_factor() -> None:
    g = Builder(batch=4)
    proto = g.model(g.op("Gemm", g.input("x", 4), g.input("y", 4), g.input("z", 4), alpha=2.0, beta=3.0))
    check(proto, {"Gemm"})


@pytest.mark.parametrize("options", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.125}])
def test_fused_matmul_with_a_weight(options: dict[str, float]) -> None:
    g = contrib()
    x = g.input("x", 6, 5) if options.get("transA") else g.input("x", 5, 6)
    weight = g.weight(8, 6) if options.get("transB") else g.weight(6, 8)
    kinds = {"MatMul", "Relu"} | ({"Transpose"} if options.get("transA") else set())
    check(g.model(g.op("Relu", g.op("FusedMatMul", x, weight, domain=MICROSOFT, **options))), kinds)


def test_fused_matmul_of_two_activations_behind_another_operator() -> None:
    """Its operands' ranks are known from the runtime alone."""
    g = contrib()
    q = g.op("BiasGelu", g.input("x", 5, 8), g.weight(8), domain=MICROSOFT)
    proto = g.model(g.op("FusedMatMul", q, q, domain=MICROSOFT, transB=1, alpha=0.5))
    check(proto, {"BiasGelu", "Transpose", "MatMul", "Mul"})


ACTIVATIONS = {"Relu": [], "LeakyRelu": [0.1], "Clip": [0.0, 6.0], "HardSigmoid": [0.2, 0.5]}


@pytest.mark.parametrize(("activation", "parameters"), ACTIVATIONS.items())
def test_fused_conv(activation: str, parameters: list[float]) -> None:
    g = contrib()
    options = {"activation": activation} | ({"activation_params": parameters} if parameters else {})
    y = g.op("FusedConv", g.input("x", 3, 6, 6), g.weight(8, 3, 3, 3), g.weight(8), domain=MICROSOFT, **options)
    check(g.model(g.op("Add", y, y)), {"Conv", activation, "Add"})
