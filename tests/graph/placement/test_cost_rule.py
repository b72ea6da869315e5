from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from quantkit.commands.quantize import quantize
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.placement.cost_rule import CHANNELS, GATE, ISLAND, NARROW, VECTOR, Unprofitable, find_unprofitable
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.share import quantized_share
from quantkit.types import CalibrationTable, TensorRange

from ... import rtx
from ..backbones import BACKBONES
from ..builder import Builder
from ..quantizing import quantize as quantize_in_memory
from ..quantizing import write


def found(model: onnx.ModelProto) -> Unprofitable:
    return find_unprofitable(FloatModel(model.SerializeToString()).prepared())


def large(g: Builder, x: str, channels: int = 32) -> str:
    """A convolution beside which others are little."""
    return g.op("Relu", g.conv(x, channels, 32, 7, name="large"))


def excited(gate: str = "Sigmoid", *, batch: str | int = "N") -> SimpleNamespace:
    g = Builder(batch=batch)
    x = large(g, g.input("x", 32, 32, 32))
    squeezed = g.op("GlobalAveragePool", x)
    first = g.conv(squeezed, 32, 8, 1, name="squeeze")
    scale = g.op(gate, g.conv(g.op("Mul", first, g.op("Sigmoid", first)), 8, 32, 1, name="excite"))
    return SimpleNamespace(g=g, x=x, scale=scale)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_squeeze_and_excitation_stays_in_float(gate: str, batch: str | int) -> None:
    n = excited(gate, batch=batch)
    model = n.g.model(n.g.conv(n.g.op("Mul", n.x, n.scale), 32, 32))
    assert found(model) == Unprofitable({"squeeze": GATE, "excite": GATE}, {})


def test_maps_of_one_position_that_gate_nothing_are_quantized() -> None:
    """The pooled branch of a pyramid, and a classifier made of convolutions."""
    n = excited()
    spread = n.g.op("Expand", n.scale, n.g.constant(np.array([1, 32, 32, 32])))
    assert found(n.g.model(n.g.op("Concat", spread, n.x, axis=1))).in_float == {}
    n = excited()
    assert found(n.g.model(n.scale)).in_float == {}


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [(1, 32, VECTOR), (16, 1, VECTOR), (16, 4, NARROW), (16, 32, None), ("tokens", 32, None), ("tokens", 1, VECTOR)],
)
def test_products_with_a_vector_or_few_columns(rows: int | str, columns: int, reason: str | None) -> None:
    g = Builder(batch=1)
    x = g.linear(g.linear(g.input("x", rows, 64), 64, 1024), 1024, 64)
    last = len(g.nodes)
    model = g.model(g.linear(x, 64, columns), large(g, g.input("image", 32, 32, 32)))
    assert found(model).in_float.get(g.nodes[last].name) == reason


@pytest.mark.parametrize("transposed", [True, False])
def test_heads_of_one_sample(transposed: bool) -> None:
    """With a dynamic batch nobody knows; a large one reads half as much in INT8."""
    for batch, features, reason in ((1, 64, VECTOR), ("N", 64, None), (1, 2**15, None)):
        g = Builder(batch=batch)
        pooled = g.op("Flatten", large(g, g.input("x", 32, 64, 64)))
        head = g.gemm(g.input("features", features), features, 32, transposed=transposed)
        assert found(g.model(pooled, head)).in_float.get(g.nodes[-1].name) == reason


def test_few_channels() -> None:
    """Fewer than 16 on both sides; images and depthwise convolutions are another matter."""
    for channels_in, channels, groups, reason in (
        (8, 1, 1, CHANNELS),
        (4, 4, 1, CHANNELS),
        (16, 1, 1, None),
        (8, 8, 1, CHANNELS),
        (15, 15, 1, CHANNELS),
        (8, 16, 1, None),
        (4, 4, 4, None),
    ):
        g = Builder()
        y = large(g, g.input("x", 32, 32, 32))
        y = g.conv(y, 32, channels_in, 1, name="before")
        y = g.conv(y, channels_in, channels, 1, groups=groups, name="few")
        assert found(g.model(y)).in_float.get("few") == reason
    g = Builder()
    y = g.conv(g.input("x", 3, 32, 32), 3, 8, name="first")
    assert found(g.model(large(g, y, 8))).in_float == {}


