"""--io-formats, --layer-precisions, --weight-streaming, --max-aux-streams: what TensorRT is asked, by version."""

from __future__ import annotations

import onnx
import pytest

from quantkit.backends.tensorrt.build.layer_types import parse_io_formats, parse_layer_precisions

from ....graph.builder import Builder
from .. import asked

FLOAT, HALF, INT8 = 0, 1, 2  # trt.DataType, the same in every version
LINEAR, CHW32 = 1 << 0, 1 << 5


@pytest.fixture
def ask(bindings, tmp_path):
    g = Builder()
    x = g.conv(g.input("x", 3, 8, 8), 3, 16)
    onnx.save(g.model(g.conv(x, 16, 16)), tmp_path / "net.onnx")

    def build(options, **words):
        words = {"output": str(tmp_path / "net.engine"), "force": True, **words}
        return bindings.call(asked.build_engine, str(tmp_path / "net.onnx"), words, options)

    return build


def is_weak(bindings) -> bool:
    return bindings.release.major < 11


def test_types_of_inputs_where_flags_decide(bindings, ask):
    options = {"io_formats": ["x:fp16:chw"]}
    answer = ask(options, precision="fp16", mode="implicit" if is_weak(bindings) else "auto")
    if is_weak(bindings):
        assert answer["engine"]["io_formats"] == {"x": [HALF, LINEAR]}
        assert answer["manifest"]["options"]["io_formats"] == ["x:fp16:chw"]
    else:
        assert "in a strongly typed network the tensor is FLOAT" in answer["message"]


def test_formats_of_a_strongly_typed_network(bindings, ask):
    answer = ask({"io_formats": ["x:fp32:chw32"]})
    assert answer["engine"]["io_formats"] == {"x": [FLOAT, CHW32]}


def test_unknown_tensors_and_formats_are_named(ask):
    assert "the model has no such input or output: x, " in ask({"io_formats": ["y:fp32:chw"]})["message"]
    assert "knows linear, chw2" in ask({"io_formats": ["x:fp32:zigzag"]})["message"]


def test_precisions_of_layers_where_flags_decide(bindings, ask):
    options = {"layer_precisions": ["Conv*:fp32"]}
    answer = ask(options, precision="fp16", mode="implicit" if is_weak(bindings) else "auto")
    if is_weak(bindings):
        assert list(answer["engine"]["precisions"].values()) == [FLOAT, FLOAT]
        assert "OBEY_PRECISION_CONSTRAINTS" in answer["engine"]["flags"]
        gone = ask({"layer_precisions": ["gone:fp32"]}, precision="fp16", mode="implicit")
        assert "--layer-precisions gone:fp32: no layer has that name" in gone["message"]
    else:
        assert "the model says all types" in answer["message"]


def test_weight_streaming_and_auxiliary_streams(bindings, ask):
    assert ask({"max_aux_streams": 0})["engine"]["properties"]["MaxAuxStreams"] == 0
    answer = ask({"weight_streaming": True})
    if bindings.release.major < 10:
        assert "--weight-streaming needs TensorRT 10" in answer["message"]
    else:
        assert "WEIGHT_STREAMING" in answer["engine"]["flags"]
    if bindings.release.major == 10:
        weak = ask({"weight_streaming": True}, precision="fp16", mode="implicit")
        assert "is for strongly typed networks" in weak["message"]


@pytest.mark.parametrize("word", ["x", "x:fp16", "x:half:chw", ":fp16:chw"])
def test_a_format_of_another_form_is_refused(word):
    with pytest.raises(ValueError, match="is not NAME:TYPE:FORMAT, such as input:fp16:chw"):
        parse_io_formats([word])


@pytest.mark.parametrize("word", ["x", "x:bf16", ":fp16"])
def test_a_precision_of_another_form_is_refused(word):
    with pytest.raises(ValueError, match="is not NAME:TYPE, such as conv1:fp16"):
        parse_layer_precisions([word])
