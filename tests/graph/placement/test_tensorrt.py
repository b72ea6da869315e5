from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantkit.errors import ModelError
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.onnxruntime_cpu import plan_cpu
from quantkit.graph.placement.tensorrt import (
    exact_patterns,
    exclude_tensors,
    float_activations,
    fused_source,
    match_nodes,
    plan_tensorrt,
    weight_axis,
)
from quantkit.types import QdqEdge, QdqPlan

from ..builder import Builder
from ..models import MODELS
from ..quantizing import load, quantize, random_inputs, run


def prepared(model: onnx.ModelProto):
    return prepare(load(model), name="model")


def plan_of(model: onnx.ModelProto, **options) -> QdqPlan:
    return plan_tensorrt(prepared(model), **options)


def edges(plan: QdqPlan, op_type: str) -> list[QdqEdge]:
    return [e for e in plan.activations if e.node.startswith(f"{op_type}_")]


def test_residual_quantizes_the_skip_and_not_the_branch() -> None:
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 8, 6, 6), 8, 8))
    branch = g.conv(g.op("Relu", g.conv(x, 8, 8)), 8, 8)
    y = g.op("Relu", g.op("Add", branch, x))
    plan = plan_of(g.model(g.conv(y, 8, 8)))
    (skip,) = edges(plan, "Add")
    assert (skip.tensor, skip.index) == (x, 1)
    assert plan.skipped[branch] == "fuses with Conv into Add"


def test_downsampling_residual_quantizes_the_short_branch() -> None:
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 8, 6, 6), 8, 8))
    short = g.conv(x, 8, 16, 1)
    long = g.conv(g.op("Relu", g.conv(x, 8, 16)), 16, 16)
    plan = plan_of(g.model(g.conv(g.op("Add", short, long), 16, 8)))
    (skip,) = edges(plan, "Add")
    assert (skip.tensor, skip.index) == (short, 0)


def test_residual_through_batch_norm() -> None:
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 8, 6, 6), 8, 8))
    branch = g.batch_norm(g.conv(x, 8, 8, bias=False), 8)
    plan = plan_of(g.model(g.conv(g.op("Relu", g.op("Add", x, branch)), 8, 8)))
    (skip,) = edges(plan, "Add")
    assert (skip.tensor, skip.index) == (x, 0)


@pytest.mark.parametrize("kind", ["bias", "doubled", "broadcast", "no convolution"])
def test_other_additions_are_no_residuals(kind: str) -> None:
    g = Builder()
    x = g.input("x", 8, 6, 6)
    y = g.conv(x, 8, 8)
    if kind == "bias":
        y = g.op("Add", y, g.constant(np.ones((8, 1, 1))))
    elif kind == "doubled":
        y = g.op("Add", y, y)
    elif kind == "broadcast":
        y = g.op("Add", y, g.op("GlobalAveragePool", x))
    else:
        y = g.op("Add", g.op("Relu", x), x)
    assert not edges(plan_of(g.model(g.conv(y, 8, 8))), "Add")


def test_transformer_residuals_stay_in_float() -> None:
    plan = plan_of(MODELS["attention"]())
    assert not edges(plan, "Add")
    assert any("it fuses in float" in reason for reason in plan.skipped.values())


def test_written_out_layer_norm_is_a_normalization() -> None:
    g = Builder()
    x = g.linear(g.input("x", 4, 16), 16, 16)
    x = g.op("Add", x, g.linear(g.op("Relu", x), 16, 16))
    centred = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1]))
    plan = plan_of(g.model(g.linear(centred, 16, 16)))
    assert x not in plan.tensors
    assert plan.skipped[x] == "normalization input: stays in float"


def test_softmax_and_layer_norm_inputs_stay_in_float() -> None:
    model = MODELS["attention"]()
    plan = plan_of(model)
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert node.input[0] not in plan.tensors
            assert node.input[0] in plan.skipped


def test_one_projection_for_query_key_and_value_gets_one_scale() -> None:
    model = MODELS["attention_one_projection"]()
    plan = plan_of(model)
    axes = {e.node: e.axis for e in plan.weights}
    first = next(n.name for n in model.graph.node if n.op_type == "MatMul")
    assert axes.pop(first) is None
    assert set(axes.values()) == {1}


