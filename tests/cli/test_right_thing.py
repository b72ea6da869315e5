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


def test_a_model_that_declares_less_than_the_standard_wants_is_quantized(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    model.graph.name = ""
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Squeeze", ["z"], ["y"]))  # of what rank it is shows when it runs
    onnx.save(model, tmp_path / "net.onnx")
    images = write_images(tmp_path / "imgs", 4)
    outcome = quantkit("calibrate", "--data", images, tmp_path / "net.onnx", "--accuracy", "fast")
    assert outcome.code == 0, outcome.err
    assert "warning: net.onnx does not pass onnx.checker" in outcome.err
    onnx.load(tmp_path / "net.int8.onnx")


def test_a_model_that_runs_nowhere_is_named_not_its_int8_model(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, tmp_path / "net.onnx")
    images = write_images(tmp_path / "imgs", 4)
    outcome = quantkit("calibrate", "--data", images, tmp_path / "net.onnx", "--accuracy", "fast")
    assert outcome.code == 1
    assert "quantkit: error: net.onnx does not pass onnx.checker" in outcome.err


def test_an_output_of_another_rank_than_is_declared(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for _ in range(4):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = "d"
    images = write_images(tmp_path / "imgs", 4)
    model.graph.node[-1].output[0] = "z"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1], np.int64), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["z", "shape"], ["y"]))
    onnx.save(model, tmp_path / "net.onnx")
    outcome = quantkit("calibrate", "--data", images, tmp_path / "net.onnx")
    assert outcome.code == 0, outcome.err


def test_batch_normalization_of_training_is_named(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    model.graph.node[0].output[0] = "made"
    ones = numpy_helper.from_array(np.ones(8, np.float32), "ones")
    model.graph.initializer.append(ones)
    node = helper.make_node(
        "BatchNormalization", ["made", *["ones"] * 4], ["c", "mean", "var"], training_mode=1, name="bn"
    )
    model.graph.node.insert(1, node)
    onnx.save(model, tmp_path / "net.onnx")
    images = write_images(tmp_path / "imgs", 4)
    outcome = quantkit("calibrate", "--data", images, tmp_path / "net.onnx", "--accuracy", "fast")
    assert "normalizes by the batch" in outcome.err
    assert "bn (BatchNormalization)" in outcome.err


def test_a_table_of_many_samples_is_not_replaced_by_one_of_few(quantkit, model, tmp_path):
    """As a wrong folder would."""
    many, one = write_images(tmp_path / "many", 20), write_images(tmp_path / "one", 1)
    assert quantkit("calibrate", model, "--data", many, "--method", "minmax").code == 0
    table = tmp_path / "net.calib.json"
    before = table.read_bytes()
    for words in ((), ("--keep-statistics",), ("--dry-run",)):
        refused = quantkit("calibrate", model, "--data", one, "--method", "minmax", *words)
        assert refused.code == 1
        assert f"{table} was made from 20 samples and would be replaced by one from 1 sample" in refused.err
        assert "--force" in refused.err
        assert table.read_bytes() == before
    elsewhere = quantkit("calibrate", model, "--data", one, "--method", "minmax", "-o", tmp_path / "other")
    assert elsewhere.code == 0
    assert "warning: Only 1 calibration sample" in elsewhere.err
    assert quantkit("calibrate", model, "--data", many, "--method", "minmax", "--num-samples", 2).code == 0, "asked for"
    for words in (("--num-samples", 1), ("--force",)):
        assert quantkit("calibrate", model, "--data", many, "--method", "minmax").code == 0
        assert quantkit("calibrate", model, "--data", one, "--method", "minmax", *words).code == 0
    assert table.read_bytes() != before


def test_nodes_of_one_name_are_accepted_by_every_command(quantkit, tmp_path):
    """ONNX Runtime refuses them, exporters write them: nothing depends on the names."""
    model = onnx.load(conv_model(tmp_path / "net.onnx"))
    for node in model.graph.node:
        node.name = "module"
    onnx.save(model, tmp_path / "net.onnx")
    images, net = write_images(tmp_path / "imgs", 4), tmp_path / "net.onnx"
    for words in (
        ("calibrate", net, "--data", images, "--accuracy", "fast"),
        ("quantize", net, "--target", "cpu"),
        ("evaluate", net, "--data", images, "--latency-s", "0", "--layer-samples", "0"),
        ("sensitivity", net, "--data", images, "--num-samples", "2"),
        ("bench", net, "--duration", "0.01", "--warm-up-ms", "0", "--iterations", "1"),
    ):
        outcome = quantkit(*words)
        assert outcome.code == 0, outcome.err
