from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import ModelError
from quantkit.graph.model import check_model
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.numerics import QuantParams

from ..builder import Builder
from ..models import MODELS
from ..quantizing import load, quantize, quantized, run


def inserted(model, *, scale: float = 0.05, **options):
    graph = prepare(load(model), name="model")
    plan = plan_tensorrt(graph)
    params = {e.tensor: QuantParams(scale=np.float32(scale)) for e in plan.activations}
    return insert_qdq(graph, plan, params, **options)


def test_names_that_are_taken() -> None:
    g = Builder()
    x = g.input("x", 8, 4, 4)
    clash = g.conv(x, 8, 8)
    model = g.model(g.conv(clash, 8, 8))
    nodes = model.graph.node
    nodes[0].output[0] = nodes[1].input[0] = "x_quantized"
    nodes[1].name = "x_QuantizeLinear"
    model.graph.initializer[0].name = nodes[0].input[1] = "x_scale"
    q = quantize(model)
    check_model(q.graph, "model")
    assert set(run(q.graph, q.inputs)) == {model.graph.output[0].name}


def test_names_that_a_branch_has() -> None:
    """A new name in the main graph must not be one of a sub-graph's, which would hide it."""
    model = MODELS["subgraph"]()
    node = next(n for n in model.graph.node if n.op_type == "If")
    inner = node.attribute[0].g
    inner.node[0].output[0] = inner.output[0].name = "x_quantized"
    inner.initializer.add().CopyFrom(model.graph.initializer[-1])
    inner.initializer[0].name = "x_scale"
    check_model(quantize(model).graph, "model")


def test_one_q_for_all_readers() -> None:
    g = Builder()
    x = g.input("x", 8, 4, 4)
    a, b = g.conv(x, 8, 8), g.conv(x, 8, 8)
    graph = inserted(g.model(a, b, g.op("Relu", x))).graph
    (q,) = (n for n in graph if n.op_type == "QuantizeLinear")
    (dq,) = (user for user, _ in q.outputs[0].uses())
    assert {user.op_type for user, _ in dq.outputs[0].uses()} == {"Conv"}
    (relu,) = (n for n in graph if n.op_type == "Relu")
    assert relu.inputs[0].name == "x"


def test_one_copy_of_a_shared_weight_and_a_dq_for_each_reader() -> None:
    graph = quantized("shared_weight").graph.graph
    codes = [n.inputs[0] for n in graph if n.op_type == "DequantizeLinear" and n.inputs[0].is_initializer()]
    assert len(codes) == 3
    assert len({v.name for v in codes}) == 2
    assert all(len(n.outputs[0].uses()) == 1 for n in graph if n.op_type == "DequantizeLinear" and n.inputs[0] in codes)


def test_a_weight_of_two_axes_is_stored_for_each() -> None:
    """A square table read by Gemm as it is and transposed has its output channels along two axes."""
    g = Builder()
    table = g.constant(g.random.standard_normal((16, 16)))
    x = g.input("x", 16)
    model = g.model(g.op("Gemm", x, table), g.op("Gemm", x, table, transB=1))
    q = quantize(model)
    assert sorted(e.axis for e in q.plan.weights) == [0, 1]
    check_model(q.graph, "model")


def test_a_shared_weight_stays_in_float_for_other_readers() -> None:
    graph = quantized("tied_embedding").graph.graph
    (gather,) = (n for n in graph if n.op_type == "Gather")
    assert gather.inputs[0].const_value.dtype.name == "FLOAT"


def test_outputs_keep_their_names_and_float_values() -> None:
    model = MODELS["output_read_inside"]()
    q = quantized("output_read_inside")
    read = q.graph.graph.outputs[0]
    assert read.name == model.graph.output[0].name
    assert read.producer().op_type == "Relu"
    assert "QuantizeLinear" in {user.op_type for user, _ in read.uses()}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad: float) -> None:
    g = Builder()
    weight = np.ones((8, 8, 1, 1))
    weight[0] = bad
    x = g.input("x", 8, 4, 4)
    y = g.op("Conv", x, g.constant(weight, "kernel"), name="conv", kernel_shape=[1, 1])
    with pytest.raises(ModelError, match="weight 'kernel' of node 'conv' contains NaN or infinite values"):
        inserted(g.model(y))


def test_channels_of_zeros_get_a_positive_scale() -> None:
    g = Builder()
    weight = g.random.standard_normal((8, 8, 1, 1))
    weight[3] = 0
    y = g.op("Conv", g.input("x", 8, 4, 4), g.constant(weight), kernel_shape=[1, 1])
    for options in ({}, {"fp16_scales": True}):
        graph = inserted(g.model(y), **options).graph
        scales = [v.const_value.numpy() for n, v in graph.initializers.items() if n.endswith("_scale")]
        assert all((s > 0).all() and np.isfinite(s).all() for s in scales)


def test_tiny_scales_survive_fp16() -> None:
    graph = inserted(MODELS["conv_relu"](), scale=1e-12, fp16_scales=True)
    scales = [v.const_value.numpy() for n, v in graph.graph.initializers.items() if n.endswith("_scale")]
    assert all((s.astype(np.float16) > 0).all() for s in scales)
    assert all((s.astype(np.float16).astype(np.float32) == s).all() for s in scales)


def test_fp16_tensors_get_fp16_scales_that_their_codes_were_made_with() -> None:
    graph = inserted(MODELS["conv_relu"](dtype=np.float16), scale=1e-12)
    scales = [v.const_value.numpy() for n, v in graph.graph.initializers.items() if n.endswith("_scale")]
    assert {s.dtype for s in scales} == {np.dtype(np.float16)}
    assert all((s > 0).all() for s in scales)


def test_a_plan_of_another_model() -> None:
    plan = plan_tensorrt(prepare(load(MODELS["conv_relu"]()), name="model"))
    graph = prepare(load(MODELS["gemm_plain"]()), name="model")
    with pytest.raises(ModelError, match=r"the plan does not fit the model: node 'Conv_\d+' does not read 'x'"):
        insert_qdq(graph, plan, {})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["conv", "gemm", "matmul"]))
def test_stored_weights_are_the_nearest_codes(seed: int, kind: str) -> None:
    g = Builder(seed=seed)
    if kind == "conv":
        y = g.conv(g.input("x", 3, 4, 4), 3, 5, bias=False)
    elif kind == "gemm":
        y = g.gemm(g.input("x", 6), 6, 5)
    else:
        y = g.linear(g.input("x", 2, 6), 6, 5)
    model = g.model(y)
    original = {i.name: np.frombuffer(i.raw_data, np.float32).reshape(i.dims) for i in model.graph.initializer}
    q = quantize(model)
    (edge,) = q.plan.weights
    node = q.graph.graph.node(edge.node)
    codes, scale, _ = (v.const_value.numpy() for v in node.inputs[edge.index].producer().inputs)
    shape = [1] * codes.ndim
    shape[edge.axis] = -1
    weight = original[edge.tensor]
    assert (np.abs(codes * scale.reshape(shape) - weight) <= scale.reshape(shape) * 0.5001).all()
    others = tuple(i for i in range(weight.ndim) if i != edge.axis)
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=others) / 127, rtol=1e-6)


def test_a_scale_beyond_fp16_is_refused_by_name() -> None:
    g = Builder()
    model = g.model(g.conv(g.input("x", 8, 4, 4), 8, 8))
    with pytest.raises(ModelError, match=r"^the scale 1e\+05 of 'x' is beyond FP16: "):
        inserted(model, scale=1e5, fp16_scales=True)
