"""A recurrent model from calibration to the report: a state beside the batch, and a scalar."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantkit
from quantkit.commands.evaluate import evaluate
from quantkit.commands.reproduction import calibrate_command
from quantkit.types.options import ImageOptions
from tests.graph.builder import Builder


def recurrent(path, state_batch):
    """[N, length, 8] of sound, a state [2, N, 4] that it adds and returns, and a rate that it divides by."""
    g = Builder()
    x = g.input("x", "length", 8)
    g.inputs.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, state_batch, 4]))
    g.inputs.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
    held = g.op("Unsqueeze", g.op("ReduceMean", "state", axes=[0], keepdims=0), g.constant(np.array([1])))
    rate = g.op("Div", g.op("Cast", "sr", to=TensorProto.FLOAT), g.constant(16000.0))
    y = g.op("Mul", g.op("Add", g.linear(x, 8, 4), held), rate)
    onnx.save(g.model(g.linear(g.op("Relu", y), 4, 4), g.op("Identity", "state")), path)
    return path


@pytest.mark.parametrize("state_batch", ["N", 1])
def test_a_recurrent_model(tmp_path, state_batch):
    model = recurrent(tmp_path / "net.onnx", state_batch)
    random = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(6):
        x = random.normal(size=(1, 10 + i % 2, 8)).astype(np.float32)
        np.savez(tmp_path / "data" / f"{i}.npz", x=x, state=random.normal(size=(2, 1, 4)).astype(np.float32))
    said = ImageOptions(batch_axis={"state": 1}, constant={"sr": 16000})
    table = quantkit.calibrate(model, tmp_path / "data", preprocess=said, accuracy="fast", progress=False)
    assert calibrate_command(table, "net.onnx").endswith("--batch-axis state=1 --constant sr=16000")
    options = {"preprocess": said, "table": table, "variants": ["int8"], "latency_s": 0, "progress": False}
    report = evaluate(model, tmp_path / "data", task="none", **options)
    assert report.evaluations[1].metrics["sqnr_db"] > 25
    assert report.baseline.num_samples == 6
