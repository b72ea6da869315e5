"""One small model of every kind that the placement rules speak of, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .builder import Builder

Make = Callable[..., onnx.ModelProto]
MODELS: dict[str, Make] = {}

FLOAT_ON_RTX = {"conv_transpose", "conv_transpose_residual"}
"""TensorRT-RTX 1.7 has no INT8 transposed convolution; TensorRT has."""


def model(make: Make) -> Make:
    MODELS[make.__name__] = make
    return make


def image(g: Builder, channels: int = 32, side: int = 16) -> str:
    return g.input("x", channels, side, side)


@model
def conv_relu(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32))
    return g.model(g.op("Relu", g.conv(y, 32, 64, stride=2)))


@model
def conv_bn_relu(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.batch_norm(g.conv(image(g), 32, 32, bias=False), 32))
    return g.model(g.op("Relu", g.batch_norm(g.conv(y, 32, 32), 32)))


@model
def depthwise(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32, groups=32))
    return g.model(g.conv(y, 32, 64, 1))


@model
def grouped(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32, 1))
    return g.model(g.op("Relu", g.conv(y, 32, 64, groups=4)))


@model
def stem_maxpool(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g, 3, 32), 3, 32, 7, stride=2))
    y = g.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    return g.model(g.conv(y, 32, 32, 1))


@model
def conv1d(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(g.input("x", 32, 64), 32, 32, rank=1))
    return g.model(g.conv(y, 32, 32, rank=1))


@model
def conv3d(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(g.input("x", 16, 4, 8, 8), 16, 32, rank=3))
    return g.model(g.conv(y, 32, 32, rank=3))


@model
def conv_transpose(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32))
    up = g.op("ConvTranspose", y, g.weight(32, 16, 2, 2), g.constant(np.zeros(16)), kernel_shape=[2, 2], strides=[2, 2])
    return g.model(g.conv(g.op("Relu", up), 16, 32))


@model
def residual_identity(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.op("Relu", g.conv(image(g), 32, 32))
    for _ in range(2):
        y = g.op("Relu", g.conv(x, 32, 32))
        x = g.op("Relu", g.op("Add", g.conv(y, 32, 32), x))
    return g.model(g.conv(x, 32, 32, 1))


@model
def residual_downsample(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.op("Relu", g.conv(image(g), 32, 32))
    y = g.op("Relu", g.conv(x, 32, 64, stride=2))
    y = g.op("Relu", g.op("Add", g.conv(y, 64, 64), g.conv(x, 32, 64, 1, stride=2)))
    return g.model(g.conv(y, 64, 32, 1))


@model
def residual_preactivation(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.conv(image(g), 32, 32)
    for _ in range(2):
        y = g.op("Relu", g.batch_norm(x, 32))
        y = g.conv(y, 32, 32, bias=False)
        y = g.conv(g.op("Relu", g.batch_norm(y, 32)), 32, 32, bias=False)
        x = g.op("Add", x, y)
    y = g.op("GlobalAveragePool", g.op("Relu", g.batch_norm(x, 32)))
    return g.model(g.gemm(g.op("Flatten", y), 32, 16))


@model
def silu(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.conv(image(g), 32, 32)
    return g.model(g.conv(g.op("Mul", y, g.op("Sigmoid", y)), 32, 32))


@model
def squeeze_excite(**options) -> onnx.ModelProto:
    g = Builder(**{"opset": 17, **options})
    y = g.op("HardSwish", g.conv(image(g), 32, 32, groups=32))
    s = g.op("Relu", g.conv(g.op("GlobalAveragePool", y), 32, 16, 1))
    s = g.op("HardSigmoid", g.conv(s, 16, 32, 1), alpha=1 / 6, beta=0.5)
    return g.model(g.conv(g.op("Mul", y, s), 32, 32, 1))


@model
def inverted_residual(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.conv(image(g), 32, 32, 1)
    for _ in range(2):
        y = g.clip(g.conv(x, 32, 64, 1), 0.0, 6.0)
        y = g.clip(g.conv(y, 64, 64, groups=64), 0.0, 6.0)
        x = g.op("Add", x, g.conv(y, 64, 32, 1))
    return g.model(g.conv(x, 32, 32, 1))


@model
def dense_concat(**options) -> onnx.ModelProto:
    g = Builder(**options)
    features = [g.op("Relu", g.conv(image(g), 32, 16))]
    for i in range(3):
        joined = features[0] if i == 0 else g.op("Concat", *features, axis=1)
        features.append(g.op("Relu", g.conv(joined, 16 * (i + 1), 16)))
    return g.model(g.conv(g.op("Concat", *features, axis=1), 64, 32, 1))


@model
def inception_concat(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.op("Relu", g.conv(image(g), 32, 32))
    a = g.op("Relu", g.conv(x, 32, 16, 1))
    b = g.op("Relu", g.conv(g.op("Relu", g.conv(x, 32, 16, 1)), 16, 16))
    pooled = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    c = g.op("Relu", g.conv(pooled, 32, 16, 1))
    return g.model(g.op("Relu", g.conv(g.op("Concat", a, b, c, axis=1), 48, 32)))


@model
def concat_of_read_inputs(**options) -> onnx.ModelProto:
    """Branches that are quantized for themselves and joined, as in a feature pyramid."""
    g = Builder(**options)
    a = g.op("Relu", g.conv(image(g), 32, 32))
    b = g.op("Relu", g.conv(a, 32, 32))
    joined = g.op("Concat", a, g.op("MaxPool", b, kernel_shape=[3, 3], pads=[1] * 4), b, axis=1)
    return g.model(g.op("Relu", g.conv(joined, 96, 32, 1)), g.conv(b, 32, 16))


@model
def average_pool_classifier(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("AveragePool", g.op("Relu", g.conv(image(g), 32, 32)), kernel_shape=[2, 2], strides=[2, 2])
    y = g.op("GlobalAveragePool", g.op("Relu", g.conv(y, 32, 64)))
    y = g.op("Flatten", y)
    return g.model(g.gemm(g.op("Relu", g.gemm(y, 64, 32)), 32, 16, transposed=False))


@model
def gemm_transposed(**options) -> onnx.ModelProto:
    g = Builder(**options)
    return g.model(g.gemm(g.op("Relu", g.gemm(g.input("x", 64), 64, 128)), 128, 32))


@model
def gemm_plain(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.gemm(g.input("x", 64), 64, 128, transposed=False))
    return g.model(g.gemm(y, 128, 32, transposed=False))


@model
def matmul(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.linear(g.input("x", 32, 64), 64, 128))
    return g.model(g.linear(y, 128, 32))


@model
def matmul_batched_constant(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("MatMul", g.input("x", 4, 32, 64), g.constant(g.random.standard_normal((4, 64, 32)) / 8))
    return g.model(g.op("Relu", y))


@model
def matmul_constant_left(**options) -> onnx.ModelProto:
    g = Builder(**options)
    return g.model(
        g.op("Relu", g.op("MatMul", g.constant(g.random.standard_normal((32, 64)) / 8), g.input("x", 64, 32)))
    )


@model
def mlp_gelu(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.linear(g.input("x", 32, 64), 64, 128)
    erf = g.op("Add", g.op("Erf", g.op("Div", y, g.constant(2**0.5))), g.constant(1.0))
    return g.model(g.linear(g.op("Mul", g.op("Mul", y, erf), g.constant(0.5)), 128, 64))


def _attention(g: Builder, x: str, width: int, heads: int, tokens: int) -> str:
    """Multi-head attention with separate projections."""
    split = g.constant(np.array([0, tokens, heads, width // heads]))
    q, k, v = (g.op("Reshape", g.linear(x, width, width), split) for _ in range(3))
    q, v = (g.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
    k = g.op("Transpose", k, perm=[0, 2, 3, 1])
    scores = g.op("Mul", g.op("MatMul", q, k), g.constant((width // heads) ** -0.5))
    y = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return g.linear(g.op("Reshape", y, g.constant(np.array([0, tokens, width]))), width, width)


@model
def attention(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.input("x", 32, 64)
    x = g.op("Add", x, _attention(g, g.norm(x, 64), 64, 2, 32))
    y = g.op("Relu", g.linear(g.norm(x, 64), 64, 128))
    x = g.op("Add", x, g.linear(y, 128, 64))
    return g.model(g.linear(g.norm(x, 64), 64, 16))


@model
def attention_one_projection(**options) -> onnx.ModelProto:
    """As timm writes it: one projection for query, key and value, split afterwards."""
    g = Builder(**options)
    x = g.input("x", 32, 64)
    y = g.op("Reshape", g.linear(g.norm(x, 64), 64, 192), g.constant(np.array([0, 32, 3, 2, 32])))
    y = g.op("Transpose", y, perm=[2, 0, 3, 1, 4])
    first = g.op("Split", y, g.constant(np.array([1, 1, 1])), outputs=3, axis=0)
    axis = g.constant(np.array([0]))
    q, k, v = (g.op("Squeeze", t, axis) for t in (first, f"{first}1", f"{first}2"))
    q = g.op("Mul", q, g.constant(32**-0.5))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    y = g.linear(g.op("Reshape", y, g.constant(np.array([0, 32, 64]))), 64, 64)
    return g.model(g.linear(g.norm(g.op("Add", x, y), 64), 64, 16))


@model
def residual_mlp(**options) -> onnx.ModelProto:
    g = Builder(**options)
    x = g.op("Relu", g.gemm(g.input("x", 64), 64, 64))
    y = g.gemm(g.op("Relu", g.gemm(x, 64, 64)), 64, 64)
    return g.model(g.gemm(g.op("Relu", g.op("Add", y, x)), 64, 16))


@model
def resize(**options) -> onnx.ModelProto:
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32))
    scales = "scales"
    g.initializers.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), scales))
    # Before opset 13 the region of interest could not be left out.
    region = "" if g.opset >= 13 else g.constant(np.zeros(0))
    y = g.op(
        "Resize", y, region, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    return g.model(g.conv(y, 32, 32))


@model
def conv_transpose_residual(**options) -> onnx.ModelProto:
    """A decoder stage: upsampled features are joined with those of the encoder."""
    g = Builder(**options)
    x = g.op("Relu", g.conv(image(g), 32, 32))
    down = g.op("Relu", g.conv(x, 32, 64, stride=2))
    up = g.op("ConvTranspose", down, g.weight(64, 32, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    return g.model(g.conv(g.op("Relu", g.op("Add", x, up)), 32, 32))


@model
def weight_from_constant_node(**options) -> onnx.ModelProto:
    g = Builder(**options)
    weight = numpy_helper.from_array((g.random.standard_normal((32, 32, 3, 3)) / 17).astype(g.dtype), "w")
    g.nodes.append(helper.make_node("Constant", [], ["weight"], value=weight))
    return g.model(g.conv(g.op("Relu", g.conv(image(g), 32, 32, weight="weight")), 32, 32))


@model
def weight_through_identity(**options) -> onnx.ModelProto:
    g = Builder(**options)
    weight = g.op("Identity", g.weight(32, 32, 3, 3))
    return g.model(g.conv(g.op("Relu", g.conv(image(g), 32, 32, weight=weight)), 32, 32))


@model
def weight_through_transpose(**options) -> onnx.ModelProto:
    g = Builder(**options)
    weight = g.op("Transpose", g.weight(64, 64), perm=[1, 0])
    return g.model(g.op("Relu", g.op("MatMul", g.input("x", 32, 64), weight)))


@model
def weight_through_cast(**options) -> onnx.ModelProto:
    """A weight stored in FP16, cast to the model's type."""
    g = Builder(**options)
    half = (g.random.standard_normal((32, 32, 3, 3)) / 17).astype(np.float16)
    g.initializers.append(numpy_helper.from_array(half, "half"))
    weight = g.op("Cast", "half", to=helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype)))
    return g.model(g.op("Relu", g.conv(image(g), 32, 32, weight=weight)))