def test_a_gated_layer_keeps_its_scales_per_channel() -> None:
    g = Builder()
    y = g.linear(g.input("x", 4, 16), 16, 32)
    first = g.op("Split", y, g.constant(np.array([16, 16])), outputs=2, axis=2)
    y = g.op("Mul", first, g.op("Sigmoid", f"{first}1"))
    assert [e.axis for e in plan_of(g.model(g.linear(y, 16, 16))).weights] == [1, 1]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("conv_relu", [0, 0]),
        ("conv1d", [0, 0]),
        ("conv3d", [0, 0]),
        ("conv_transpose", [0, 1, 0]),
        ("gemm_transposed", [0, 0]),
        ("gemm_plain", [1, 1]),
        ("matmul", [1, 1]),
        ("matmul_batched_constant", [None]),
        ("matmul_constant_left", [0]),
    ],
)
def test_weight_axes(name: str, axes: list[int | None]) -> None:
    assert [e.axis for e in plan_of(MODELS[name]()).weights] == axes


def test_gemm_with_a_constant_left_operand() -> None:
    for transposed in (0, 1):
        g = Builder(batch=16)
        y = g.op("Gemm", g.constant(np.ones((16, 16))), g.input("x", 8), transA=transposed)
        graph = prepared(g.model(y))
        (node,) = graph.graph
        assert weight_axis(node, 0) == 0


def test_matmul_with_a_vector() -> None:
    g = Builder()
    y = g.op("MatMul", g.input("x", 4, 16), g.constant(g.random.standard_normal(16)))
    model = g.model(y)
    assert [e.axis for e in plan_of(model).weights] == [None]
    q = quantize(model)
    assert run(q.graph, q.inputs)[y].shape == (4, 4)


def test_gemm_with_a_transposed_activation() -> None:
    g = Builder(batch=16)
    y = g.op("Gemm", g.input("x", 8), g.constant(g.random.standard_normal((16, 4))), transA=1)
    q = quantize(g.model(y))
    assert len(q.plan.activations) == len(q.plan.weights) == 1
    assert run(q.graph, q.inputs)[y].shape == (8, 4)


def test_concat_groups_reach_through_copies() -> None:
    g = Builder()
    a = g.op("Relu", g.conv(g.input("x", 8, 6, 6), 8, 8))
    b = g.op("Relu", g.conv(a, 8, 8))
    pooled = g.op("MaxPool", g.op("Concat", a, b, axis=1), kernel_shape=[2, 2])
    plan = plan_of(g.model(g.conv(pooled, 16, 8), g.conv(b, 8, 8)))
    assert plan.groups == (frozenset({a, b, pooled}),)


def test_concat_of_floats_needs_no_scale() -> None:
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 8, 6, 6), 8, 8))
    plan = plan_of(g.model(g.op("Concat", g.conv(x, 8, 8), g.conv(x, 8, 8), axis=1)))
    assert plan.groups == ()
    assert plan.tensors == ("x", x)


def test_exclude_by_name_type_and_pattern() -> None:
    model = MODELS["stem_maxpool"]()
    for i, node in enumerate(n for n in model.graph.node if n.op_type == "Conv"):
        node.name = f"stage{i}/conv[0]"
    for pattern in ("stage0/conv[0]", "stage0/*"):
        plan = plan_of(model, exclude=[pattern])
        assert [e.node for e in plan.weights] == ["stage1/conv[0]"]
        assert plan.skipped["stage0/conv[0]"] == f"excluded by {pattern!r}"
    with pytest.raises(ModelError, match="no node to quantize: excluded by 'Conv'"):
        plan_of(model, exclude=["Conv"])
    with pytest.raises(ModelError, match="'Gemm' matches no node name and no operator type"):
        plan_of(model, exclude=["Gemm"])


def test_excluded_residual_add_stays_in_float() -> None:
    model = MODELS["residual_identity"]()
    plan = plan_of(model, exclude=["Add"])
    assert not edges(plan, "Add")
    adds = [n.name for n in model.graph.node if n.op_type == "Add"]
    assert all(plan.skipped[name] == "excluded by 'Add'" for name in adds)


def test_a_reason_survives_a_tensor_of_the_same_name() -> None:
    """Keras names a node like its output."""
    g = Builder()
    y = g.conv(g.conv(g.input("x", 8, 6, 6), 8, 8), 8, 8)
    model = g.model(y)
    last = model.graph.node[-1]
    last.name = last.output[0]
    assert plan_of(model, exclude=[last.name]).skipped[last.name] == f"excluded by {last.name!r}"


