"""Overflow of FP16: nodes beyond 65,504 stay in FP32, judged by running the converted models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.evaluation.accurate_session import open_accurate
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import check_model, save_model
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.fp16_overflow import overflowing_nodes
from quantkit.graph.passes.prepare import FP16_OPSET, prepare
from quantkit.graph.placement.tensorrt import float_activations

from ..builder import Builder
from ..quantizing import load, run, sqnr_db


def magnitudes(model: onnx.ModelProto, x: np.ndarray) -> dict[str, float]:
    """Of every activation, by running the model with all of them as outputs."""
    graph = prepare(load(model), name="m")
    names = float_activations(graph)
    shown = onnx.shape_inference.infer_shapes(model)
    known = {o.name for o in shown.graph.output}
    infos = {v.name: v for v in shown.graph.value_info}
    shown.graph.output.extend(infos[n] for n in names if n in infos and n not in known)
    found = run(shown, {"x": x})
    return {"x": float(np.abs(x).max())} | {n: float(np.abs(v).max()) for n, v in found.items() if n in names}


def as_on_a_gpu(graph: ir.Model, x: np.ndarray, folder: Path) -> np.ndarray:
    """The output where each result is rounded to FP16, which ONNX Runtime does not do by itself on a CPU."""
    path = save_model(graph, folder / "half.onnx")[0]
    with open_accurate(FloatModel(path), name="half", threads=1) as runner:
        return next(iter(runner.run({"x": x}).values()))


def half(model: onnx.ModelProto, x: np.ndarray, folder: Path, *, checked: bool) -> tuple[float, ir.Model]:
    """SQNR of the FP16 model with and without what was seen, and that model."""
    graph = prepare(load(model), name="m", opset=FP16_OPSET)
    keep = overflowing_nodes(graph, magnitudes(model, x) if checked else {})
    to_fp16(graph, keep=keep)
    check_model(graph, "the FP16 model")
    expected, found = next(iter(run(model, {"x": x}).values())), as_on_a_gpu(graph, x, folder)
    return sqnr_db(expected, np.nan_to_num(found.astype(np.float64), posinf=1e30, neginf=-1e30)), graph


def layer_norm() -> onnx.ModelProto:
    """Taken apart, as exporters before opset 17 write it: the squares overflow."""
    g = Builder()
    x = g.linear(g.input("x", 4, 16), 16, 16)
    centered = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1]))
    variance = g.op("ReduceMean", g.op("Pow", centered, g.constant(2.0), name="square"), axes=[-1])
    deviation = g.op("Sqrt", g.op("Add", variance, g.constant(1e-5)))
    return g.model(g.linear(g.op("Div", centered, deviation), 16, 8))


def softmax() -> onnx.ModelProto:
    """Taken apart, without the subtraction of the largest: the exponentials overflow."""
    g = Builder()
    e = g.op("Exp", g.input("x", 4, 16), name="exp")
    return g.model(g.op("Div", e, g.op("ReduceSum", e, g.constant(np.array([-1])), keepdims=1, name="sum")))


@pytest.mark.parametrize(("make", "scale", "kept"), [(layer_norm, 800.0, {"square"}), (softmax, 8.0, {"exp", "sum"})])
def test_what_overflows_stays_in_fp32(make, scale, kept, tmp_path):
    model, x = make(), scale * np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32)
    assert half(model, x, tmp_path, checked=False)[0] < 10
    quality, graph = half(model, x, tmp_path, checked=True)
    assert quality > 45
    types = {node.name: node.outputs[0].dtype for node in graph.graph}
    assert {types[name] for name in kept} == {ir.DataType.FLOAT}
    assert ir.DataType.FLOAT16 in types.values()


def test_nothing_is_kept_below_the_limit():
    model, x = layer_norm(), np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32)
    assert overflowing_nodes(prepare(load(model), name="m", opset=FP16_OPSET), magnitudes(model, x)) == {}


def test_constants_beyond_the_limit_keep_their_operators_in_fp32(tmp_path):
    g = Builder()
    divided = g.op("Div", g.linear(g.input("x", 4, 16), 16, 8), g.constant(np.float32(2e5)), name="divide")
    model = g.model(g.op("Mul", divided, g.constant(np.float32(1000)), name="multiply"))
    x = 100 * np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32)
    quality, graph = half(model, x, tmp_path, checked=True)
    assert quality > 45
    types = {node.name: node.outputs[0].dtype for node in graph.graph}
    assert types["divide"] == ir.DataType.FLOAT


@pytest.mark.parametrize("mask", [-1e9, float(np.finfo(np.float32).min)])
def test_attention_masks_are_clipped_and_keep_fp16(mask, tmp_path):
    g = Builder()
    scores = g.input("x", 4, 4)
    allowed = np.tril(np.ones((4, 4)))
    masked = g.op("Where", g.op("Cast", g.constant(allowed), to=9), scores, g.constant(mask))
    model = g.model(g.op("Softmax", masked, axis=-1))
    x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    graph = prepare(load(model), name="m", opset=FP16_OPSET)
    assert overflowing_nodes(graph, magnitudes(model, x)) == {}
    assert half(model, x, tmp_path, checked=True)[0] > 45


def test_a_quantized_activation_beyond_the_limit_keeps_its_product_in_fp32(tmp_path):
    """DequantizeLinear gives what its scale has: scale, weights and product are all of FP32."""
    import quantkit

    g = Builder()
    h = g.linear(g.input("x", 4, 16), 16, 16)
    model = tmp_path / "net.onnx"
    onnx.save(g.model(g.linear(g.op("Relu", h), 16, 8)), model)
    x = (3e5 * np.random.default_rng(0).standard_normal((64, 4, 16))).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    table = quantkit.calibrate(model, tmp_path / "x.npy", method="minmax", progress=False)
    outputs = []
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.onnx"
        told = []
        quantkit.quantize(model, table, path, high_precision=precision, notify=told.append)
        outputs.append(as_on_a_gpu(FloatModel(path).graph, x, tmp_path))
    assert np.isfinite(outputs[1]).all()
    assert sqnr_db(*outputs) > 40
    assert any("nodes stay in FP32, beyond what FP16 holds (65504): " in notice.text for notice in told)
