"""Every kind of model: structure of the Q/DQ graph against TensorRT's rules, onnx.checker, ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.graph.model import check_model
from quantkit.graph.passes.prepare import FLOAT_TYPES, WEIGHTED_OPS, is_standard, prepare
from quantkit.graph.placement.tensorrt import float_activations

from .builder import Builder
from .models import MODELS
from .quantizing import Quantized, load, quantize, quantized, run, sqnr_db

PRECISIONS = ("fp32", "fp16")


def every(test):
    return pytest.mark.parametrize("precision", PRECISIONS)(pytest.mark.parametrize("name", list(MODELS))(test))


@every
def test_checker_and_onnx_runtime_accept_it(name: str, precision: str) -> None:
    q = quantized(name, precision)
    check_model(q.graph, name)
    expected = run(MODELS[name](), q.inputs)
    found = run(q.graph, q.inputs)
    assert list(found) == list(expected)
    for output, values in expected.items():
        assert found[output].dtype == values.dtype
        # FP16 sums of a residual cost up to 9 dB in ONNX Runtime 1.23, and none since.
        assert sqnr_db(values, found[output]) > (25 if precision == "fp32" else 20), output


@every
def test_quantize_linear(name: str, precision: str) -> None:
    """One Q for each tensor, per tensor, rank-0 scale, INT8, zero point 0; FP16 scales only at opset 19 and later."""
    graph = quantized(name, precision).graph
    sources = []
    for node in graph.graph:
        if node.op_type != "QuantizeLinear":
            continue
        x, scale, zero_point = (v for v in node.inputs if v is not None)
        sources.append(x.name)
        assert scale.const_value.shape.numpy() == ()
        assert scale.const_value.numpy() > 0
        assert zero_point.const_value.shape.numpy() == ()
        assert zero_point.const_value.dtype is ir.DataType.INT8
        assert zero_point.const_value.numpy() == 0
        assert "axis" not in node.attributes
        assert [user.op_type for user, _ in node.outputs[0].uses()] == ["DequantizeLinear"]
        assert scale.dtype is x.dtype
        if scale.dtype is ir.DataType.FLOAT16:
            assert graph.opset_imports[""] >= 19
    assert len(sources) == len(set(sources))
    assert (graph.opset_imports[""] >= 19) or precision == "fp32"


@every
def test_where_dequantized_values_go(name: str, precision: str) -> None:
    """To weighted operators, skip operands and what shares their Q: not to biases, outputs, softmax, LayerNorm."""
    q = quantized(name, precision)
    shared = {e.node for e in q.plan.activations if e.shared}
    planned = {(e.node, e.index) for e in (*q.plan.activations, *q.plan.weights)}
    found = set()
    for node in q.graph.graph:
        if node.op_type != "DequantizeLinear":
            continue
        assert not node.outputs[0].is_graph_output()
        for user, index in node.outputs[0].uses():
            assert user.op_type in (*WEIGHTED_OPS, "Add") or user.name in shared
            assert user.op_type in ("Add", "Concat") or index in (0, 1)
            found.add((user.name, index))
    assert found == planned
    outputs = {v.producer().op_type for v in q.graph.graph.outputs}
    assert not outputs & {"QuantizeLinear", "DequantizeLinear"}


@every
def test_both_operands_or_neither(name: str, precision: str) -> None:
    q = quantized(name, precision)
    for node in q.graph.graph:
        if is_standard(node, *WEIGHTED_OPS):
            producers = [node.inputs[i].producer() for i in (0, 1)]
            kinds = {p is not None and p.op_type == "DequantizeLinear" for p in producers}
            assert len(kinds) == 1
            assert kinds == {node.name not in q.plan.skipped}
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                assert node.inputs[2].producer() is None or node.inputs[2].producer().op_type == "Cast"


@every
def test_weights_are_int8(name: str, precision: str) -> None:
    """INT8 initializer + DQ, symmetric, per output channel along the operator's axis, a DQ for each reader."""
    q = quantized(name, precision)
    nodes = {n.name: n for n in q.graph.graph}
    for edge in q.plan.weights:
        dq = nodes[edge.node].inputs[edge.index].producer()
        assert len(dq.outputs[0].uses()) == 1
        codes, scale, zero_point = (v.const_value.numpy() for v in dq.inputs)
        assert codes.dtype == zero_point.dtype == np.int8
        assert codes.min() >= -127
        assert not zero_point.any()
        assert zero_point.shape == scale.shape
        assert (scale > 0).all()
        if edge.axis is None:
            assert scale.shape == ()
        else:
            assert dq.attributes["axis"].value == edge.axis
            assert scale.shape == (codes.shape[edge.axis],)
            others = tuple(i for i in range(codes.ndim) if i != edge.axis)
            # With FP16 scales, which are rounded up, the largest code may fall below 127.
            assert np.abs(codes).max(axis=others).min() >= (127 if precision == "fp32" else 126)


