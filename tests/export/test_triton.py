"""config.pbtxt, parsed by protobuf's text format into the messages of Triton's model_config.proto."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from quantkit.errors import BackendError, ModelError
from quantkit.export.triton import is_batched, model_config
from quantkit.types import TensorSpec

from ..graph.builder import Builder

TYPES = (
    "INVALID",
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
)

Field = descriptor_pb2.FieldDescriptorProto


def model_config_message():
    """The part of the published schema that is used here: names, numbers and types of its fields."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(TYPES):
        kinds.value.add(name=f"TYPE_{name}", number=number)

    def message(title, /, **fields):
        made = file.message_type.add(name=title)
        for field, (number, kind, repeated) in fields.items():
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type = Field.TYPE_ENUM if kind == "DataType" else Field.TYPE_MESSAGE
                added.type_name = f".inference.{kind}"
            else:
                added.type = kind

    text, whole, wide = Field.TYPE_STRING, Field.TYPE_INT32, Field.TYPE_INT64
    message("ModelTensorReshape", shape=(1, wide, True))
    message(
        "ModelInput", name=(1, text, False), data_type=(2, "DataType", False), dims=(4, wide, True),
        reshape=(5, "ModelTensorReshape", False),
    )  # fmt: skip
    message(
        "ModelOutput", name=(1, text, False), data_type=(2, "DataType", False), dims=(3, wide, True),
        reshape=(5, "ModelTensorReshape", False),
    )  # fmt: skip
    message("ModelDynamicBatching", preferred_batch_size=(1, whole, True))
    message(
        "ModelConfig", name=(1, text, False), platform=(2, text, False), max_batch_size=(4, whole, False),
        input=(5, "ModelInput", True), output=(6, "ModelOutput", True),
        dynamic_batching=(11, "ModelDynamicBatching", False),
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def parse(text):
    return text_format.Parse(text, model_config_message())


def spec(name, dtype, *shape):
    return TensorSpec(name, np.dtype(dtype), shape)


def test_shapes_types_and_dynamic_batching():
    inputs = [spec('a "b"', "float32", "N", 3, "h"), spec("sizes", "int64", None)]
    config = parse(model_config("net", "tensorrt_plan", inputs, [spec("y", "float16", "N", 10)], max_batch=8))
    assert (config.name, config.platform, config.max_batch_size) == ("net", "tensorrt_plan", 8)
    assert [(i.name, TYPES[i.data_type], list(i.dims)) for i in config.input] == [
        ('a "b"', "FP32", [3, -1]),
        ("sizes", "INT64", [1]),
    ]
    assert not config.input[0].HasField("reshape")
    assert list(config.input[1].reshape.shape) == []
    assert config.input[1].HasField("reshape")
    assert [(o.name, TYPES[o.data_type], list(o.dims)) for o in config.output] == [("y", "FP16", [10])]
    assert config.HasField("dynamic_batching")


def test_without_a_batch_dimensions_are_whole():
    config = parse(model_config("net", "onnxruntime_onnx", [spec("x", "bool", 4, "n")], [], max_batch=0))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, -1]
    assert not config.HasField("dynamic_batching")
    assert not is_batched([spec("x", "float32", "N", 3), spec("y", "float32", 4)])
    assert not is_batched([spec("scalar", "float32")])


def test_a_type_that_triton_lacks_is_named():
    with pytest.raises(ModelError, match="'x' has type complex64, which Triton does not know"):
        model_config("net", "tensorrt_plan", [spec("x", "complex64", "N")], [], max_batch=1)


@pytest.fixture
def net(tmp_path):
    g = Builder()
    onnx.save(g.model(g.conv(g.input("x", 3, 8, 8), 3, 4)), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_repository_of_the_onnx_model(net, tmp_path):
    from quantkit.commands.export import export_triton
    from quantkit.types.options import TritonOptions

    made = export_triton(net, tmp_path / "repo", TritonOptions(name="resnet", max_batch=4))
    assert (tmp_path / "repo/resnet/1/model.onnx").read_bytes() == net.read_bytes()
    config = parse((tmp_path / "repo/resnet/config.pbtxt").read_text())
    assert (config.name, config.platform, config.max_batch_size) == ("resnet", "onnxruntime_onnx", 4)
    assert made.max_batch == 4
    assert list(config.input[0].dims) == [3, 8, 8]


def test_a_repository_of_an_engine(net, tmp_path):
    from quantkit.backends.tensorrt.build.manifest import Manifest, write_engine
    from quantkit.commands.export import export_triton
    from quantkit.types.options import TritonOptions

    built = Manifest(
        model_name="net.onnx", model_hash="a" * 64, precision="int8", mode="explicit", library="tensorrt",
        library_version="10.16.1", gpu=None, quantkit_version="1",
        options={"profiles": [{"x": "1x3x8x8 / 8x3x8x8 / 16x3x8x8"}]},
    )  # fmt: skip
    engine = tmp_path / "net.engine"
    write_engine(engine, b"plan", built)
    made = export_triton(net, tmp_path / "repo", TritonOptions(engine=engine))
    assert (tmp_path / "repo/net/1/model.plan").read_bytes() == b"plan"
    assert made.max_batch == parse(made.files[0].read_text()).max_batch_size == 16
    write_engine(engine, b"plan", Manifest(**{**vars(built), "library": "tensorrt-rtx"}))
    with pytest.raises(BackendError, match="TensorRT-RTX, which Triton does not run"):
        export_triton(net, tmp_path / "repo", TritonOptions(engine=engine))
