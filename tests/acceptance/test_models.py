"""The main job on four trained models: INT8 keeps the accuracy, TensorRT's kind and the CPU's."""

import json

import onnx
import pytest

from quantkit.cli import main

SLOW = pytest.mark.slow
MODELS = ("resnet20", "vit_tiny", pytest.param("mobilenetv2", marks=SLOW), pytest.param("efficientnet_b0", marks=SLOW))
"""A convolutional network and a transformer in every run."""

IMAGES = ["--preprocess", "imagenet", "--resize", "stretch"]
MARGIN = 0.03
"""On 1,000 images of which 3% flip, two standard errors of the difference are 1.1 points; a wrong scale costs 10."""


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code


def float_weight_bytes(path):
    """Of the weighted operators that calibrate left in float."""
    graph = onnx.load(path).graph
    sizes = {tensor.name: onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer}
    return sum(sizes.get(node.input[1], 0) for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))


@pytest.mark.parametrize("name", MODELS)
def test_int8_keeps_the_accuracy(shared, tmp_path, name):
    model = shared / "models" / f"{name}_cifar10.onnx"
    data = shared / "data" / "cifar10"
    run("calibrate", "--data", data / "calib", model, "-o", tmp_path, "--num-samples", 300, *IMAGES, "-q")
    run(
        "evaluate", "--data", data / "test", model, "--table", tmp_path / f"{name}_cifar10.calib.json", "-o", tmp_path,
        "--num-samples", 1000, "--latency-s", 0, "--variants", "fp32,int8,int8-cpu", "-q",
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    top1 = {e["name"]: e["metrics"]["top1"] for e in report["evaluations"]}
    size = {e["name"]: e["size_bytes"] for e in report["evaluations"]}
    assert top1["int8"] > top1["fp32"] - MARGIN
    assert top1["int8-cpu"] > top1["fp32"] - MARGIN
    in_float = float_weight_bytes(tmp_path / f"{name}_cifar10.int8.onnx")
    # Squeeze-and-excitation, which INT8 does not speed up, is also in float in EfficientNet.
    assert in_float < size["fp32"] * (0.15 if name == "efficientnet_b0" else 0.1)
    assert size["int8"] < size["fp32"] * 0.32 + in_float