def test_nothing_to_quantize() -> None:
    g = Builder()
    with pytest.raises(ModelError, match="it has no Conv, ConvTranspose, Gemm or MatMul"):
        plan_of(g.model(g.op("Relu", g.input("x", 4))))


@pytest.mark.parametrize(("dtype", "word"), [(np.float64, "DOUBLE"), (None, "BFLOAT16")])
def test_other_element_types_stay_as_they_are(dtype: type | None, word: str) -> None:
    g = Builder()
    x = g.input("x", 8)
    kind = TensorProto.DOUBLE if dtype else TensorProto.BFLOAT16
    y = g.op("MatMul", g.op("Cast", x, to=kind), g.op("Cast", g.constant(np.ones((8, 8))), to=kind))
    y = g.op("Cast", y, to=TensorProto.FLOAT)
    model = g.model(g.gemm(y, 8, 4))
    plan = plan_of(model)
    assert [e.node.split("_")[0] for e in plan.weights] == ["Gemm"]
    assert f"its inputs are {word}, not FP32 or FP16" in plan.skipped.values()


def test_operators_of_other_domains_stay_in_float() -> None:
    """What reads them is quantized, since ONNX Runtime tells their types."""
    g = Builder()
    g.domains["com.microsoft"] = 1
    y = g.op("QuickGelu", g.input("x", 8, 6, 6), domain="com.microsoft")
    model = g.model(g.conv(y, 8, 8), g.conv("x", 8, 8))
    assert [e.tensor for e in plan_of(model).activations] == [y, "x"]
    q = quantize(model)
    assert set(run(q.graph, q.inputs)) == {value.name for value in model.graph.output}


def test_weights_computed_at_run_time() -> None:
    g = Builder()
    x = g.input("x", 8, 6, 6)
    weight = g.op("Mul", g.weight(8, 8, 1, 1), g.op("ReduceMean", x, axes=[0, 1, 2, 3]))
    y = g.op("Conv", x, weight, kernel_shape=[1, 1])
    plan = plan_of(g.model(g.conv(y, 8, 8)))
    assert "its weight is computed at run time" in plan.skipped.values()
    assert len(plan.weights) == 1


def test_a_shared_weight_is_listed_for_its_float_reader() -> None:
    model = MODELS["tied_embedding"]()
    plan = plan_of(model)
    table = next(n.input[0] for n in model.graph.node if n.op_type == "Gather")
    assert table in {e.tensor for e in plan.weights}
    assert plan.skipped[table] == "constant of Gather"


def test_what_a_branch_reads_counts_as_read() -> None:
    """A convolution whose output a sub-graph reads too cannot fuse into the Add behind it."""
    graph = prepared(MODELS["subgraph"]())
    outer = next(n for n in graph.graph if n.op_type == "Conv")
    assert fused_source(outer.outputs[0]) is outer
    relu = outer.outputs[0].uses()[0].node
    assert len(relu.outputs[0].uses()) > 1
    assert fused_source(relu.outputs[0]) is None


def test_nodes_of_branches_are_left_alone() -> None:
    plan = plan_of(MODELS["subgraph"]())
    assert "inner_conv" not in {e.node for e in plan.weights}


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_a_weight_that_a_loop_reads_too_is_not_stored_twice(target: str) -> None:
    """Keras writes an LSTM as a Loop, with the product of its first step outside."""
    g = Builder()
    x = g.linear(g.input("x", 64), 64, 64)
    weight = g.constant(np.ones((64, 64), np.float32), "shared")
    first = g.op("MatMul", x, weight, name="first")
    step = [helper.make_node("MatMul", [first, "shared"], ["inner"]), helper.make_node("Relu", ["inner"], ["more"])]
    branch = helper.make_graph(step, "b", [], [helper.make_tensor_value_info("more", TensorProto.FLOAT, None)])
    other = helper.make_graph(
        [helper.make_node("Relu", [first], ["less"])],
        "o",
        [],
        [helper.make_tensor_value_info("less", TensorProto.FLOAT, None)],
    )
    flag = g.op("Greater", g.op("ReduceMean", x, keepdims=0), g.constant(0.0))
    graph = prepared(g.model(g.op("If", flag, then_branch=branch, else_branch=other)))
    plan = plan_tensorrt(graph) if target == "tensorrt" else plan_cpu(graph)
    assert plan.skipped["first"].startswith("a sub-graph reads its weight")
    assert len(plan.weights) == 1


