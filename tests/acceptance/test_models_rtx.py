"""The trained models, quantized as `quantkit quantize` does, on TensorRT-RTX: every planned product is in 8 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from quantkit.backends.tensorrt.inspection.rtx_plan import read_plan
from quantkit.commands.calibrate import calibrate
from quantkit.commands.format_rounding import samples_of
from quantkit.commands.quantize import quantize as quantize_file
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import check_model
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.refinement.transforms import _around_means, find_sites, with_transforms
from quantkit.types import FP8, CalibrationTable, Refinement

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


@pytest.mark.parametrize("name", ["mobilenetv3_small", "mobilenetv2"])
def test_shifts_and_activations_in_fp16_take_no_kernel_beside_fp8(name: str, shared: Path, tmp_path: Path) -> None:
    path, data = shared / "models" / f"{name}_cifar10.onnx", shared / "data" / "cifar10" / "calib"
    table = calibrate(path, data, num_samples=32, accuracy="fast", progress=False)
    model = FloatModel(path)
    plan = plan_tensorrt(graph := model.prepared(21), fmt=FP8)
    sites = find_sites(graph, plan, samples_of(model, table, data).first(16), padded=False)
    shifts = {n: t for n in sites.shiftable for t in _around_means(sites.values[n], table.tensors[n].amax)}
    assert len(shifts) > 10
    shifted = with_transforms(Refinement(), shifts)
    floats = {edge.tensor: "asked for" for edge in plan.activations[::5]}
    products, kernels = zip(
        *(
            _fp8_products_and_kernels(model, table, found, tmp_path)
            for found in (Refinement(), shifted, replace(shifted, float_tensors=floats))
        ),
        strict=True,
    )
    assert products[0] == products[1] == {edge.node for edge in plan.weights}
    assert products[2] < products[0]
    assert kernels[0] == kernels[1] >= kernels[2]


def _fp8_products_and_kernels(
    model: FloatModel, table: CalibrationTable, found: Refinement, folder: Path
) -> tuple[set[str], int]:
    """Operators that quantkit says are in FP8, each of which the plans multiply in it; kernels of the one for Ada."""
    made = quantize_file(model, replace(table, roundings={"fp8": found}), folder / "net.onnx", format="fp8")
    proto = onnx.load(made.path)
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    weighted = {node.name: node.input[0] for node in proto.graph.node if node.op_type in WEIGHTED}
    said = {name for name, read in weighted.items() if read in dequantized}
    assert len(said) == made.num_quantized
    plans = [rtx.build(proto.SerializeToString(), batch=1, capabilities=[gpu]) for gpu in ("SM89", "SM120")]
    for plan in plans:
        assert rtx.nodes_in("fp8_e4m3", rtx.read_layers(plan), weighted) == said
    read = read_plan(plans[0])
    assert read is not None
    return said, sum(not layer.is_idle for layer in read.layers)
