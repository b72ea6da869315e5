"""TensorRT-RTX builds every kind of model for three generations of GPUs and computes in INT8 what the plan says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import onnxruntime
import pytest

from quantkit.graph.passes.prepare import WEIGHTED_OPS
from quantkit.types import FP8

from .. import rtx
from .backbones import BACKBONES
from .models import FLOAT_ON_RTX, MODELS
from .quantizing import Quantized, quantize, quantized


def expect_int8(q: Quantized) -> None:
    """Every planned product in INT8, transposed convolutions excepted, and no other."""
    nodes = {node.name: node.op_type for node in q.graph.graph}
    weighted = [name for name, op_type in nodes.items() if op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    layers = rtx.read_layers(rtx.build(q.proto.SerializeToString()))
    planned = {e.node for e in q.plan.activations if e.node in weighted}
    exceptions = {name for name in planned if nodes[name] == "ConvTranspose"}
    found = rtx.int8_nodes(layers, weighted)
    missing = planned - exceptions - found
    assert not missing, {node: rtx.kernels_of(layers, node) for node in missing}
    assert found == planned - exceptions


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", list(MODELS))
def test_models(name: str, precision: str) -> None:
    q = quantized(name, precision)
    expect_int8(q)
    has_exception = any(node.op_type == "ConvTranspose" for node in q.graph.graph)
    assert has_exception == (name in FLOAT_ON_RTX)


@pytest.mark.parametrize("opset", [11, 13, 15, 19, 22, 24])
@pytest.mark.parametrize("name", ["residual_identity", "mlp_gelu"])
def test_opsets(name: str, opset: int) -> None:
    if opset > 22 and tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24):
        pytest.skip("this ONNX Runtime has no such opset")
    expect_int8(quantize(MODELS[name](opset=opset)))


_TYPICAL = ("resnet", "unet_transposed", "vit")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in _TYPICAL else pytest.mark.slow) for n in BACKBONES])
def test_every_planned_product_is_fp8(name: str) -> None:
    q = quantize(BACKBONES[name](), high_precision="fp16", fmt=FP8)
    weighted = [node.name for node in q.graph.graph if node.op_type in WEIGHTED_OPS]
    layers = rtx.read_layers(rtx.build(q.proto.SerializeToString(), capabilities=("SM89", "SM120")))
    planned = {edge.node for edge in q.plan.activations} & {*weighted}
    found = rtx.nodes_in("fp8_e4m3", layers, weighted)
    assert found == planned, {node: rtx.kernels_of(layers, node) for node in planned ^ found}
    assert all(edge.format == FP8 for edge in q.plan.activations)


def test_ampere_has_no_fp8() -> None:
    q = quantize(BACKBONES["resnet"](), high_precision="fp16", fmt=FP8)
    with pytest.raises(AssertionError, match="fp8"):
        rtx.build(q.proto.SerializeToString(), capabilities=("SM86",))


@pytest.mark.parametrize("name", ["conv_relu", "attention"])
def test_fixed_batch(name: str) -> None:
    expect_int8(quantize(MODELS[name](batch=2)))


def test_excluded_operators_stay_in_float() -> None:
    model = MODELS["conv_relu"]()
    first, second = (n.name for n in model.graph.node if n.op_type == "Conv")
    q = quantize(model, exclude=(first,))
    assert [e.node for e in q.plan.activations] == [second]
    expect_int8(q)


def test_float_models_have_no_int8() -> None:
    model = MODELS["conv_relu"]()
    names = [n.name for n in model.graph.node]
    assert rtx.int8_nodes(rtx.read_layers(rtx.build(model.SerializeToString())), names) == set()


_MODELOPT = json.loads((Path(__file__).parent / "data" / "modelopt_counts.json").read_text())
"""Counts of NVIDIA ModelOpt 0.47.0 on the same networks: `benchmarks/placement_plans.py --modelopt-python`."""

_NORMALIZES_LAST = ("bert", "detr_decoder")
"""Their residual streams stay in float for accuracy: they are written in both types."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in _TYPICAL else pytest.mark.slow) for n in BACKBONES])
def test_plans_are_no_larger_than_modelopts(name: str) -> None:
    ours = asdict(rtx.count_kernels(quantize(BACKBONES[name](), high_precision="fp16", spread=0.1).proto))
    theirs = _MODELOPT[name]["modelopt"]
    allowed = dict.fromkeys(("twice", "pools", "kernels", "qdq"), 0)
    if name in _NORMALIZES_LAST:
        allowed |= {"twice": 4, "kernels": 2}
    assert {
        field: ours[field] - theirs[field] for field in allowed if ours[field] - theirs[field] > allowed[field]
    } == {}


@pytest.mark.parametrize(
    ("name", "pools"),
    [("sppf", 3), ("unet", 2), ("densenet_chain", 1), ("repvgg_branches", 0), ("yolov3", 0), ("inception", 3)],
)
def test_no_tensor_is_written_in_two_types(name: str, pools: int) -> None:
    """Nor pooled twice: each of these was, when only the inputs of products were quantized."""
    q = quantize(BACKBONES[name](), high_precision="fp16", spread=0.1)
    counts = rtx.count_kernels(q.proto)
    assert (counts.twice, counts.pools) == (0, pools)
    assert counts.products == len({edge.node for edge in q.plan.weights})
