"""The trained models, quantized as `quantkit quantize` does, on TensorRT-RTX: every planned product is in INT8."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from quantkit.graph.model import check_model

from .. import rtx
from ..graph.quantizing import quantize

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

PRODUCTS = {"resnet20": 20, "mobilenetv2": 53, "efficientnet_b0": 82, "vit_tiny": 56}
"""Convolutions and matrix products of each model; those of attention count as two."""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", list(PRODUCTS))
def test_every_product_is_int8(name: str, precision: str, shared: Path) -> None:
    # Ranges decide nothing about placement: those of random inputs will do.
    model = onnx.load(shared / "models" / f"{name}_cifar10.onnx")
    q = quantize(model, high_precision=precision, batch=1)
    check_model(q.graph, name)
    nodes = {node.name: node.op_type for node in q.graph.graph}
    weighted = {node for node, op_type in nodes.items() if op_type in WEIGHTED}
    planned = {e.node for e in q.plan.activations if nodes[e.node] in WEIGHTED}
    spared = weighted & q.plan.skipped.keys()  # small: INT8 would not be faster
    assert planned == weighted - spared
    assert all("/se/" in node for node in spared)
    assert len(weighted) == PRODUCTS[name]
    layers = rtx.read_layers(rtx.build(q.proto.SerializeToString()))
    missing = planned - rtx.int8_nodes(layers, planned)
    assert not missing, {node: rtx.kernels_of(layers, node) for node in missing}
