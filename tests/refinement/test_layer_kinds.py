"""Default calibration of weighted operators of every form: none is refused, and none is worse than ranges alone."""

import numpy as np
import onnx
import pytest

from quantkit import calibrate, quantize

from ..graph.builder import Builder
from ..graph.quantizing import run, sqnr_db


def convolution_without_bias(g, x):
    return g.conv(g.op("Relu", g.conv(x, 4, 8, bias=False)), 8, 4, bias=False), 2


def transposed_convolution_without_bias(g, x):
    return g.op("ConvTranspose", x, g.weight(4, 6, 3, 3)), 1


def matmul_head(g, x):
    pooled = g.op("Flatten", g.op("Relu", g.conv(x, 4, 8)))
    return g.op("MatMul", pooled, g.weight(8 * 36, 6)), 2


def transposed_gemm(g, x):
    flat = g.op("Transpose", g.op("Flatten", x), perm=[1, 0])
    hidden = g.op("Gemm", flat, g.weight(16, 144), g.weight(16), alpha=0.5, beta=2.0, transA=1, transB=1)
    return g.op("Gemm", g.op("Relu", hidden), g.weight(16, 5), alpha=3.0), 2


KINDS = [convolution_without_bias, transposed_convolution_without_bias, matmul_head, transposed_gemm]


NOTHING_TO_GAIN_DB = 40
"""Where less than 0.0003 of the output is error (35 dB), nothing but the ranges is tried."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_calibrated_by_default(kind, tmp_path):
    g = Builder()
    output, weights = kind(g, g.input("x", 4, 6, 6))
    proto = g.model(output)
    random = np.random.default_rng(1)
    seen, unseen = random.standard_normal((2, 64, 4, 6, 6)).astype(np.float32)
    onnx.save(proto, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", seen)
    exact = run(proto, {"x": unseen})
    found = {}
    for accuracy in ("fast", "balanced"):
        table = calibrate(tmp_path / "m.onnx", tmp_path / "x.npy", accuracy=accuracy, progress=False)
        made = quantize(tmp_path / "m.onnx", table, tmp_path / f"{accuracy}.onnx")
        assert (made.num_quantized, made.num_weighted) == (weights, weights)
        got = run(onnx.load(made.path), {"x": unseen})
        found[accuracy] = min(sqnr_db(exact[name], got[name]) for name in exact)
    assert found["balanced"] > min(found["fast"] - 0.5, NOTHING_TO_GAIN_DB)
    assert found["balanced"] > 25
