"""Q/DQ that TensorRT refuses, or runs with wrong numbers, is found before it gets the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.qdq_lint import check_explicit

from .models import MODELS
from .quantizing import load, quantized


def qdq_model(dtype=np.int8, zero_point=0, scale_type=np.float32, with_zero_point=True) -> onnx.ModelProto:
    """Conv → Q → DQ."""
    model = MODELS["conv_relu"](opset=19)
    graph = model.graph
    kept = onnx.TensorProto.FLOAT if scale_type == np.float32 else onnx.TensorProto.FLOAT16
    graph.initializer.append(numpy_helper.from_array(np.asarray(0.1, scale_type), "s"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(zero_point, dtype), "z"))
    rest = ["s", "z"] if with_zero_point else ["s"]
    graph.node.append(helper.make_node("Cast", [graph.output[0].name], ["c"], to=kept, name="cast"))
    graph.node.append(helper.make_node("QuantizeLinear", ["c", *rest], ["q"], name="q"))
    graph.node.append(helper.make_node("DequantizeLinear", ["q", *rest], ["y"], name="dq"))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kept, None))
    return model


@pytest.mark.parametrize(
    ("words", "major", "message"),
    [
        ({"dtype": np.uint8}, None, r"node 'q' \(QuantizeLinear\): UINT8"),
        ({"dtype": np.uint8, "zero_point": 128}, 10, "zero point is not 0"),
        ({"zero_point": 3}, None, "zero point is not 0"),
        ({"with_zero_point": False}, 8, "no zero point"),
        ({"scale_type": np.float16}, 8, "FP16 scales: TensorRT 8.6 reads them as FP32"),
    ],
)
def test_what_tensorrt_cannot_take(words, major, message):
    with pytest.raises(ModelError, match=message):
        check_explicit(load(qdq_model(**words)), name="m.onnx", tensorrt_major=major)


@pytest.mark.parametrize("major", [8, 10, 11, None])
def test_symmetric_int8_passes(major):
    check_explicit(load(qdq_model()), name="m.onnx", tensorrt_major=major)


@pytest.mark.parametrize("high_precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", list(MODELS))
def test_what_quantkit_makes_passes(name, high_precision):
    major = 8 if high_precision == "fp32" and "fp16" not in name else 10
    check_explicit(quantized(name, high_precision).graph, name=name, tensorrt_major=major)


def test_an_int32_bias():
    model = MODELS["conv_relu"]()
    graph = model.graph
    conv = next(n for n in graph.node if n.op_type == "Conv")
    graph.initializer.append(numpy_helper.from_array(np.zeros(32, np.int32), "codes"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(0.1, np.float32), "s"))
    conv.input[2] = "bias"
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "s"], ["bias"], name="bias_dq"))
    with pytest.raises(ModelError, match=r"'bias_dq' .* INT32 bias"):
        check_explicit(load(model), name="m.onnx")


def test_operators_of_onnxruntime():
    model = MODELS["conv_relu"]()
    graph = model.graph
    graph.node.append(helper.make_node("DynamicQuantizeLinear", [graph.output[0].name], ["q", "s", "z"], name="d"))
    with pytest.raises(ModelError, match=r"'d' \(DynamicQuantizeLinear\): TensorRT does not support this operator"):
        check_explicit(load(model), name="m.onnx")
