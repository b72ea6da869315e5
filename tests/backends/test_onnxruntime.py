from __future__ import annotations

import numpy as np
import pytest

from quantkit.backends.onnxruntime import (
    OnnxRuntimeRunner,
    optimized_model,
    runtime_version,
    using_extensions,
    using_gpu,
)
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.types import SharedModel

from .runner_contract import RunnerContract, X, Y

onnx = pytest.importorskip("onnx")


def affine_model() -> bytes:
    """y = relu(2 x + 1) over [N, 3]."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["a"]),
            helper.make_node("Add", ["a", "one"], ["b"]),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        "affine",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("two", 2), ("one", 1))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_a_relu_before_fp8_is_computed():
    """ONNX Runtime by itself takes it away, although FP8 has negative values."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        helper.make_tensor("z", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0]),
    ]
    x, y = (helper.make_tensor_value_info(name, kind, ["N"]) for name in "xy")
    graph = helper.make_graph(nodes, "relu", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1, fuse_qdq=False) as runner:
        assert runner.run({"x": np.array([-9, -0.3, 0, 0.3, 1e6], np.float32)})["y"].tolist() == [0, 0, 0, 0.3125, 224]


class TestOnnxRuntimeRunner(RunnerContract):
    def open(self):
        return OnnxRuntimeRunner(affine_model(), threads=1, spinning=False)


def test_a_path_does_as_well(tmp_path):
    path = tmp_path / "affine.onnx"
    path.write_bytes(affine_model())
    with OnnxRuntimeRunner(path, threads=1) as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
        assert runner.inputs[0].shape == ("N", 3)


def test_what_is_no_model_is_named():
    with pytest.raises(BackendError, match="cannot load the odd one: "):
        OnnxRuntimeRunner(b"nonsense", name="the odd one")


def test_a_provider_that_is_not_there_is_named():
    with using_gpu(0), pytest.raises(BackendUnavailableError, match="no provider CUDAExecutionProvider"):
        OnnxRuntimeRunner(affine_model())


def test_the_version_is_known():
    assert runtime_version()[0].isdigit()


def test_extensions_are_registered_in_their_order(tmp_path):
    """One may need another."""
    paths = [tmp_path / "b.so", tmp_path / "a.so"]
    for path in paths:
        path.write_text("no library")
    with pytest.raises(BackendError, match=r"b\.so: ONNX Runtime cannot load it"), using_extensions(paths):
        pass
    OnnxRuntimeRunner(affine_model()).close()  # nothing of them is left


def test_an_optimized_model_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    inputs = {"x": np.ones((2, 3), np.float32)}
    with OnnxRuntimeRunner(optimized_model(SharedModel(affine_model(), {})), is_optimized=True) as runner:
        found = runner.run(inputs)
    with OnnxRuntimeRunner(affine_model()) as runner:
        assert all(np.array_equal(found[name], values) for name, values in runner.run(inputs).items())
    with pytest.raises(BackendError, match="ONNX Runtime cannot optimize the model: "):
        optimized_model(SharedModel(b"no model", {}))
    assert not list(tmp_path.iterdir())
