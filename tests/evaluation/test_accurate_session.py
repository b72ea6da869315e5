"""Accuracy of models for TensorRT and of FP16, against NumPy: the same on every processor."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantkit import calibrate, quantize
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.evaluation.accurate_session import computes_in_fp16, is_for_gpu, open_accurate
from quantkit.graph.float_model import FloatModel
from quantkit.types.options import Target

from ..graph.builder import Builder
from ..graph.quantizing import sqnr_db

SAMPLES = np.random.default_rng(3).uniform(0.7, 1, (64, 96)).astype(np.float32)
"""Near the end of the range, where products of 8 bits leave 16."""


def make(tmp_path, proto, target: Target = "tensorrt", high_precision="fp32"):
    onnx.save(proto, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", SAMPLES)
    table = calibrate(tmp_path / "m.onnx", tmp_path / "x.npy", method="minmax", progress=False)
    path = tmp_path / f"{target}.onnx"
    quantize(tmp_path / "m.onnx", table, path, target=target, high_precision=high_precision, reduce_range=False)
    return FloatModel(path)


def rounded(values, axis=None):
    step = np.abs(values).max(axis, keepdims=True).astype(np.float64) / 127
    return np.clip(np.rint(values / step), -128, 127) * step


def constants(proto):
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in proto.graph.initializer}


def positive(g, *shape):
    return g.constant(g.random.uniform(0.5, 1, shape), "w")


def matmul_head():
    g = Builder()
    return g.model(g.op("MatMul", g.input("x", 96), positive(g, 96, 10))), lambda x, c: x @ rounded(c["w"], 0)


def gemm_with_everything():
    g = Builder()
    flipped = g.op("Transpose", g.input("x", 96), perm=[1, 0])
    bias = g.constant(g.random.standard_normal(10), "b")
    y = g.op("Gemm", flipped, positive(g, 10, 96), bias, alpha=0.5, beta=2.0, transA=1, transB=1)
    return g.model(y), lambda x, c: 0.5 * x @ rounded(c["w"], 1).T + 2 * c["b"]


@pytest.mark.processor
@pytest.mark.parametrize("case", [matmul_head, gemm_with_everything])
def test_models_for_tensorrt_are_computed_as_onnx_defines_them(case, tmp_path):
    proto, formula = case()
    model = make(tmp_path, proto)
    expected = formula(rounded(SAMPLES), constants(proto))
    with open_accurate(model, name="int8", threads=1) as runner:
        (got,) = runner.run({"x": SAMPLES}).values()
    assert sqnr_db(expected, got) > 90
    assert is_for_gpu(model)
    assert not computes_in_fp16(model)


@pytest.mark.processor
def test_models_for_the_cpu_run_as_they_always_do(tmp_path):
    model = make(tmp_path, matmul_head()[0], "cpu")
    with open_accurate(model, name="x", threads=1) as one, OnnxRuntimeRunner(model.path, threads=1) as other:
        (accurate,), (plain,) = (runner.run({"x": SAMPLES}).values() for runner in (one, other))
    np.testing.assert_array_equal(accurate, plain)
    assert not is_for_gpu(model)


def two_products(scale):
    g = Builder(dtype=np.float16)
    hidden = g.op("MatMul", g.input("x", 96), g.constant(g.random.uniform(0.5, 1, (96, 24)) * scale, "first"))
    return g.model(g.op("MatMul", g.op("Relu", hidden), g.constant(g.random.standard_normal((24, 8)) / 24, "second")))


def test_fp16_rounds_what_lies_between_operators(tmp_path):
    proto = two_products(1.0)
    onnx.save(proto, tmp_path / "half.onnx")
    half = SAMPLES.astype(np.float16)
    c = constants(proto)
    between = (half.astype(np.float64) @ c["first"]).astype(np.float32).astype(np.float16)
    expected = between.astype(np.float64) @ c["second"]
    model = FloatModel(tmp_path / "half.onnx")
    with open_accurate(model, name="fp16", threads=1) as one, OnnxRuntimeRunner(model.path, threads=1) as other:
        (accurate,), (plain,) = (runner.run({"x": half}).values() for runner in (one, other))
    assert np.mean(accurate == expected.astype(np.float16)) > 0.97
    assert np.mean(plain == expected.astype(np.float16)) < 0.9
    assert computes_in_fp16(model)


def test_fp16_overflows_as_it_does_on_a_gpu(tmp_path):
    onnx.save(two_products(2000.0), tmp_path / "half.onnx")
    with open_accurate(FloatModel(tmp_path / "half.onnx"), name="fp16", threads=1) as runner:
        (got,) = runner.run({"x": SAMPLES.astype(np.float16)}).values()
    assert not np.isfinite(got).any()
