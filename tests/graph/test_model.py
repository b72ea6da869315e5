from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.errors import ModelError, OutputError
from quantkit.graph import model as model_module
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import (
    check_model,
    float_precision,
    infer_shapes,
    input_specs,
    save_model,
    serialize_model,
    weight_bytes,
)
from quantkit.graph.model_hash import model_hash
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.types import TensorRange

from .builder import Builder
from .models import MODELS
from .quantizing import load, quantized, random_inputs, run, sqnr_db, write

# ---------------------------------------------------------------------------------------------------------- reading


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such model file"):
        FloatModel(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="is a folder, not an ONNX model"):
        FloatModel(tmp_path)
    for content in (b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello", os.urandom(200)):
        (tmp_path / "file.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"file\.onnx is not an ONNX model") as caught:
            FloatModel(tmp_path / "file.onnx")
        assert "\n" not in str(caught.value)


def test_truncated_files(tmp_path: Path) -> None:
    content = MODELS["conv_relu"]().SerializeToString()
    for size in (10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.onnx").write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            FloatModel(tmp_path / "cut.onnx")


@pytest.mark.parametrize(("opset", "fix"), [(6, "export it again with opset 17"), (99, "with an older opset")])
def test_opsets_out_of_range(opset: int, fix: str, tmp_path: Path) -> None:
    model = MODELS["conv_relu"]()
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"opset {opset} is not supported .*{fix}"):
        FloatModel(write(model, tmp_path / "m.onnx"))


def test_the_other_name_of_the_standard_domain(tmp_path: Path) -> None:
    model = MODELS["conv_relu"]()
    plain = model_hash(FloatModel(write(model, tmp_path / "a.onnx")).graph)
    model.opset_import[0].domain = "ai.onnx"
    graph = FloatModel(write(model, tmp_path / "b.onnx")).graph
    assert model_hash(graph) == plain
    assert len(plan_tensorrt(prepare(graph, name="b")).weights) == 2


def test_missing_external_data(tmp_path: Path) -> None:
    path = write(MODELS["conv_relu"](), tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"external data file m\.onnx\.data of weight .* is missing"):
        FloatModel(path)


def test_input_specs() -> None:
    g = Builder()
    x = g.input("x", 3, "H", 8)
    ids = g.input("ids", 4, dtype=np.int64)
    model = g.model(g.op("Relu", x), g.op("Identity", ids), types=(np.float32, np.int64))
    first, second = input_specs(load(model))
    assert (first.name, first.dtype, first.shape) == ("x", np.float32, ("N", 3, "H", 8))
    assert (second.name, second.dtype, second.shape) == ("ids", np.int64, ("N", 4))
    assert [s.name for s in input_specs(load(MODELS["initializers_as_inputs"]()))] == ["x"]


def test_input_without_a_rank(tmp_path: Path) -> None:
    model = MODELS["conv_relu"]()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'x' has no type or an unknown rank"):
        input_specs(FloatModel(write(model, tmp_path / "m.onnx")).graph)


def test_float_precision() -> None:
    assert float_precision(load(MODELS["conv_relu"]())) == "fp32"
    assert float_precision(load(MODELS["conv_relu"](dtype=np.float16))) == "fp16"
    g = Builder(dtype=np.float16)
    weight = numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float16), "w")
    g.nodes.append(helper.make_node("Constant", [], ["weight"], value=weight))
    y = g.op("Conv", g.input("x", 8, 4, 4), "weight", kernel_shape=[1, 1])
    assert float_precision(load(g.model(y))) == "fp16"


# ------------------------------------------------------------------------------------------------------------- hash


def changed(model: onnx.ModelProto, edit) -> str:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    edit(copy)
    return model_hash(load(copy))


def test_hash_ignores_where_and_how_it_is_stored(tmp_path: Path) -> None:
    model = MODELS["residual_identity"]()
    hashes = {
        model_hash(FloatModel(write(model, tmp_path / "a.onnx")).graph),
        model_hash(FloatModel(write(model, tmp_path / "elsewhere" / "b.onnx")).graph),
        model_hash(FloatModel(write(model, tmp_path / "c.onnx", external=True)).graph),
        changed(model, lambda m: m.graph.initializer.reverse()),
        changed(model, lambda m: setattr(m, "producer_name", "another")),
        changed(model, lambda m: setattr(m.graph.node[0], "name", "another")),
        changed(model, lambda m: setattr(m.graph, "name", "another")),
    }
    raw = onnx.ModelProto()
    raw.CopyFrom(model)
    for tensor in raw.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values.flatten().tolist()))
    hashes.add(model_hash(load(raw)))
    assert len(hashes) == 1


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "renamed"