def test_a_weight_that_a_loop_carries_is_not_stored_twice() -> None:
    g = Builder()
    x = g.linear(g.input("x", 64), 64, 64)
    weight = g.constant(np.ones((64, 64), np.float32), "shared")
    first = g.op("MatMul", x, weight, name="first")
    ports = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("w", TensorProto.FLOAT, [64, 64])]
    inputs = [helper.make_tensor_value_info(*port) for port in ports]
    outputs = [helper.make_tensor_value_info(n, t, s) for n, t, s in [("on", *ports[1][1:]), ("v", *ports[2][1:])]]
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["w"], ["v"])]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    last = g.op("Loop", g.constant(np.array(3)), "", weight, body=body)
    plan = plan_tensorrt(prepared(g.model(g.op("Add", first, g.op("ReduceSum", last, keepdims=0)))))
    assert plan.skipped["first"].startswith("a sub-graph reads its weight")


def test_without_tensors_that_have_no_range() -> None:
    model = MODELS["concat_of_read_inputs"]()
    plan = plan_of(model)
    (group,) = plan.groups
    gone = dict.fromkeys(group, "always zero")
    less = exclude_tensors(plan, gone)
    assert not gone.keys() & set(less.tensors)
    assert less.groups == ()
    assert len(less.activations) == len(less.weights) == 1
    # Every tensor that was quantized still is, or has a reason.
    for edge in (*plan.activations, *plan.weights):
        still = {e.tensor for e in (*less.activations, *less.weights)}
        assert edge.tensor in still or less.skipped[edge.tensor]
    for edge in set(plan.weights) - set(less.weights):
        assert less.skipped[edge.node] == "it reads a tensor that is always zero"
        assert less.skipped[edge.tensor] == "read by an operator that runs in float"  # one reason for all of them
    assert exclude_tensors(plan, {}) is plan


def test_observable_leaves_constants_out() -> None:
    graph = prepared(MODELS["weight_from_constant_node"]())
    names = float_activations(graph)
    assert "weight" not in names
    assert names[0] == "x"
    assert len(names) == len(set(names))


def test_the_plan_is_the_same_for_every_batch_form() -> None:
    for name in ("residual_identity", "attention_one_projection", "dense_concat"):
        dynamic, fixed = (plan_of(MODELS[name](batch=batch)) for batch in ("N", 2))
        assert (dynamic.activations, dynamic.weights, dynamic.groups) == (
            fixed.activations,
            fixed.weights,
            fixed.groups,
        )


def test_local_functions_are_inlined() -> None:
    g = Builder()
    nodes = [helper.make_node("Conv", ["a", "w"], ["b"], kernel_shape=[1, 1]), helper.make_node("Relu", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    g.functions.append(helper.make_function("local", "ConvRelu", ["a", "w"], ["c"], nodes, opsets))
    g.domains["local"] = 1
    x = g.input("x", 8, 6, 6)
    y = g.op("ConvRelu", x, g.weight(8, 8, 1, 1), domain="local")
    z = g.op("ConvRelu", y, g.weight(8, 8, 1, 1), domain="local")
    model = g.model(z)
    q = quantize(model)
    assert len(q.plan.weights) == 2
    names = [n.name for n in q.graph.graph]
    assert len(names) == len(set(names))
    assert run(q.graph, q.inputs)[z].shape == run(model, random_inputs(load(model)))[z].shape


def test_excluded_names_every_match() -> None:
    graph = prepared(MODELS["conv_relu"]())
    assert len(match_nodes(graph, ["Relu", "Conv"])) == 4


@pytest.mark.parametrize("name", ["conv[1]", "conv*", "conv?", "[a]", "Conv", "Relu", "plain"])
def test_an_exact_pattern_matches_one_node_whatever_its_name(name: str) -> None:
    model = MODELS["conv_relu"]()
    for node, other in zip(model.graph.node, [name, "conv1", "a", "b"], strict=False):
        node.name = other
    graph = load(model)
    assert list(match_nodes(graph, exact_patterns(graph, [name]))) == [name]
