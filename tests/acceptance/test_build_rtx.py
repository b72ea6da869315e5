"""`quantkit build` on the trained models, from calibration to engines for three generations of GPUs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import quantkit
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model_hash import model_hash
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.types import CalibrationTable, TensorRange

from .. import rtx

pytest.importorskip("tensorrt_rtx")

PRODUCTS = {"resnet20": 20, "mobilenetv2": 53, "efficientnet_b0": 82, "vit_tiny": 56}
"""Convolutions and matrix products of each model; those of attention count as two."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", list(PRODUCTS))
def test_engines_for_three_generations(name: str, precision: str, shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / f"{name}_cifar10.onnx"
    table = invented_table(model) if precision == "int8" else None
    options = BuildOptions(targets=("sm86", "sm89", "sm120"))
    keywords = {"quantize_all": True} if precision == "int8" else {}
    output = tmp_path / "m.engine"
    built = quantkit.build(model, precision=precision, table=table, output=output, options=options, **keywords)
    layers = rtx.read_layers(built.path.read_bytes())
    weighted = {node.name for node in onnx.load(model).graph.node if node.op_type in WEIGHTED}
    assert len(weighted) == PRODUCTS[name]
    int8 = rtx.int8_nodes(layers, weighted)
    assert int8 == (weighted if precision == "int8" else set())
    assert (built.num_quantized is None) == (table is None)
    assert any("half" in layer.inputs for layer in layers) == (precision != "fp32")


def invented_table(model: Path) -> CalibrationTable:
    """Ranges decide nothing about what runs in INT8: any will do."""
    graph = FloatModel(model).graph
    identity = model_hash(graph)
    names = float_activations(prepare(graph, name=model.name))
    ranges = {name: TensorRange(4.0, -4.0, 4.0) for name in names}
    return CalibrationTable(ranges, identity, "f" * 64, 1, {"method": "minmax"}, model_name=model.name)
