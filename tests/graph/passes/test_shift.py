"""Offsets that are subtracted before quantization and added back in a bias change nothing but what is quantized."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from quantkit.errors import ModelError
from quantkit.graph.passes.channel_scale import apply_channel_scales, scalable_tensors
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.passes.shift import apply_shifts, shiftable_tensors
from quantkit.graph.placement.tensorrt import plan_tensorrt

from ..builder import LOADABLE_OPSET, Builder
from ..models import MODELS, image
from .editing import Edited, own_edges, prepared, random_scales, random_shifts, shift

CLOSE = 1e-5

SHIFTABLE: dict[str, Callable[[Builder, str], str]] = {
    "1x1": lambda g, x: g.conv(x, 8, 12, 1),
    "1x1 with stride": lambda g, x: g.conv(x, 8, 12, 1, stride=2),
    "1x1 without bias": lambda g, x: g.conv(x, 8, 12, 1, bias=False),
    "1x1 grouped": lambda g, x: g.conv(x, 8, 12, 1, groups=2),
    "3x3 without padding": lambda g, x: g.op("Conv", x, g.weight(12, 8, 3, 3)),
    "3x3 depthwise without padding": lambda g, x: g.op("Conv", x, g.weight(16, 1, 3, 3), group=8),
    "3x3 valid": lambda g, x: g.op("Conv", x, g.weight(12, 8, 3, 3), auto_pad="VALID"),
    "1x1 same": lambda g, x: g.op("Conv", x, g.weight(12, 8, 1, 1), auto_pad="SAME_UPPER", strides=[2, 2]),
    "two readers": lambda g, x: g.op("Add", g.conv(x, 8, 8, 1), g.op("Relu", g.conv(x, 8, 8, 1))),
    "a float reader": lambda g, x: g.op("Add", g.conv(x, 8, 8, 1), g.op("Tanh", x)),
}

PADDED: dict[str, Callable[[Builder, str], str]] = {
    "3x3": lambda g, x: g.conv(x, 8, 12, 3),
    "with stride": lambda g, x: g.conv(x, 8, 12, 3, stride=2),
    "depthwise": lambda g, x: g.conv(x, 8, 8, 5, groups=8, bias=False),
    "on one side": lambda g, x: g.op("Conv", x, g.weight(12, 8, 2, 2), pads=[0, 0, 1, 0]),
    "different on each side": lambda g, x: g.op("Conv", x, g.weight(12, 8, 3, 3), pads=[1, 0, 2, 3], dilations=[1, 2]),
    "two readers": lambda g, x: g.op("Add", g.conv(x, 8, 8, 3), g.op("Relu", g.conv(x, 8, 8, 3))),
    "a float reader": lambda g, x: g.op("Add", g.conv(x, 8, 8, 3), g.op("Tanh", x)),
}

NOT_SHIFTABLE: dict[str, Callable[[Builder, str], str]] = {
    "3x3 same": lambda g, x: g.op("Conv", x, g.weight(12, 8, 3, 3), auto_pad="SAME_LOWER"),
    "transposed": lambda g, x: g.op("ConvTranspose", x, g.weight(8, 4, 2, 2)),
    "one reader padded": lambda g, x: g.op("Add", g.conv(x, 8, 16, 1), g.conv(x, 8, 16, 3)),
}


@pytest.mark.parametrize("opset", [13, LOADABLE_OPSET])
@pytest.mark.parametrize("name", SHIFTABLE)
def test_convolutions(name: str, opset: int) -> None:
    g = Builder(opset=opset)
    y = g.op("Sigmoid", image(g, 8, 8))
    edited = shift(g.model(SHIFTABLE[name](g, y)), y)
    assert edited.names == {y: f"{y}_shifted"}
    assert edited.added() == {"Sub": 1}
    assert edited.error() < CLOSE


@pytest.mark.parametrize("name", NOT_SHIFTABLE)
def test_convolutions_that_do_not_see_the_offset_everywhere(name: str) -> None:
    g = Builder()
    graph, plan = prepared(g.model(NOT_SHIFTABLE[name](g, g.op("Sigmoid", image(g, 8, 8)))))
    assert shiftable_tensors(graph, plan, padded=True) == {}


@pytest.mark.parametrize("opset", [13, LOADABLE_OPSET])
@pytest.mark.parametrize("name", PADDED)
def test_convolutions_with_padding(name: str, opset: int) -> None:
    g = Builder(opset=opset)
    y = g.op("Sigmoid", image(g, 8, 8))
    model = g.model(PADDED[name](g, y))
    graph, plan = prepared(model)
    assert y not in shiftable_tensors(graph, plan)
    edited = shift(model, y, padded=True)
    assert edited.names == {y: f"{y}_shifted"}
    assert edited.added() == {"Pad": 1, "Sub": 1}
    assert edited.error() < CLOSE


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models_stay_what_they_are(name: str, padded: bool) -> None:
    edited = shift(MODELS[name](), padded=padded)
    assert edited.error() < CLOSE
    followed, replanned = follow_edits(edited.plan, edited.after), plan_tensorrt(edited.after)
    assert (own_edges(followed), followed.weights) == (own_edges(replanned), replanned.weights)


@pytest.mark.parametrize("name", ["squeeze_excite", "attention", "gemm_plain"])
def test_models_in_fp16(name: str) -> None:
    assert shift(MODELS[name](opset=19, dtype=np.float16)).error() < 1e-2


def test_the_bias_takes_back_the_offset_that_fp16_holds() -> None:
    g = Builder(opset=19, dtype=np.float16)
    model = g.model(g.gemm(g.input("x", 8), 8, 4))
    before, _ = prepared(model)
    after, plan = prepared(model)
    offset = 0.50024  # between two numbers of FP16, 0.5 and 0.50049
    names = apply_shifts(after, plan, {"x": offset})
    weight = next(n for n in after.graph if n.op_type == "Gemm").inputs[1].const_value.numpy().astype(float)
    bias = next(n for n in after.graph if n.op_type == "Gemm").inputs[2].const_value.numpy()
    held = float(after.graph.initializers["x_shift"].const_value.numpy())
    assert held != offset
    assert (bias == (weight.sum(1) * held).astype(np.float16)).all()
    assert Edited(before, after, plan, names).error() < 1e-2


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["none", "one number", "row", "column"])
def test_gemm(bias: str, transposed: int) -> None:
    g = Builder(batch=4)
    shape = {"one number": (), "row": (8,), "column": (4, 1)}
    rest = [] if bias == "none" else [g.constant(g.random.uniform(-1, 1, shape[bias]))]
    weight = g.weight(*((8, 6) if transposed else (6, 8)))
    x = g.input("x", 6)
    edited = shift(g.model(g.op("Gemm", x, weight, *rest, alpha=0.5, beta=2.0, transB=transposed)))
    assert edited.names == {x: f"{x}_shifted"}
    assert edited.error() < CLOSE


def test_gemm_that_multiplies_its_bias_by_zero() -> None:
    """Prepared, it is a bias of zeros."""
    g = Builder()
    edited = shift(g.model(g.op("Gemm", g.input("x", 8), g.weight(8, 4), g.constant(1.0), beta=0.0)))
    assert edited.names == {"x": "x_shifted"}
    assert edited.error() < CLOSE


def test_bias_that_is_computed() -> None:
    g = Builder()
    x = g.input("x", 8)
    graph, plan = prepared(g.model(g.op("Gemm", x, g.weight(8, 4), g.op("ReduceMax", x))))
    assert shiftable_tensors(graph, plan) == {}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("shape", [(), (4,), (16, 4), (1, 16, 1)])
def test_matmul_adds_to_the_constant_behind_it(shape: tuple[int, ...], left: bool) -> None:
    g = Builder()
    x = g.input("x", 16, 8)
    operands = (g.op("MatMul", x, g.weight(8, 4)), g.constant(g.random.uniform(-1, 1, shape)))
    edited = shift(g.model(g.op("Add", *reversed(operands) if left else operands)))
    assert edited.added() == {"Sub": 1}
    assert edited.error() < CLOSE


@pytest.mark.parametrize("kind", ["nothing", "another reader", "output", "activation"])
def test_matmul_without_a_bias_of_its_own(kind: str) -> None:
    g = Builder()
    x = g.input("x", 16, 8)
    product = g.op("MatMul", x, g.weight(8, 4))
    outputs = {
        "nothing": lambda: [g.op("Relu", product)],
        "another reader": lambda: [g.op("Add", product, g.constant(1.0)), g.op("Relu", product)],
        "output": lambda: [g.op("Add", product, g.constant(1.0)), product],
        "activation": lambda: [g.op("Add", product, g.op("ReduceMean", x, axes=[2]))],
    }
    graph, plan = prepared(g.model(*outputs[kind]()))
    assert shiftable_tensors(graph, plan) == {}


def test_shared_biases_are_copied() -> None:
    g = Builder()
    bias, weight = g.constant(np.ones(8), "bias"), g.weight(8, 8, 1, 1, name="weight")
    x = image(g, 8, 8)
    y = g.op("Sigmoid", g.op("Conv", x, weight, bias))
    model = g.model(g.op("Conv", y, weight, bias), g.op("Identity", bias))
    edited = shift(model, y)
    assert edited.error() < CLOSE
    assert edited.after.graph.initializers["bias"].const_value.numpy().tolist() == [1] * 8
    assert shift(model).error() < CLOSE


def test_a_bias_that_is_an_output_keeps_its_values() -> None:
    g = Builder()
    model = g.model(g.op("Gemm", g.input("x", 8), g.weight(8, 4), g.constant(np.ones(4), "bias")), "bias")
    del model.graph.output[1].type.tensor_type.shape.dim[1]
    edited = shift(model)
    assert edited.added() == {"Sub": 1}
    assert edited.error() < CLOSE


def test_new_biases_are_named_after_their_operator() -> None:
    g = Builder()
    y = g.op("Sigmoid", image(g, 8, 8))
    model = g.model(g.op("Conv", y, g.weight(4, 8, 1, 1), name="head"))
    assert "head_bias" in shift(model).after.graph.initializers


@pytest.mark.parametrize("name", ["conv_relu", "residual_mlp", "squeeze_excite", "attention"])
def test_shift_then_scale(name: str) -> None:
    """The quantized tensor is (x - m) * s."""
    before, _ = prepared(MODELS[name]())
    after, plan = prepared(MODELS[name]())
    names = apply_shifts(after, plan, random_shifts(shiftable_tensors(after, plan, padded=True)))
    plan = follow_edits(plan, after)
    sites = scalable_tensors(after, plan)
    assert set(names.values()) <= set(sites)
    scaled = apply_channel_scales(after, plan, random_scales(sites))
    assert Edited(before, after, plan, scaled).error() < CLOSE


@pytest.mark.parametrize("kernel", [1, 3])
def test_factors_fold_through_the_offset(kernel: int) -> None:
    g = Builder()
    y = g.op("Relu", g.conv(image(g, 8, 8), 8, 8))
    edited = shift(g.model(g.conv(y, 8, 16, kernel)), y, padded=True)
    plan = follow_edits(edited.plan, edited.after)
    shifted = edited.names[y]
    site = scalable_tensors(edited.after, plan)[shifted]
    assert apply_channel_scales(edited.after, plan, random_scales({shifted: site})) == {shifted: shifted}
    assert edited.added() == ({"Sub": 1} if kernel == 1 else {"Pad": 1, "Sub": 1})
    assert edited.error() < CLOSE


def test_nothing_is_shifted_twice_or_after_it_was_scaled() -> None:
    edited = shift(MODELS["gemm_plain"]())
    plan = follow_edits(edited.plan, edited.after)
    assert shiftable_tensors(edited.after, plan) == {}
    for tensor in (*edited.names, *edited.names.values()):
        with pytest.raises(ModelError, match="shifted or scaled before"):
            apply_shifts(edited.after, plan, {tensor: 1.0})
    graph, plan = prepared(MODELS["gemm_plain"]())
    apply_channel_scales(graph, plan, random_scales(scalable_tensors(graph, plan)))
    assert shiftable_tensors(graph, follow_edits(plan, graph), padded=True) == {}


@pytest.mark.parametrize("offset", [np.nan, np.ones(7, np.float32), np.ones((8, 1), np.float32)])
def test_offsets_that_make_no_sense(offset: float | np.ndarray) -> None:
    g = Builder()
    graph, plan = prepared(g.model(g.gemm(g.input("x", 8), 8, 4)))
    with pytest.raises(ModelError, match="one finite offset or 8"):
        apply_shifts(graph, plan, {"x": offset})
