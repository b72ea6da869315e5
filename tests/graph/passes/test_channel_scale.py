"""Scaling the channels of activations changes nothing but what is quantized, and folds into constants where it can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import ModelError
from quantkit.graph.model import check_model
from quantkit.graph.passes.channel_scale import apply_channel_scales, is_foldable, scalable_tensors
from quantkit.graph.passes.input_channels import follow_edits, weight_amax, weight_rows
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.numerics import QuantParams

from ..builder import LOADABLE_OPSET, Builder
from ..models import MODELS, image
from .editing import own_edges, prepared, random_scales, scale

CLOSE = 1e-5

READERS: dict[str, Callable[[Builder, str], str]] = {
    "conv": lambda g, x: g.conv(x, 8, 12),
    "conv without bias": lambda g, x: g.conv(x, 8, 12, bias=False),
    "grouped conv": lambda g, x: g.conv(x, 8, 12, groups=2),
    "depthwise": lambda g, x: g.conv(x, 8, 8, groups=8),
    "depthwise multiplier": lambda g, x: g.conv(x, 8, 24, groups=8),
    "conv transpose": lambda g, x: g.op("ConvTranspose", x, g.weight(8, 6, 3, 3), strides=[2, 2]),
    "grouped conv transpose": lambda g, x: g.op("ConvTranspose", x, g.weight(8, 6, 3, 3), group=4),
    "three readers": lambda g, x: g.op("Add", g.conv(x, 8, 8), g.op("Relu", g.conv(x, 8, 8, groups=8))),
}

PRODUCERS: dict[str, Callable[[Builder, str], str]] = {
    "conv": lambda g, x: g.conv(x, 4, 8),
    "grouped conv": lambda g, x: g.conv(x, 4, 8, groups=2, bias=False),
    "conv bn": lambda g, x: g.batch_norm(g.conv(x, 4, 8), 8),
    "relu": lambda g, x: g.op("Relu", g.conv(x, 4, 8)),
    "bn relu": lambda g, x: g.op("Relu", g.batch_norm(g.conv(x, 4, 8, bias=False), 8)),
    "leaky relu": lambda g, x: g.op("LeakyRelu", g.conv(x, 4, 8), alpha=0.1),
    "prelu": lambda g, x: g.op("PRelu", g.conv(x, 4, 8), g.constant(g.random.uniform(0, 1, (8, 1, 1)))),
    "bias add": lambda g, x: g.op("Relu", g.op("Add", g.conv(x, 4, 8), g.constant(g.random.uniform(0, 1, (8, 1, 1))))),
    "bias sub": lambda g, x: g.op("Relu", g.op("Sub", g.constant(0.5), g.conv(x, 4, 8))),
    "scalar gain": lambda g, x: g.op("Mul", g.op("HardSwish", g.conv(x, 4, 8)), g.constant(0.5)),
    "division": lambda g, x: g.op("Div", g.op("HardSwish", g.conv(x, 4, 8)), g.constant(2.0)),
    "max pool": lambda g, x: g.op("MaxPool", g.op("Relu", g.conv(x, 4, 8)), kernel_shape=[2, 2]),
    "average pool": lambda g, x: g.op("AveragePool", g.conv(x, 4, 8), kernel_shape=[3, 3], pads=[1] * 4),
    "zero padding": lambda g, x: g.op(
        "Pad", g.op("Relu", g.conv(x, 4, 8)), g.constant(np.array([0, 0, 1, 2, 0, 0, 3, 4])), g.constant(0.0)
    ),
    "global pool": lambda g, x: g.op("GlobalAveragePool", g.op("Relu", g.conv(x, 4, 8))),
    "conv transpose": lambda g, x: g.op(
        "Relu", g.op("ConvTranspose", x, g.weight(4, 4, 2, 2), g.constant(np.ones(8)), group=2, strides=[2, 2])
    ),
    "instance norm": lambda g, x: g.op(
        "InstanceNormalization", g.conv(x, 4, 8), g.constant(np.ones(8)), g.constant(np.zeros(8))
    ),
    "transposes": lambda g, x: g.op(
        "Transpose", g.op("Relu", g.op("Transpose", g.conv(x, 4, 8), perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2]
    ),
    "reshape": lambda g, x: g.op(
        "Reshape", g.op("Relu", g.op("Reshape", g.conv(x, 4, 8), g.constant([0, 8, 64]))), g.constant([0, 8, 8, 8])
    ),
}

NOT_FOLDED: dict[str, Callable[[Builder, str], str]] = {
    "clip": lambda g, x: g.clip(g.conv(x, 4, 8), 0.0, 6.0),
    "hard swish": lambda g, x: g.op("HardSwish", g.conv(x, 4, 8)),
    "sigmoid": lambda g, x: g.op("Sigmoid", g.conv(x, 4, 8)),
    "sum of two": lambda g, x: g.op("Add", g.op("Sigmoid", g.conv(x, 4, 8)), g.op("Sigmoid", g.conv(x, 4, 8, 1))),
    "relu of hard swish": lambda g, x: g.op("Relu", g.op("HardSwish", g.conv(x, 4, 8))),
    "padding with ones": lambda g, x: g.op(
        "Pad", g.op("Relu", g.conv(x, 4, 8)), g.constant(np.array([0, 0, 1, 2, 0, 0, 3, 4])), g.constant(1.0)
    ),
    "padding of channels": lambda g, x: g.op(
        "Pad", g.op("Relu", g.conv(x, 4, 6)), g.constant(np.array([0, 1, 0, 0, 0, 1, 0, 0]))
    ),
    "mirrored padding": lambda g, x: g.op(
        "Pad", g.op("Relu", g.conv(x, 4, 8)), g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode="reflect"
    ),
    "model input": lambda g, x: g.input("z", 8, 8, 8),
}

CHANGES_SIZE = {"max pool", "global pool", "conv transpose", "reshape", "model input"} | {
    n for n in (*PRODUCERS, *NOT_FOLDED) if "padding" in n
}


def net(produce: Callable[[Builder, str], str], read: Callable[[Builder, str], str], **options) -> onnx.ModelProto:
    g = Builder(**{"opset": 14, **options})
    return g.model(read(g, produce(g, g.input("x", 4, 8, 8))))


@pytest.mark.parametrize("opset", [13, 17, LOADABLE_OPSET])
@pytest.mark.parametrize("name", READERS)
def test_readers_of_images(name: str, opset: int) -> None:
    edited = scale(net(NOT_FOLDED["sigmoid"], READERS[name], opset=opset), "Sigmoid_4_out")
    assert edited.names == {"Sigmoid_4_out": "Sigmoid_4_out_scaled"}
    assert edited.added() == {"Mul": 1}
    assert edited.error() < CLOSE


@pytest.mark.parametrize("name", PRODUCERS)
def test_factors_fold_into_the_producer(name: str) -> None:
    model = net(PRODUCERS[name], READERS["depthwise"])
    tensor = model.graph.node[-1].input[0]
    edited = scale(model)
    assert edited.names[tensor] == tensor
    assert edited.added() == ({} if len(edited.names) == 1 else {"Mul": len(edited.names) - 1})
    assert edited.error() < CLOSE


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_factors_do_not_fold_where_that_changes_the_result(name: str) -> None:
    model = net(NOT_FOLDED[name], READERS["depthwise"])
    tensor = model.graph.node[-1].input[0]
    edited = scale(model, tensor)
    assert edited.names == {tensor: f"{tensor}_scaled"}
    assert edited.added() == {"Mul": 1}
    assert edited.error() < CLOSE


@pytest.mark.parametrize("name", MODELS)
def test_models_stay_what_they_are(name: str) -> None:
    edited = scale(MODELS[name]())
    assert edited.error() < CLOSE
    # What is planned does not change either, but for the names of tensors.
    replanned = plan_tensorrt(edited.after)
    followed = follow_edits(edited.plan, edited.after)
    assert (own_edges(replanned), replanned.weights) == (own_edges(followed), followed.weights)
    assert set(replanned.groups) <= {frozenset(group) for group in followed.groups}


def test_the_plan_follows_where_a_new_one_would_differ() -> None:
    """The operand of the second Add is quantized because the third block reads the sum, which it then reads scaled."""
    g = Builder()
    x = g.op("Relu", g.gemm(g.input("x", 16), 16, 16))
    for _ in range(3):
        x = g.op("Add", g.gemm(g.op("Relu", g.gemm(x, 16, 16)), 16, 16), x)
    edited = scale(g.model(g.gemm(x, 16, 4)))
    followed = follow_edits(edited.plan, edited.after)
    assert [(e.node, e.index) for e in followed.activations] == [(e.node, e.index) for e in edited.plan.activations]
    assert len(own_edges(plan_tensorrt(edited.after))) < len(followed.activations)
    assert edited.names.keys() & followed.skipped.keys() == {old for old, new in edited.names.items() if old != new}
    assert len({followed.skipped[old] for old in edited.names.keys() & followed.skipped.keys()}) <= 1
    params = {e.tensor: QuantParams(scale=np.float32(0.05)) for e in followed.activations}
    check_model(insert_qdq(edited.after, followed, params), "quantized")


@pytest.mark.parametrize("name", ["inverted_residual", "attention", "silu"])
def test_models_in_fp16(name: str) -> None:
    assert scale(MODELS[name](opset=19, dtype=np.float16)).error() < 1e-2


def test_sequences() -> None:
    g = Builder()
    x = g.input("x", 16, 8)
    normed = g.op("LayerNormalization", x, g.constant(np.ones(8)), g.constant(np.ones(8)), axis=-1)
    q, k = g.linear(normed, 8, 12), g.linear(normed, 8, 12)
    y = g.op("Add", q, k)
    edited = scale(g.model(g.linear(g.op("Relu", y), 12, 4)))
    assert edited.names[normed] == normed
    assert edited.error() < CLOSE


@pytest.mark.parametrize("gain_first", [True, False])
def test_a_decomposed_layer_normalization(gain_first: bool) -> None:
    g = Builder(opset=13)
    x = g.input("x", 16, 8)
    axes = [-1]
    centered = g.op("Sub", x, g.op("ReduceMean", x, axes=axes))
    variance = g.op("ReduceMean", g.op("Mul", centered, centered), axes=axes)
    normed = g.op("Div", centered, g.op("Sqrt", g.op("Add", variance, g.constant(1e-5))))
    gain, bias = g.constant(g.random.uniform(0.5, 2, 8)), g.constant(g.random.uniform(-1, 1, 8))
    y = g.op("Add", g.op("Mul", *((normed, gain) if gain_first else (gain, normed))), bias)
    edited = scale(g.model(g.linear(y, 8, 12)))
    assert edited.names == {y: y}
    assert edited.added() == {}
    assert edited.error() < CLOSE


@pytest.mark.parametrize("transposed", [True, False])
def test_gemm(transposed: bool) -> None:
    g = Builder()
    y = g.op("Relu", g.gemm(g.input("x", 8), 8, 16, transposed=transposed))
    y = g.op("LeakyRelu", g.linear(y, 16, 8))
    edited = scale(g.model(g.gemm(y, 8, 4, transposed=transposed)))
    assert edited.added() == {"Mul": 1}, "of the model input"
    assert edited.error() < CLOSE


def test_gemm_with_factors_and_a_bias_of_one_number() -> None:
    g = Builder()
    y = g.op("Gemm", g.input("x", 8), g.weight(8, 16), g.constant(0.5), alpha=0.5, beta=2.0)
    edited = scale(g.model(g.op("Gemm", g.op("Relu", y), g.weight(16, 4), alpha=3.0)), "Relu_4_out")
    assert edited.added() == {}
    assert edited.error() < CLOSE


def test_gemm_behind_flatten() -> None:
    g = Builder()
    y = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.conv(image(g, 4), 4, 8))))
    edited = scale(g.model(g.gemm(y, 8, 8)), y)
    assert edited.added() == {}
    assert edited.error() < CLOSE


def test_flatten_that_mixes_channels_with_pixels() -> None:
    g = Builder()
    y = g.op("Flatten", g.op("Relu", g.conv(image(g, 4, 4), 4, 8)))
    edited = scale(g.model(g.gemm(y, 128, 4)), y)
    assert edited.added() == {"Mul": 1}
    assert edited.error() < CLOSE


def test_pooling_across_the_channels() -> None:
    g = Builder()
    y = g.op("MaxPool", g.op("Relu", g.linear(g.input("x", 16, 8), 8, 8)), kernel_shape=[3], pads=[1, 1])
    edited = scale(g.model(g.linear(y, 8, 4)), y)
    assert edited.added() == {"Mul": 1}
    assert edited.error() < CLOSE


def test_float_readers_keep_the_old_tensor() -> None:
    g = Builder()
    y = g.op("Relu", g.conv(image(g, 4), 4, 8))
    model = g.model(g.conv(y, 8, 8), g.op("GlobalAveragePool", y))
    edited = scale(model, y)
    assert edited.added() == {"Mul": 1}
    assert edited.error() < CLOSE


def test_a_residual_branch_keeps_the_old_tensor() -> None:
    """The operand of the Add that is not quantized comes out of a convolution, and the tensor is that operand."""
    g = Builder()
    skip = g.conv(image(g, 4), 4, 8)
    branch = g.op("Relu", g.conv(skip, 8, 8))
    other = g.conv(g.op("Relu", g.conv(branch, 8, 8)), 8, 8)
    model = g.model(g.conv(g.op("Relu", g.op("Add", skip, other)), 8, 4))
    graph, plan = prepared(model)
    sites = scalable_tensors(graph, plan)
    assert skip not in sites, "the quantized operand of the Add"
    assert scale(model).error() < CLOSE


def test_outputs_keep_their_names_and_values() -> None:
    edited = scale(MODELS["output_read_inside"]())
    output = edited.before.graph.outputs[0].name
    assert edited.names[output] == f"{output}_scaled"
    assert edited.error() < CLOSE


def test_a_tensor_between_that_something_else_reads() -> None:
    g = Builder()
    inner = g.conv(image(g, 4), 4, 8)
    y = g.op("Relu", inner)
    edited = scale(g.model(g.conv(y, 8, 8, groups=8), g.op("Sigmoid", inner)), y)
    assert edited.added() == {"Mul": 1}
    assert edited.error() < CLOSE


def test_shared_constants_are_copied() -> None:
    g = Builder()
    weight, bias = g.weight(8, 8, 3, 3, name="weight"), g.constant(np.ones(8), "bias")
    x = g.op("Sigmoid", g.input("x", 8, 8, 8))
    a = g.op("Relu", g.op("Conv", x, weight, bias, pads=[1] * 4))
    b = g.op("Relu", g.op("Conv", a, weight, bias, pads=[1] * 4))
    edited = scale(g.model(b, g.op("Add", g.op("Sigmoid", b), bias, name="sum")), a)
    assert edited.names == {a: a}
    assert edited.error() < CLOSE
    kept = edited.after.graph.initializers
    assert {"weight", "weight_scaled", "bias", "bias_scaled"} <= set(kept)


def test_products_of_activations_and_residuals_are_no_sites() -> None:
    graph, plan = prepared(MODELS["attention"]())
    products = {n.name for n in graph.graph if n.op_type == "MatMul" and not n.inputs[1].is_initializer()}
    sites = scalable_tensors(graph, plan, attention=True)
    assert products
    assert all(products.isdisjoint(site.readers) for site in sites.values())
    assert len(sites) == len({e.tensor for e in plan.activations if e.node not in products})


@pytest.mark.parametrize("name", ["attention", "attention_one_projection"])
def test_the_output_of_attention_is_left_alone_unless_asked_for(name: str) -> None:
    graph, plan = prepared(MODELS[name]())
    found = scalable_tensors(graph, plan, attention=True).keys() - scalable_tensors(graph, plan).keys()
    (output,) = (
        n.outputs[0] for n in graph.graph if n.op_type == "Transpose" and n.inputs[0].producer().op_type == "MatMul"
    )
    assert found == {user.outputs[0].name for user, _ in output.uses()}


def test_tensors_that_share_a_scale_are_left_alone_unless_asked_for() -> None:
    graph, plan = prepared(MODELS["concat_of_read_inputs"]())
    grouped = frozenset[str]().union(*plan.groups)
    found = scalable_tensors(graph, plan, grouped=True)
    assert grouped
    assert found.keys() - scalable_tensors(graph, plan).keys() == grouped & {e.tensor for e in own_edges(plan)}
    joined = next(n.outputs[0].name for n in graph.graph if n.op_type == "Concat")
    names = apply_channel_scales(graph, plan, random_scales({joined: found[joined]}))
    followed = follow_edits(plan, graph)
    assert names[joined] in followed.tensors
    assert joined not in followed.tensors


def test_readers_that_disagree_about_the_channels() -> None:
    g = Builder(batch=2)
    x = g.op("Sigmoid", g.input("x", 8, 8, 8))
    graph, plan = prepared(g.model(g.conv(x, 8, 8), g.linear(x, 8, 4)))
    assert scalable_tensors(graph, plan) == {}


def test_what_a_site_tells() -> None:
    graph, plan = prepared(MODELS["inverted_residual"]())
    sites = scalable_tensors(graph, plan)
    depthwise = {t: s for t, s in sites.items() if s.is_depthwise}
    assert len(depthwise) == 2
    assert {s.axis for s in sites.values()} == {-3}
    assert {s.channels for s in depthwise.values()} == {64}
    assert not any(is_foldable(graph, s) for s in depthwise.values()), "they come out of Clip"


def test_the_range_of_weights_by_channel() -> None:
    g = Builder()
    x = g.input("x", 4, 8, 8)
    first, second = g.random.standard_normal((6, 2, 3, 3)), g.random.standard_normal((4, 3, 1, 1))
    a = g.op("Conv", x, g.constant(first), group=2)
    graph, plan = prepared(g.model(a, g.op("ConvTranspose", x, g.constant(second))))
    (site,) = scalable_tensors(graph, plan).values()
    grouped = np.abs(first.reshape(2, 3, 2, 9)).max((1, 3)).ravel()
    expected = np.maximum(grouped, np.abs(second).max((1, 2, 3)))
    assert weight_amax(weight_rows(graph, site), site.channels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["conv_relu", "silu"])
def test_nothing_is_scaled_twice(name: str) -> None:
    edited = scale(MODELS[name]())
    scales = {t: np.ones(32, np.float32) for t in edited.names}
    again = {edited.names[t]: s for t, s in scales.items()}
    for plan in (follow_edits(edited.plan, edited.after), plan_tensorrt(edited.after)):
        for wanted in (scales, again):
            with pytest.raises(ModelError, match="scaled before"):
                apply_channel_scales(edited.after, plan, wanted)
    with pytest.raises(ModelError, match=r"does not fit|scaled before"):
        apply_channel_scales(edited.after, edited.plan, scales)
    assert edited.error() < CLOSE


@pytest.mark.parametrize("factors", [[1.0] * 31, [0.0] * 32, [np.inf] * 32, [-1.0] * 32])
def test_factors_that_make_no_sense(factors: list[float]) -> None:
    graph, plan = prepared(MODELS["silu"]())
    tensor = next(iter(scalable_tensors(graph, plan)))
    with pytest.raises(ModelError, match="a positive factor for each of its 32 channels"):
        apply_channel_scales(graph, plan, {tensor: np.array(factors, np.float32)})


def test_the_order_of_the_scales_changes_nothing() -> None:
    models = []
    for reverse in (False, True):
        graph, plan = prepared(MODELS["shared_weight"]())
        scales = random_scales(scalable_tensors(graph, plan))
        apply_channel_scales(graph, plan, dict(sorted(scales.items(), reverse=reverse)))
        models.append({n: v.const_value.numpy() for n, v in graph.graph.initializers.items()})
    assert models[0].keys() == models[1].keys()
    assert all((models[1][name] == array).all() for name, array in models[0].items())


@settings(max_examples=25)
@given(st.data())
def test_random_chains(data: st.DataObject) -> None:
    """Blocks one behind the other; what is between them may be an output too, or be added to what follows."""
    g = Builder(opset=14, seed=data.draw(st.integers(0, 9)))
    producers = {n: p for n, p in {**PRODUCERS, **NOT_FOLDED}.items() if n not in CHANGES_SIZE}
    x = g.input("x", 4, 8, 8)
    outputs = []
    for name in data.draw(st.lists(st.sampled_from(sorted(producers)), min_size=1, max_size=4)):
        y = producers[name](g, x)
        reader = data.draw(st.sampled_from(["conv", "grouped conv", "depthwise multiplier"]))
        z = g.conv(READERS[reader](g, y), 24 if "depthwise" in reader else 12, 4, 1)
        x = g.op("Add", x, z) if data.draw(st.booleans()) else z
        outputs += [y] if data.draw(st.booleans()) else []
    assert scale(g.model(x, *outputs)).error() < CLOSE
