"""Models whose files are links, as in Hugging Face's cache: snapshots with links to blobs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel


@pytest.fixture
def snapshot(tmp_path):
    """The path of a model; it and its data are links, with the names of their hashes in `blobs`."""
    weight = np.arange(80_000, dtype=np.float32).reshape(4, 20_000)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 20_000])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plain, blobs, folder = (tmp_path / name for name in ("plain", "blobs", "snapshots/abc/onnx"))
    for path in (plain, blobs, folder):
        path.mkdir(parents=True)
    onnx.save(model, plain / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    for number, name in enumerate(("model.onnx", "model.onnx_data")):
        (blobs / f"{number}").write_bytes((plain / name).read_bytes())
        (folder / name).symlink_to(f"../../../blobs/{number}")
    return folder / "model.onnx"


def test_links_to_blobs_are_followed(tmp_path, snapshot):
    linked = FloatModel(snapshot)
    assert linked.hash == FloatModel(tmp_path / "plain" / "model.onnx").hash
    assert linked.name == "model.onnx"
    assert linked.graph.graph.initializers["w"].const_value.numpy()[3, -1] == 79_999


def test_data_through_a_link_to_another_folder_is_refused_with_the_command_that_helps(tmp_path, snapshot):
    data = snapshot.with_name("model.onnx_data")
    data.unlink()
    data.symlink_to(tmp_path / "plain" / "model.onnx_data")
    with pytest.raises(ModelError, match=r"model\.onnx_data is a link to another folder, .*plain.*cp -L"):
        FloatModel(snapshot)
