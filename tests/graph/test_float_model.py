"""A model opened once: what it says of itself, copies that share weights, and files that change under it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.errors import ModelError
from quantkit.graph import model as model_module
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import share_weights
from quantkit.graph.placement.tensorrt import plan_tensorrt

from .builder import Builder
from .models import MODELS
from .quantizing import load, random_inputs, run, write

SIDE = 160
"""A weight of 100 kB: large enough to be shared instead of copied."""


def large_model(seed: int = 0) -> onnx.ModelProto:
    g = Builder(seed=seed)
    return g.model(g.op("MatMul", g.input("x", SIDE), g.constant(g.random.normal(size=(SIDE, SIDE)), "w")))


def test_path_and_bytes_are_the_same_model(tmp_path: Path) -> None:
    path = write(large_model(), tmp_path / "m.onnx")
    of_path, of_bytes = FloatModel(path), FloatModel(path.read_bytes(), name="m.onnx")
    assert of_path.hash == of_bytes.hash
    assert of_path.inputs == of_bytes.inputs
    assert (of_path.name, of_path.path, str(of_path)) == ("m.onnx", path, str(path))
    assert (of_bytes.name, of_bytes.source_files, of_bytes.size_bytes) == ("m.onnx", (), 0)
    assert (of_path.source_files, of_path.size_bytes) == ((path,), path.stat().st_size)


def test_an_open_model_is_not_opened_again(tmp_path: Path) -> None:
    model = FloatModel(write(large_model(), tmp_path / "m.onnx"))
    assert FloatModel.open(model) is model
    assert FloatModel.open(model.path).hash == model.hash


@pytest.mark.parametrize("external", [False, True])
def test_hash_is_of_the_weights_wherever_they_lie(tmp_path: Path, external: bool) -> None:
    path = write(large_model(), tmp_path / "m.onnx", external=external)
    assert FloatModel(path).hash == model_module.model_hash(load(large_model()))
    assert FloatModel(write(large_model(1), tmp_path / "other.onnx")).hash != FloatModel(path).hash


@pytest.mark.parametrize("name", ["residual_identity", "subgraph"])
def test_nodes_in_any_order_are_the_same_model(name: str) -> None:
    sorted_nodes = MODELS[name]()
    reversed_nodes = onnx.ModelProto.FromString(sorted_nodes.SerializeToString())
    reversed_nodes.graph.node.reverse()
    model = FloatModel(reversed_nodes.SerializeToString())
    before = FloatModel(reversed_nodes.SerializeToString()).hash
    prepared, expected = model.prepared(), FloatModel(sorted_nodes.SerializeToString()).prepared()
    assert model.hash == before
    assert plan_tensorrt(prepared).tensors == plan_tensorrt(expected).tensors


def test_a_cycle_is_one_line_that_names_the_model() -> None:
    proto = MODELS["conv_relu"]()
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]
    with pytest.raises(ModelError, match=r"^m\.onnx: invalid graph: [^\n]+$"):
        FloatModel(proto.SerializeToString(), name="m.onnx").prepared()


def test_prepared_copies_are_edited_apart_and_share_weights(tmp_path: Path) -> None:
    model = FloatModel(write(large_model(), tmp_path / "m.onnx"))
    before = model.hash
    one, other = model.prepared(), model.prepared()
    next(iter(one.graph)).name = "renamed"
    next(iter(one.graph)).outputs[0].dtype = ir.DataType.FLOAT16
    one.graph.inputs[0].dtype = ir.DataType.FLOAT16
    one.graph.initializers.clear()
    for unchanged in (other, model.prepared(), model.graph):
        node = next(iter(unchanged.graph))
        assert (node.name == "renamed", node.outputs[0].dtype) == (False, ir.DataType.FLOAT)
        assert unchanged.graph.inputs[0].dtype is ir.DataType.FLOAT
    weights = [graph.graph.initializers["w"].const_value for graph in (other, model.prepared(), model.graph)]
    assert np.shares_memory(weights[0].numpy(), weights[1].numpy())
    assert np.shares_memory(weights[0].numpy(), weights[2].numpy())
    assert model_module.model_hash(model.graph) == before


def test_prepared_raises_the_opset_where_it_is_asked_to(tmp_path: Path) -> None:
    model = FloatModel(write(MODELS["conv_relu"](), tmp_path / "m.onnx"))
    assert model.graph.opset_imports[""] == 17
    assert [model.prepared(opset).opset_imports[""] for opset in (13, 19, 17)] == [17, 19, 17]


def test_a_quantized_model_is_refused_where_a_float_one_is_wanted(tmp_path: Path) -> None:
    g = Builder()
    proto = g.model(g.op("QuantizeLinear", g.input("x", 4), g.constant(1.0)), types=[np.uint8])
    model = FloatModel(write(proto, tmp_path / "m.onnx"))
    assert model.is_quantized
    with pytest.raises(ModelError, match=r"m\.onnx is already quantized: pass the float model"):
        model.check_float()


def test_bytes_with_external_data_are_refused(tmp_path: Path) -> None:
    path = write(large_model(), tmp_path / "m.onnx", external=True)
    with pytest.raises(ModelError, match=r"m\.onnx: weight 'w' is in another file: pass the path"):
        FloatModel(path.read_bytes(), name="m.onnx")


def test_a_replaced_file_changes_nothing(tmp_path: Path) -> None:
    path = write(large_model(), tmp_path / "m.onnx", external=True)
    model = FloatModel(path)
    inputs, expected = random_inputs(model.graph), model_module.model_hash(load(large_model()))
    write(large_model(1), path, external=True)
    model.check_unchanged()
    assert model.hash == expected
    with OnnxRuntimeRunner(share_weights(model.prepared()), spinning=False) as runner:
        for name, values in runner.run(inputs).items():
            np.testing.assert_allclose(values, run(large_model(), inputs)[name], rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"m\.onnx was changed while it was in use: run again"):
        model.check_unchanged(also_itself=True)


@pytest.mark.parametrize("how", ["renamed over", "written to", "removed"])
def test_mapped_weights_that_change_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """With the limit lowered: larger external data stay on disk."""
    monkeypatch.setattr(model_module, "LARGE_MODEL_BYTES", 1000)
    path = write(large_model(), tmp_path / "m.onnx", external=True)
    data = path.with_name("m.onnx.data")
    model = FloatModel(path)
    assert model.source_files == (path, data)
    model.check_unchanged(also_itself=True)
    if how == "renamed over":
        (tmp_path / "new").write_bytes(data.read_bytes())
        os.replace(tmp_path / "new", data)
    elif how == "written to":
        with open(data, "r+b") as stream:
            stream.write(bytes(4))
        os.utime(data, ns=(1, 1))
    else:
        data.unlink()
    with pytest.raises(ModelError, match=r"m\.onnx\.data was changed while it was in use: run again"):
        model.check_unchanged()


def test_large_weights_are_shared_with_onnxruntime(tmp_path: Path) -> None:
    """Types that it shares, one that it does not, and small ones: the outputs are those of the file."""
    g = Builder()
    y = g.op("MatMul", g.input("x", SIDE), g.constant(g.random.normal(size=(SIDE, SIDE)), "shared"))
    y = g.op("Add", y, g.constant(g.random.normal(size=SIDE), "small"))
    g.initializers.append(helper.make_tensor("ints", TensorProto.INT32, [SIDE * SIDE], range(SIDE * SIDE)))
    y = g.op("Add", y, g.op("Cast", g.op("ReduceMax", "ints", keepdims=0), to=TensorProto.FLOAT))
    proto = g.model(y)
    model = FloatModel(write(proto, tmp_path / "m.onnx"))
    shared = share_weights(model.graph)
    assert list(shared.weights) == ["shared"]
    assert len(shared.content) < 4 * SIDE * SIDE + 10_000
    inputs = random_inputs(model.graph)
    with OnnxRuntimeRunner(shared, spinning=False) as runner, OnnxRuntimeRunner(model.path, spinning=False) as plain:
        for name, values in plain.run(inputs).items():
            np.testing.assert_array_equal(runner.run(inputs)[name], values)
    assert model.graph.graph.initializers["shared"].const_value is not None


def test_a_weight_of_the_wrong_length_is_refused() -> None:
    proto = large_model()
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "w")
    weight.raw_data += bytes(4)
    with pytest.raises(ModelError, match=r"m\.onnx: weight 'w' cannot be read"):
        FloatModel(proto.SerializeToString(), name="m.onnx")


def test_a_dynamic_dimension_may_be_minus_one() -> None:
    """As PaddlePaddle's exporter writes it."""
    g = Builder(batch=-1)
    model = FloatModel(g.model(g.conv(g.input("x", 3, -1, 8), 3, 4)).SerializeToString())
    assert model.inputs[0].shape == (None, 3, None, 8)
    graph = model.prepared()
    assert [value.shape[0] for value in graph.graph.inputs] == [ir.SymbolicDim(None)]
    with OnnxRuntimeRunner(share_weights(model.graph)) as runner:
        assert runner.inputs[0].shape[0] is None
        assert next(iter(runner.run({"x": np.ones((2, 3, 8, 8), np.float32)}).values())).shape == (2, 4, 8, 8)
