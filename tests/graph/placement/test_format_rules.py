"""What FP8 leaves in float, and how blocks divide the inputs of a product."""

from __future__ import annotations

import pytest

from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.format_rules import block_size
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.types import FP8, INT8, QdqPlan, weight_format

from ..backbones import BACKBONES
from ..builder import Builder
from ..quantizing import load, quantize


def plan(name: str, **options) -> tuple[QdqPlan, dict[str, str]]:
    graph = prepare(load(BACKBONES[name]()), name="model")
    return plan_tensorrt(graph, **options), {str(node.name): node.op_type for node in graph.graph}


@pytest.mark.parametrize(
    ("name", "reason", "count"),
    [
        ("resnet", "49 positions", 1),
        ("convnext", "49 positions", 4),
        ("vit", "64 positions", 1),
        ("unet_transposed", "transposed", 1),
        ("mobilenetv2", "grouped", 6),
    ],
)
def test_what_fp8_has_no_kernels_for_stays_in_float(name, reason, count):
    found, types = plan(name, fmt=FP8)
    left = {node for node, why in found.skipped.items() if reason in why and "kernels" in why}
    assert len(left) == count
    before = {edge.node for edge in plan(name)[0].weights}
    few = {node for node, why in found.skipped.items() if "16 or fewer" in why}
    assert {edge.node for edge in found.weights} == before - left - few
    assert {edge.node for edge in found.activations} <= {edge.node for edge in found.weights} | {
        node for node, op_type in types.items() if op_type not in ("Add", "BatchNormalization")
    }


def test_grouped_convolutions_are_quantized_when_everything_is():
    found, _ = plan("mobilenetv2", fmt=FP8, quantize_all=True)
    assert {edge.node for edge in found.weights} == {
        edge.node for edge in plan("mobilenetv2", quantize_all=True)[0].weights
    }


def test_convolutions_of_few_channels_stay_in_float_unless_everything_is_quantized():
    g = Builder()
    x = g.conv(g.input("x", 3, 8, 8), 3, 32, name="image")
    x = g.conv(g.conv(x, 32, 17, name="narrow"), 17, 16, name="small")
    graph = prepare(load(g.model(x)), name="model")
    found = plan_tensorrt(graph, fmt=FP8)
    assert [edge.node for edge in found.weights] == ["narrow"]
    assert found.skipped["image"] == "3 to 32 channels: with 16 or fewer FP8 is not faster than FP16"
    assert found.skipped["small"] == "17 to 16 channels: with 16 or fewer FP8 is not faster than FP16"
    everything = plan_tensorrt(graph, fmt=FP8, quantize_all=True)
    assert [edge.node for edge in everything.weights] == ["image", "narrow", "small"]
    assert len(plan_tensorrt(graph, fmt=INT8).weights) == 3


@pytest.mark.parametrize("name", ["resnet", "resnet_preactivation", "densenet"])
def test_sums_stay_in_float_beside_fp8(name):
    found, types = plan(name, fmt=FP8)
    with_sums, _ = plan(name, fmt=INT8)
    assert {types[edge.node] for edge in with_sums.activations} & {"Add", "BatchNormalization"}
    assert not {types[edge.node] for edge in found.activations} & {"Add", "BatchNormalization"}


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_weights_of_convolutions_have_a_scale_for_each_channel_and_others_one(name):
    found, types = plan(name, fmt=FP8)
    for edge in found.weights:
        axis = 0 if types[edge.node] == "Conv" else None
        assert (edge.axis, edge.format) == (axis, weight_format(axis, kind="float"))
    assert {edge.format for edge in found.activations} == {FP8}


def test_int8_is_planned_as_before():
    assert plan("resnet", fmt=INT8) == plan("resnet")


def test_fp8_is_stored_in_a_byte():
    q = quantize(BACKBONES["vit"](), high_precision="fp16", fmt=FP8)
    stored = {i.name: i for i in q.proto.graph.initializer}
    names = [node.input[0] for node in q.proto.graph.node if node.op_type == "DequantizeLinear"]
    weights = [stored[name] for name in names if name in stored]
    assert weights
    assert {w.data_type for w in weights} == {17}  # FLOAT8E4M3FN
    assert all(len(w.raw_data) == w.dims[0] * w.dims[1] for w in weights)


@pytest.mark.parametrize(
    ("width", "wanted", "size"),
    [(768, 128, 128), (768, 64, 64), (192, 128, 64), (192, 64, 64), *((odd, 128, None) for odd in (32, 96, 101, 200))],
)
def test_blocks_are_equal_of_a_size_that_tensorrt_has_and_no_larger_than_wanted(width, wanted, size):
    assert block_size(width, wanted) == size