def flip_one_bit(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    content = bytearray(tensor.raw_data)
    content[7] ^= 1
    tensor.raw_data = bytes(content)


@pytest.mark.parametrize(
    "edit",
    [
        flip_one_bit,
        lambda m: setattr(next(a for a in m.graph.node[0].attribute if a.name == "group"), "i", 2),
        lambda m: setattr(m.graph.node[1], "op_type", "Sigmoid"),
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 7),
        lambda m: setattr(m.opset_import[0], "version", 18),
        rename_output,
    ],
    ids=["weight", "attribute", "operator", "input", "opset", "tensor name"],
)
def test_hash_sees(edit) -> None:
    model = MODELS["residual_identity"]()
    assert changed(model, edit) != model_hash(load(model))


def test_hash_sees_what_branches_and_functions_hold() -> None:
    model = MODELS["subgraph"]()

    def edit(m: onnx.ModelProto) -> None:
        branch = next(a.g for n in m.graph.node for a in n.attribute if a.name == "else_branch")
        branch.node[0].op_type = "Relu"

    assert changed(model, edit) != model_hash(load(model))
    g = Builder()
    g.domains["local"] = 1
    node = helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.1)
    g.functions.append(helper.make_function("local", "Leak", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
    made = g.model(g.op("Leak", g.input("x", 4), domain="local"))
    other = changed(made, lambda m: setattr(m.functions[0].node[0].attribute[0], "f", 0.2))
    assert other != model_hash(load(made))


def test_hash_of_text_and_lists() -> None:
    g = Builder()
    texts = numpy_helper.from_array(np.array(["cat", "dog"], dtype=object), "texts")
    g.initializers.append(texts)
    labels = g.op("Gather", "texts", g.op("ArgMax", g.input("x", 2), axis=1, keepdims=0))
    model = text_model(g, labels)
    before = model_hash(load(model))
    assert before == model_hash(load(model))
    model.graph.initializer[0].string_data[0] = b"cow"
    assert model_hash(load(model)) != before


def text_model(g: Builder, output: str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info(output, TensorProto.STRING, ["N"])
    graph = helper.make_graph(g.nodes, "graph", g.inputs, [value], g.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=8)


def test_hash_is_the_same_in_another_process(tmp_path: Path) -> None:
    path = write(MODELS["subgraph"](), tmp_path / "m.onnx")
    code = (
        "from quantkit.graph.float_model import FloatModel; from quantkit.graph.model_hash import model_hash; "
        f"print(model_hash(FloatModel({str(path)!r}).graph))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert found.stdout.strip() == model_hash(FloatModel(path).graph)


def test_hash_is_taken_before_anything_is_changed(tmp_path: Path) -> None:
    path = write(MODELS["weight_from_constant_node"](), tmp_path / "m.onnx")
    graph = FloatModel(path).graph
    before = model_hash(graph)
    prepare(graph, name="m")
    assert model_hash(graph) != before
    assert model_hash(FloatModel(path).graph) == before


# ---------------------------------------------------------------------------------------------------------- writing


def test_check_model_says_what_is_wrong() -> None:
    graph = load(MODELS["conv_relu"]())
    next(iter(graph.graph)).op_type = "Convolve"
    with pytest.raises(ModelError, match=r"broken\.onnx does not pass onnx\.checker: .*Convolve") as caught:
        check_model(graph, "broken.onnx")
    assert "\n" not in str(caught.value)


def test_save_and_load(tmp_path: Path) -> None:
    q = quantized("conv_relu")
    (path,) = save_model(q.graph, tmp_path / "out" / "m.onnx")
    again = FloatModel(path).graph
    assert model_hash(again) == model_hash(q.graph)
    assert FloatModel(path).size_bytes == path.stat().st_size
    onnx.checker.check_model(str(path), full_check=True)


def test_int8_file_is_a_quarter_of_the_float_one(tmp_path: Path) -> None:
    g = Builder()
    y = g.op("Relu", g.conv(g.input("x", 64, 8, 8), 64, 128))
    model = g.model(g.conv(y, 128, 128))
    source = write(model, tmp_path / "float.onnx")
    graph = prepare(FloatModel(source).graph, name="m")
    plan = plan_tensorrt(graph)
    ranges = dict.fromkeys(plan.tensors, TensorRange(4.0, -4.0, 4.0))
    (path,) = save_model(insert_qdq(graph, plan, activation_params(plan, ranges)), tmp_path / "int8.onnx")
    assert 3.8 < source.stat().st_size / path.stat().st_size < 4


def test_external_data_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit lowered: written next to the model, read by ONNX Runtime from there, in another folder too."""
    model = MODELS["residual_identity"]()
    source = write(model, tmp_path / "source" / "m.onnx", external=True)
    monkeypatch.setattr(model_module, "LARGE_MODEL_BYTES", 1000)
    graph = prepare(FloatModel(source).graph, name="m")
    plan = plan_tensorrt(graph)
    ranges = dict.fromkeys(plan.tensors, TensorRange(4.0, -4.0, 4.0))
    insert_qdq(graph, plan, activation_params(plan, ranges))
    check_model(graph, "m")
    written = save_model(graph, tmp_path / "out" / "m.onnx")
    assert len(written) == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in written)
    assert FloatModel(written[0]).size_bytes == sum(p.stat().st_size for p in written)
    assert written[1].stat().st_size < 0.3 * (tmp_path / "source" / "m.onnx.data").stat().st_size
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    again = FloatModel(moved / "m.onnx").graph
    inputs = random_inputs(again)
    with OnnxRuntimeRunner(moved / "m.onnx", spinning=False) as runner:
        found = runner.run(inputs)
    for output, values in run(model, inputs).items():
        assert sqnr_db(values, found[output]) > 20


NETS_WITH_CONSTANTS = ["resize", "average_pool_classifier", "mlp_gelu", "inverted_residual"]


@pytest.mark.parametrize(
    ("name", "opset"),
    [*((name, opset) for name in NETS_WITH_CONSTANTS for opset in (12, 17)), ("attention", 17)],
)
def test_everything_external(name: str, opset: int, tmp_path: Path) -> None:
    """Shapes, scales and limits in the external file too, as torch.onnx writes them: types are inferred as ever."""
    model = MODELS[name](opset=opset)
    for wanted in (13, 19):
        plain = prepare(load(model), name="m", opset=wanted)
        graph = prepare(FloatModel(write(model, tmp_path / "m.onnx", external=True)).graph, name="m", opset=wanted)
        assert plan_tensorrt(graph) == plan_tensorrt(plain)
        check_model(graph, "m")
        inputs = random_inputs(graph)
        for output, values in run(model, inputs).items():
            np.testing.assert_allclose(run(graph, inputs)[output], values, rtol=1e-4, atol=1e-4)


def test_saving_again_leaves_no_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "LARGE_MODEL_BYTES", 1000)
    first = save_model(load(MODELS["conv_relu"](seed=1)), tmp_path / "m.onnx")
    second = save_model(load(MODELS["conv_relu"](seed=2)), tmp_path / "m.onnx")
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert sorted(tmp_path.iterdir()) == sorted(second)
    onnx.checker.check_model(str(second[0]), full_check=True)


def test_a_full_disk_leaves_no_weights_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "LARGE_MODEL_BYTES", 1000)
    write_bytes = Path.write_bytes

    def fill_up(path: Path, content: bytes) -> int:
        if path.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(OutputError, match=r"m\.onnx: No space left on device"):
        save_model(load(MODELS["conv_relu"]()), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_may_replace_itself(tmp_path: Path) -> None:
    path = write(MODELS["conv_relu"](), tmp_path / "m.onnx", external=True)
    graph = FloatModel(path).graph
    before = model_hash(graph)
    assert save_model(graph, path) == (path,)
    (tmp_path / "m.onnx.data").unlink()
    assert model_hash(FloatModel(path).graph) == before


def test_serialize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = FloatModel(write(MODELS["conv_relu"](), tmp_path / "m.onnx", external=True)).graph
    content = serialize_model(graph, tmp_path)
    assert isinstance(content, bytes)
    onnx.checker.check_model(content)
    monkeypatch.setattr(model_module, "LARGE_MODEL_BYTES", 1000)
    folder = tmp_path / "large"
    folder.mkdir()
    path = serialize_model(graph, folder)
    assert isinstance(path, Path)
    with OnnxRuntimeRunner(path, spinning=False) as runner:
        assert runner.inputs[0].name == "x"


def test_external_weights_of_branches_are_found(tmp_path: Path) -> None:
    """Also the data of initializers inside sub-graphs are carried along."""
    model = MODELS["subgraph"]()
    branch = next(a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    name = branch.node[0].input[1]
    (weight,) = (t for t in model.graph.initializer if t.name == name)
    branch.initializer.add().CopyFrom(weight)
    model.graph.initializer.remove(weight)
    path = write(model, tmp_path / "m.onnx")
    stored = onnx.load(path)
    inner = next(a.g for n in stored.graph.node for a in n.attribute if a.name == "then_branch").initializer[0]
    (tmp_path / "inner.data").write_bytes(inner.raw_data)
    inner.ClearField("raw_data")
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="inner.data")
    path.write_bytes(stored.SerializeToString())
    graph = FloatModel(path).graph
    assert FloatModel(path).size_bytes == path.stat().st_size + (tmp_path / "inner.data").stat().st_size
    assert model_hash(graph) == model_hash(load(model))
    inputs = random_inputs(graph)
    content = serialize_model(graph, tmp_path)
    (tmp_path / "inner.data").unlink()
    with OnnxRuntimeRunner(content, spinning=False) as runner:
        for output, values in runner.run(inputs).items():
            np.testing.assert_allclose(values, run(model, inputs)[output], rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match=r"inner\.data"):
        FloatModel(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*m\.onnx"):
        save_model(load(MODELS["conv_relu"]()), tmp_path / "file" / "m.onnx")


def test_weight_bytes() -> None:
    model = MODELS["conv_relu"]()
    assert weight_bytes(load(model)) == sum(len(t.raw_data) for t in model.graph.initializer)


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """Nine weights of 268 MB, holes but for one number: prepared, planned, quantized, checked, saved and run."""
    side, count = 8192, 9
    g = Builder()
    x = g.input("x", side)
    names = [x]
    with open(tmp_path / "m.onnx.data", "wb") as file:
        for i in range(count):
            file.seek(4 * side * side * i)
            file.write(np.float32(0.5).tobytes())
            tensor = TensorProto(name=f"weight_{i}", data_type=TensorProto.FLOAT, dims=[side, side])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "m.onnx.data"), ("offset", file.tell() - 4), ("length", 4 * side * side)):
                tensor.external_data.add(key=key, value=str(value))
            g.initializers.append(tensor)
            names.append(g.op("MatMul", names[-1], tensor.name))
        file.truncate(4 * side * side * count)
    output = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["N", side])
    proto = helper.make_graph(g.nodes, "graph", g.inputs, [output], g.initializers)
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(proto, opset_imports=[helper.make_opsetid("", 12)], ir_version=8).SerializeToString()
    )
    assert FloatModel(path).size_bytes > 2 << 30
    graph = prepare(FloatModel(path).graph, name="m")
    plan = plan_tensorrt(graph)
    ranges = {name: TensorRange(0.5**i, -(0.5**i), 0.5**i) for i, name in enumerate(names)}
    insert_qdq(graph, plan, activation_params(plan, ranges))
    check_model(graph, "m")
    written = save_model(graph, tmp_path / "int8" / "m.onnx")
    assert FloatModel(written[0]).size_bytes < FloatModel(path).size_bytes / 3.9
    del graph
    with OnnxRuntimeRunner(written[0], spinning=False) as runner:
        (found,) = runner.run({"x": np.eye(1, side, dtype=np.float32)}).values()
    np.testing.assert_allclose(found, 0.5**count * np.eye(1, side), atol=1e-5)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_inference_without_memory_is_no_shape_that_nobody_knows(monkeypatch, error):
    model = load(next(iter(MODELS.values()))())

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    for _ in range(2):
        with pytest.raises(MemoryError), model_module.quiet():
            infer_shapes(model)


def test_a_model_that_onnx_cannot_infer_stays_as_it_was(monkeypatch, capfd):
    model = load(next(iter(MODELS.values()))())

    def fail(*_, **__):
        raise RuntimeError("no such operator")

    def shapes():
        return {value.name: (value.shape, value.type) for node in model.graph for value in node.outputs}

    before = shapes()
    with monkeypatch.context() as patch:
        patch.setattr(onnx.shape_inference, "infer_shapes", fail)
        infer_shapes(model)
    assert shapes() == before
    infer_shapes(model)
    assert capfd.readouterr() == ("", "")