@every
def test_weights_shrink_fourfold(name: str, precision: str) -> None:
    q = quantized(name, precision)
    source = load(MODELS[name]())
    weights = {e.tensor for e in q.plan.weights}
    left = q.graph.graph.initializers
    for tensor in weights:
        others = {n.op_type for n in source.graph for v in n.inputs if v and v.name == tensor} - set(WEIGHTED_OPS)
        if not others:
            assert tensor not in left
    stored = sum(left[f"{t}_quantized"].const_value.nbytes for t in weights)
    original = sum(left[f"{t}_quantized"].const_value.size * 4 for t in weights)
    assert 4 * stored == original


@every
def test_everything_in_float_has_a_reason(name: str, precision: str) -> None:
    q = quantized(name, precision)
    graph = load(MODELS[name]())
    prepare(graph, name=name)
    quantized_tensors = {e.tensor for e in (*q.plan.activations, *q.plan.weights)}
    constants = {n for n, v in graph.graph.initializers.items() if v.dtype in FLOAT_TYPES}
    for tensor in {*float_activations(graph), *constants} - quantized_tensors:
        assert q.plan.skipped.get(tensor), tensor


@pytest.mark.parametrize("name", ["dense_concat", "concat_of_read_inputs"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_scale_across_a_concat(name: str, precision: str) -> None:
    q = quantized(name, precision)
    scales = {
        node.inputs[0].name: float(node.inputs[1].const_value.numpy())
        for node in q.graph.graph
        if node.op_type == "QuantizeLinear"
    }
    assert q.plan.groups
    for group in q.plan.groups:
        assert len({scales[tensor] for tensor in group}) == 1


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["residual_identity", "attention"])
def test_dynamic_batch_stays_dynamic(name: str, batch: int) -> None:
    q = quantized(name)
    assert str(q.graph.graph.inputs[0].shape[0]) == "N"
    inputs = {k: v[:batch] for k, v in q.inputs.items()}
    for values in run(q.graph, inputs).values():
        assert values.shape[0] == batch


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["conv_relu", "attention", "subgraph", "resize"])
def test_fixed_batch(name: str, precision: str) -> None:
    model = MODELS[name](batch=2)
    q = quantize(model, high_precision=precision)
    assert q.graph.graph.inputs[0].shape[0] == 2
    check_model(q.graph, name)
    for output, values in run(model, q.inputs).items():
        assert sqnr_db(values, run(q.graph, q.inputs)[output]) > 25


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["conv_relu", "residual_identity", "attention", "subgraph", "weight_through_cast"])
def test_fp16_models(name: str, precision: str) -> None:
    """Their scales are FP16, which takes opset 19, whatever the precision around INT8 is called."""
    model = MODELS[name](dtype=np.float16)
    q = quantize(model, high_precision=precision)
    check_model(q.graph, name)
    assert q.graph.opset_imports[""] >= 19
    for output, values in run(model, q.inputs).items():
        found = run(q.graph, q.inputs)[output]
        assert found.dtype == np.float16
        assert sqnr_db(values, found) > 20


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24])
@pytest.mark.parametrize("name", ["residual_identity", "inverted_residual", "resize", "dense_concat", "mlp_gelu"])
def test_opsets(name: str, opset: int) -> None:
    if opset > 22 and tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24):
        pytest.skip("this ONNX Runtime has no such opset")
    model = MODELS[name](opset=opset)
    q = quantize(model)
    check_model(q.graph, name)
    assert q.graph.opset_imports[""] == max(opset, 13)
    for output, values in run(model, q.inputs).items():
        assert sqnr_db(values, run(q.graph, q.inputs)[output]) > 25
    half = quantize(model, high_precision="fp16")
    check_model(half.graph, name)
    assert half.graph.opset_imports[""] == max(opset, 19)
    assert half.plan.tensors == q.plan.tensors
    assert half.plan.weights == q.plan.weights


