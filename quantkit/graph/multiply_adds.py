"""How much of a model's work each weighted operator does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import constant_of, weighted_nodes


def multiply_adds(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Multiply-adds of each weighted operator, by name; 0 where a shape is not known.

    Args:
        model: prepared.
        shapes: of its activations, as they are when it runs.

    Example:
        >>> import onnx, numpy as np
        >>> from quantkit.graph.float_model import FloatModel
        >>> weight = onnx.numpy_helper.from_array(np.ones((8, 16), np.float32), "w")
        >>> node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="head")
        >>> x, y = (onnx.helper.make_tensor_value_info(n, 1, ["batch", s]) for n, s in (("x", 8), ("y", 16)))
        >>> graph, opset = onnx.helper.make_graph([node], "g", [x], [y], [weight]), onnx.helper.make_opsetid("", 17)
        >>> proto = onnx.helper.make_model(graph, opset_imports=[opset])
        >>> multiply_adds(FloatModel(proto.SerializeToString()).prepared(), {"x": [2, 8], "y": [2, 16]})
        {'head': 256}
    """
    names = weighted_nodes(model)
    return {name_of(node): _work(node, shapes) for node in model.graph if node.name in names}


def _work(node: ir.Node, shapes: Mapping[str, Sequence[int]]) -> int:
    """Elements of the output times products per element; a transposed convolution scatters its input instead."""
    first, weight = node.inputs[0], node.inputs[1]
    spread = first if node.op_type == "ConvTranspose" else node.outputs[0]
    elements, kernel = (_sizes(value, shapes) for value in (spread, weight))
    if elements is None or kernel is None:
        return 0
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(elements) * math.prod(kernel[1:])
    if node.op_type == "Gemm":
        return math.prod(elements) * kernel[1 if node.attributes.get_int("transB", 0) else 0]
    return math.prod(elements) * kernel[max(len(kernel) - 2, 0)]


def _sizes(value: ir.Value | None, shapes: Mapping[str, Sequence[int]]) -> Sequence[int] | None:
    tensor = constant_of(value)
    return shapes.get(name_of(value)) if tensor is None else list(tensor.shape.numpy())
