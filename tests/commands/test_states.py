"""A recurrent model from calibration to the report: a state beside the batch, and a scalar."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantkit
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.merge import merge_statistics
from quantkit.caches.verify import verify_cache
from quantkit.commands.evaluate import evaluate
from quantkit.commands.reproduction import calibrate_command
from quantkit.commands.sensitivity import sensitivity
from quantkit.errors import CalibrationError, DatasetError
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


def decided(path):
    """[N, 8], and sr, an INT64 that decides which of two networks runs."""
    g, wide, narrow = Builder(), Builder(seed=1), Builder(seed=2)
    g.input("x", 8)
    g.inputs.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
    branches = {}
    for name, inner in (("then_branch", wide), ("else_branch", narrow)):
        graph = inner.model(inner.linear(inner.op("Relu", inner.linear("x", 8, 16)), 16, 4)).graph
        branches[name] = onnx.helper.make_graph(graph.node, name, [], graph.output, graph.initializer)
    y = g.op("If", g.op("Equal", "sr", g.constant(np.array(16000))), **branches)
    onnx.save(g.model(y), path)
    return path


def test_a_network_inside_of_an_if_that_a_constant_decides(tmp_path):
    decided(tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32))
    told, said = [], ImageOptions(constant={"sr": 16000})
    files = (tmp_path / "net.onnx", tmp_path / "x.npy")
    options = {"accuracy": "fast", "progress": False, "notify": told.append}
    table = quantkit.calibrate(*files, preprocess=said, **options)
    assert "The INT8 model holds only the branch that sr = 16000 takes, whatever value is fed later." in [
        notice.text for notice in told
    ]
    quantized = quantkit.quantize(files[0], table, tmp_path / "int8.onnx")
    assert (quantized.num_quantized, quantized.num_weighted) == (2, 2)
    options = {"table": table, "variants": ["fp32", "int8"], "latency_s": 0, "progress": False}
    report = evaluate(*files, task="none", **options)
    assert report.evaluations[1].metrics["sqnr_db"] > 25
    assert {layer.name for layer in sensitivity(*files, table=table, progress=False).units}


@pytest.fixture
def sequences(tmp_path):
    """A model of [6, N, 12], and 24 samples of [6, 12]: 6 of them fit where 24 x 6 numbers are not told apart."""
    random = np.random.default_rng(0)
    weights = {"v": random.normal(size=(12, 16)), "w": random.normal(size=(16, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["c"], axes=[0], keepdims=0),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sequences",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, "N", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
    scales = np.array([1, 1, 1, 1, 1, 9.0])[:, None]  # the order of samples and steps matters
    np.save(tmp_path / "x.npy", (random.normal(size=(24, 6, 12)) * scales).astype(np.float32))
    return tmp_path / "net.onnx", tmp_path / "x.npy"


AXIS = ImageOptions(batch_axis={"x": 1})


def test_another_batch_axis_makes_table_and_statistics_stale(sequences, tmp_path):
    def run(said, keep_statistics=False):
        told = []
        options = {"accuracy": "fast", "keep_statistics": keep_statistics, "progress": False}
        table = quantkit.calibrate(
            *sequences, preprocess=said, table_path=tmp_path / "t.calib.json", notify=told.append, **options
        )
        return table, [notice.text for notice in told if notice.topic in ("reuse", "data")]

    first, texts = run(None, keep_statistics=True)
    warned = "input 'x' [6, 'N', 12]: the batch is taken to be its first dimension, fixed to 6; pass --batch-axis x=1"
    assert any(text.startswith(warned) for text in texts)
    second, texts = run(AXIS)
    for file in ("t.calib.json", "t.calib.stats"):
        assert any(file in text and "batch axis: none → x=1" in text for text in texts), file
    assert not any("--batch-axis" in text for text in texts)
    assert second.tensors["c"] != first.tensors["c"]
    assert any(text.startswith("Reusing") for text in run(AXIS)[1])
    with pytest.raises(CalibrationError, match="cannot be merged: batch axis: none → x=1"):
        merge_of_both(sequences, tmp_path)
    third, texts = run(None)
    assert any("t.calib.json" in text and "batch axis: x=1 → none" in text for text in texts)
    assert third.tensors == first.tensors


def merge_of_both(sequences, tmp_path):
    paths = []
    for name, said in (("a", None), ("b", AXIS)):
        table_path = tmp_path / f"{name}.calib.json"
        options = {"accuracy": "fast", "keep_statistics": True, "progress": False, "preprocess": said}
        quantkit.calibrate(*sequences, table_path=table_path, **options)
        paths.append(CalibrationFiles(table_path).statistics)
    merge_statistics(paths)


def test_batch_axes_are_those_of_the_table(sequences, tmp_path):
    path = tmp_path / "t.calib.json"
    table = quantkit.calibrate(*sequences, preprocess=AXIS, table_path=path, accuracy="fast", progress=False)
    options = {"table": table, "variants": ["int8"], "latency_s": 0, "progress": False, "task": "none"}
    said, taken = (evaluate(*sequences, preprocess=given, **options) for given in (AXIS, None))
    assert taken.evaluations[1].metrics == said.evaluations[1].metrics
    assert taken.baseline.num_samples == 24
    ranked = [sensitivity(*sequences, table=table, preprocess=given, progress=False) for given in (AXIS, None)]
    assert ranked[0].units == ranked[1].units
    checked = [verify_cache(path, sequences[0], data=sequences[1], preprocess=given).checks for given in (AXIS, None)]
    assert checked[0] == checked[1]
    with pytest.raises(DatasetError, match="--batch-axis x=0: the table was calibrated with x=1"):
        evaluate(*sequences, preprocess=ImageOptions(batch_axis={"x": 0}), **options)
