"""What is wrong with the model itself is said first, and not blamed on quantization."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.cli.conftest import conv_model, write_images


def test_random_operators_are_named_before_anything_runs(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    model.graph.node[-1].output[0] = "z"
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.5), "ratio"), numpy_helper.from_array(np.bool_(True), "on")]
    )
    model.graph.node.append(helper.make_node("Dropout", ["z", "ratio", "on"], ["y"], name="drop"))
    onnx.save(model, tmp_path / "net.onnx")
    images = write_images(tmp_path / "imgs", 4)
    for words in (("calibrate", "--accuracy", "fast"), ("evaluate", "--latency-s", "0")):
        outcome = quantkit(words[0], "--data", images, tmp_path / "net.onnx", *words[1:])
        lines = outcome.err.splitlines()
        assert any("draws random numbers" in line and "drop (Dropout)" in line for line in lines), outcome.err
        assert "random" in next(line for line in lines if line.startswith("warning:") and "table" not in line)


def test_nan_of_the_baseline_is_said_first(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    model.graph.node[-1].output[0] = "z"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    model.graph.node.append(helper.make_node("Add", ["z", "nan"], ["y"], name="spoil"))
    onnx.save(model, tmp_path / "net.onnx")
    images = write_images(tmp_path / "imgs", 4)
    outcome = quantkit("evaluate", "--data", images, tmp_path / "net.onnx", "--latency-s", "0")
    assert outcome.code == 0, outcome.err
    assert "the float model itself gives 32 NaN or infinite values" in outcome.out