@model
def shared_weight(**options) -> onnx.ModelProto:
    """One weight in two convolutions, as in a detection head over several scales."""
    g = Builder(**options)
    x = image(g)
    weight = g.weight(32, 32, 3, 3)
    y = g.op("Relu", g.conv(x, 32, 32, weight=weight))
    return g.model(g.conv(y, 32, 32, weight=weight), g.conv(x, 32, 16, 1))


@model
def tied_embedding(**options) -> onnx.ModelProto:
    """A table that Gather reads and MatMul multiplies with."""
    g = Builder(**options)
    table = g.constant(g.random.standard_normal((64, 32)) / 6)
    tokens = g.input("x", 16, 48)
    ids = g.op("Cast", g.op("Greater", tokens, g.constant(0.1)), to=TensorProto.INT64)
    looked_up = g.op("Gather", table, ids)
    x = g.op("Relu", g.linear(tokens, 48, 64))
    return g.model(g.op("MatMul", x, table), g.op("ReduceSum", looked_up, keepdims=0))


@model
def initializers_as_inputs(**options) -> onnx.ModelProto:
    """IR version 3 demanded that; exporters went on for years."""
    made = conv_relu(**options)
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return made


@model
def nameless_nodes(**options) -> onnx.ModelProto:
    made = residual_identity(**options)
    for node in made.graph.node:
        node.name = ""
    return made


@model
def output_read_inside(**options) -> onnx.ModelProto:
    """A model output that the model itself goes on with."""
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32))
    return g.model(y, g.conv(y, 32, 16))


@model
def subgraph(**options) -> onnx.ModelProto:
    """A branch that reads an outer activation and holds a convolution of its own."""
    g = Builder(**options)
    y = g.op("Relu", g.conv(image(g), 32, 32))
    weight = g.weight(32, 32, 1, 1)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    branches = {
        "then_branch": [helper.make_node("Conv", [y, weight], ["inner"], name="inner_conv")],
        "else_branch": [helper.make_node("Identity", [y], ["other"], name="inner_copy")],
    }
    graphs = {
        name: helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[0].output[0], kind, None)])
        for name, nodes in branches.items()
    }
    g.inputs.append(helper.make_tensor_value_info("choose", TensorProto.BOOL, []))
    chosen = g.op("If", "choose", **graphs)
    return g.model(g.conv(y, 32, 32), chosen)
