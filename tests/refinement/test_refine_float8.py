"""What FP8 leaves in float and shifts on samples, and that models keep it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from quantkit.calibration.table import load_table
from quantkit.commands.calibrate import calibrate
from quantkit.commands.quantize import quantize

from ..graph.builder import Builder
from ..graph.quantizing import run, sqnr_db, write

WIDE = 256


def _calibrated(folder: Path, graph: onnx.ModelProto, data: np.ndarray) -> tuple[Path, Path, Path]:
    model, samples, table = (folder / name for name in ("net.onnx", "x.npy", "net.calib.json"))
    write(graph, model)
    np.save(samples, data.astype(np.float32))
    calibrate(model, samples, accuracy="fast", progress=False, table_path=table)
    return model, samples, table


def _quality(model: Path, quantized: Path, data: np.ndarray) -> float:
    reference, got = (run(onnx.load(path), {"x": data.astype(np.float32)}) for path in (model, quantized))
    return min(sqnr_db(value, got[key]) for key, value in reference.items())


@pytest.fixture
def faint(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A network whose input differs little from a large mean that its first operator removes, and is cheap."""
    random = np.random.default_rng(0)
    g = Builder()
    difference = np.eye(32, dtype=np.float32) - np.float32(1 / 32)
    x = g.op("MatMul", g.input("x", 32), g.constant(difference))
    x = g.op("Relu", g.gemm(x, 32, WIDE))
    graph = g.model(g.gemm(g.op("Relu", g.gemm(x, WIDE, WIDE)), WIDE, 32))
    return _calibrated(tmp_path, graph, 4 + 0.2 * random.standard_normal((64, 32)))


def test_an_input_that_fp8_ruins_stays_in_float_and_is_kept(faint, tmp_path):
    model, samples, table = faint
    data = np.load(samples)
    plain = quantize(model, table, tmp_path / "plain.onnx", format="fp8")
    said: list[str] = []
    found = quantize(
        model, table, tmp_path / "f.onnx", format="fp8", data=samples, notify=lambda n: said.append(n.text)
    )
    assert found.skipped["x"].startswith("more accurate in float (alone in FP8: relative error ")
    assert any("2 of 4 activations stay in float (11.1% of the multiply-adds)" in text for text in said)
    assert found.num_quantized == plain.num_quantized - 2
    assert _quality(model, found.path, data) > _quality(model, plain.path, data) + 10
    kept = load_table(table).roundings["fp8"]
    assert kept.float_tensors == {name: why for name, why in found.skipped.items() if why.startswith("more accurate")}
    assert quantize(model, table, tmp_path / "k.onnx", format="fp8").path.read_bytes() == found.path.read_bytes()
    nearest = quantize(model, table, tmp_path / "n.onnx", format="fp8", rounding="nearest")
    assert nearest.skipped["x"] == found.skipped["x"]
    assert "x" not in quantize(model, table, tmp_path / "int8.onnx").skipped


def test_channels_are_quantized_around_their_means(tmp_path):
    random = np.random.default_rng(0)
    g = Builder()
    x = g.op("Relu", g.gemm(g.input("x", 32), 32, WIDE))
    x = g.op("Add", x, g.constant(random.uniform(4, 8, WIDE).astype(np.float32)))
    graph = g.model(g.gemm(x, WIDE, 32))
    model, samples, table = _calibrated(tmp_path, graph, random.standard_normal((64, 32)))
    plain = quantize(model, table, tmp_path / "plain.onnx", format="fp8")
    found = quantize(model, table, tmp_path / "found.onnx", format="fp8", data=samples)
    (shift,) = load_table(table).roundings["fp8"].shifts.values()
    assert shift.shape == (WIDE,)
    assert shift.min() > 3
    data = np.load(samples)
    assert _quality(model, found.path, data) > _quality(model, plain.path, data) + 6