def average(g: Builder, x: str, size: int = 3) -> str:
    return g.op("AveragePool", x, kernel_shape=[size, size], strides=[size // 2] * 2 if size > 3 else [1, 1])


def island(before: str, behind: str, *, channels: int = 32, kernel: int = 1) -> onnx.ModelProto:
    """A convolution, "island", on maps of 7 x 7, between two kinds of operators."""
    g = Builder()
    x = average(g, large(g, g.input("x", 32, 32, 32)), 8)
    x = g.op("Relu", g.conv(x, 32, channels, 1, name="before")) if channels != 32 else x
    x = average(g, x) if before == "average" else g.op(before, x)
    y = g.conv(x, channels, channels, kernel, name="island")
    y = average(g, y) if behind == "average" else g.op(behind, y)
    return g.model(g.op("Tanh", y))


@pytest.mark.parametrize(
    ("before", "behind", "options", "is_island"),
    [
        ("average", "average", {}, True),
        ("average", "Sigmoid", {}, True),
        ("Sigmoid", "average", {}, True),
        ("Sigmoid", "Sigmoid", {}, False),
        ("average", "average", {"channels": 256}, False),  # the weights are half as large in INT8
        ("GlobalAveragePool", "Sigmoid", {}, False),
    ],
)
def test_products_between_what_takes_in_neither_q_nor_dq(before, behind, options, is_island) -> None:
    names = found(island(before, behind, **options))
    assert names == (Unprofitable({"island": ISLAND}, {}) if is_island else Unprofitable({}, {}))


def test_an_island_that_shares_its_q_is_none() -> None:
    g = Builder()
    x = average(g, average(g, large(g, g.input("x", 32, 32, 32)), 8))
    both = g.op("Concat", g.conv(x, 32, 32, 1), g.conv(x, 32, 32, 1), axis=1)
    assert found(g.model(both)).in_float == {}


@pytest.mark.parametrize(("behind", "spared"), [("average", 2), ("Sigmoid", 1)])
def test_plans_have_a_kernel_less_on_each_side_of_an_island(behind: str, spared: int) -> None:
    model = island("average", behind)
    kept = rtx.count_kernels(quantize_in_memory(model, high_precision="fp16").proto)
    everything = rtx.count_kernels(quantize_in_memory(model, high_precision="fp16", quantize_all=True).proto)
    assert (kept.products, everything.products) == (1, 2)
    assert kept.kernels == everything.kernels - spared


def test_what_is_much_of_the_model_is_quantized() -> None:
    """Also a model of nothing else."""
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 3, 8, 8), 3, 4, name="first"))
    model = g.model(g.conv(x, 4, 4, name="second"))
    assert found(model) == Unprofitable({}, {"second": CHANNELS})
    assert {e.node for e in plan_tensorrt(FloatModel(model.SerializeToString()).prepared()).weights} == {
        "first",
        "second",
    }


def test_the_plan_names_the_reason_and_coverage_counts_float() -> None:
    graph = FloatModel(BACKBONES["efficientnet"]().SerializeToString()).prepared()
    plan, everything = plan_tensorrt(graph), plan_tensorrt(graph, quantize_all=True)
    spared = {edge.node for edge in everything.weights} - {edge.node for edge in plan.weights}
    assert len(spared) == 10
    assert {plan.skipped[node] for node in spared} == {GATE}
    share, full = quantized_share(graph, plan), quantized_share(graph, everything)
    assert (share.num_quantized, full.num_quantized) == (18, 28)
    assert 0.98 < share.of_work < full.of_work == 1
    # One table serves both.
    assert set(everything.tensors) <= observed_tensors(graph, all_tensors=False).needed


def test_plans_have_a_kernel_less_for_each() -> None:
    model = BACKBONES["senet"]()
    spared = rtx.count_kernels(quantize_in_memory(model, high_precision="fp16").proto)
    everything = rtx.count_kernels(quantize_in_memory(model, high_precision="fp16", quantize_all=True).proto)
    assert (spared.products, everything.products) == (8, 14)
    assert spared.kernels == everything.kernels - 6


@pytest.mark.parametrize("quantize_all", [False, True])
def test_quantize_says_so(tmp_path, quantize_all: bool) -> None:
    n = excited()
    path = write(n.g.model(n.g.conv(n.g.op("Mul", n.x, n.scale), 32, 32)), tmp_path / "m.onnx")
    model = FloatModel(path)
    observed = observed_tensors(model.prepared(), all_tensors=True).names
    ranges = {name: TensorRange(1.0, -1.0, 1.0) for name in observed}
    table = CalibrationTable(ranges, model.hash, "", 1, {"method": "minmax"})
    heard = []
    made = quantize(model, table, tmp_path / "q.onnx", notify=heard.append, quantize_all=quantize_all)
    texts = [notice.text for notice in heard if notice.topic == "excluded"]
    if quantize_all:
        assert (made.num_quantized, texts) == (4, [])
    else:
        assert made.num_quantized == 2
        assert texts == [f"2 operators left in float (--quantize-all overrides): {GATE}: squeeze, excite"]