@st.composite
def image_models(draw: st.DrawFn):
    """A random graph of convolutions, pointwise operators, skips and concatenations, all of the same image size."""
    g = Builder(opset=draw(st.sampled_from([11, 13, 17, 21])), seed=draw(st.integers(0, 99)))
    values = [(g.input("x", 8, 6, 6), 8)]
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(
            st.sampled_from(["conv", "depthwise", "relu", "sigmoid", "add", "mul", "concat", "pool", "split", "scale"])
        )
        value, channels = draw(st.sampled_from(values[-4:]))
        if kind == "conv":
            wanted = draw(st.sampled_from([4, 8]))
            made = g.conv(value, channels, wanted, draw(st.sampled_from([1, 3])), bias=draw(st.booleans())), wanted
        elif kind == "depthwise":
            made = g.conv(value, channels, channels, groups=channels), channels
        elif kind in ("add", "mul"):
            other = draw(st.sampled_from([v for v, c in values if c == channels]))
            # Gates, as networks have them: 8 bits do not hold the tails of products of products.
            made = g.op("Add", value, other) if kind == "add" else g.op("Mul", value, g.op("Sigmoid", other)), channels
        elif kind == "concat":
            other, more = draw(st.sampled_from(values))
            made = g.op("Concat", value, other, axis=1), channels + more
        elif kind == "pool":
            made = g.op("MaxPool", value, kernel_shape=[3, 3], pads=[1] * 4), channels
        elif kind == "split" and channels % 2 == 0:
            first = g.op(
                "Split",
                value,
                *([g.constant(np.array([channels // 2] * 2))] if g.opset >= 13 else []),
                outputs=2,
                axis=1,
            )
            values.append((first, channels // 2))
            made = f"{first}1", channels // 2
        elif kind == "scale":
            made = g.op("Mul", value, g.constant(np.full((1, channels, 1, 1), 0.7))), channels
        else:
            made = g.op("Relu" if kind == "relu" else "Sigmoid", value), channels
        values.append(made)
    last = g.conv(values[-1][0], values[-1][1], 8, 1)
    return g.model(*dict.fromkeys([last, draw(st.sampled_from([v for v, _ in values[1:]]))]))


def assert_works(model, q: Quantized) -> None:
    check_model(q.graph, "a random model")
    found = run(q.graph, q.inputs)
    for output, values in run(model, q.inputs).items():
        assert sqnr_db(values, found[output]) > 12
    left = {v.name for v in q.graph.graph.initializers.values() if v.dtype in FLOAT_TYPES}
    assert not {e.tensor for e in q.plan.weights} & (left - set(q.plan.skipped))


@settings(max_examples=25, deadline=None)
@given(image_models(), st.sampled_from(PRECISIONS))
def test_random_graphs(model, precision: str) -> None:
    assert_works(model, quantize(model, high_precision=precision))
