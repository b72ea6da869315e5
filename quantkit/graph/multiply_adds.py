"""How many multiply-adds an operator does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import constant_of, weighted_nodes

RECURRENT = ("LSTM", "GRU", "RNN")


def stored_weights(model: ir.Model) -> dict[str, int]:
    """How many numbers each weighted operator of a prepared model stores, by name."""
    names = weighted_nodes(model)
    return {
        name_of(node): sum(tensor.size for value in node.inputs if (tensor := constant_of(value)) is not None)
        for node in model.graph
        if node.name in names
    }


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
    return {
        name_of(node): count_multiply_adds(
            node, [_sizes(value, shapes) for value in node.inputs], _sizes(node.outputs[0], shapes)
        )
        or 0
        for node in model.graph
        if node.name in names
    }


def count_multiply_adds(
    node: ir.Node, shapes: Sequence[Sequence[int] | None], result: Sequence[int] | None
) -> int | None:
    """Multiply-adds of one operator; None where a shape is not known.

    Args:
        node: that multiplies matrices or convolves.
        shapes: of its inputs.
        result: shape of its output.
    """
    try:
        return _count(node, shapes, result)
    except (TypeError, IndexError, ValueError, KeyError):  # a shape that is not known, or not the operator's
        return None


def _count(node: ir.Node, shapes: Sequence[Sequence[int] | None], result: Sequence[int] | None) -> int:
    """Multiply-adds. Raises `TypeError` where a shape is missing."""
    first, second = shapes[0], shapes[1]
    kind = node.op_type
    if kind in ("Conv", "FusedConv", "NhwcFusedConv", "DeformConv"):
        return math.prod(_known(result)) * math.prod(_known(second)[1:])
    if kind == "ConvTranspose":
        return math.prod(_known(first)) * math.prod(_known(second)[1:])
    if kind in ("Gemm", "FusedGemm"):
        return math.prod(_known(result)) * _known(second)[1 if node.attributes.get_int("transB", 0) else 0]
    if kind in ("MatMul", "FusedMatMul", "TransposeMatMul"):
        inner = -1 if node.attributes.get_int("transB", 0) else max(-2, -len(_known(second)))
        return math.prod(_known(result)) * _known(second)[inner]
    if kind in RECURRENT:
        steps = math.prod(_known(first)[:2])
        return steps * (math.prod(_known(second)) + math.prod(_known(shapes[2])))
    if kind == "Einsum":
        terms = node.attributes.get_string("equation", "").replace(" ", "").partition("->")[0].split(",")
        sizes = {label: n for term, shape in zip(terms, shapes, strict=True) for label, n in _labeled(term, shape)}
        return math.prod(sizes.values())
    if kind == "Attention" and node.domain == "com.microsoft":
        batch, length, _ = _known(first)
        features, projected = _known(second)
        return batch * length * projected * features + 2 * batch * length * length * projected // 3
    if kind in ("Attention", "MultiHeadAttention"):
        return _attention(_known(first), _known(second), _known(shapes[2]))
    raise TypeError(kind)


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """Scores and their product with the values; [N, heads, length, size], or [N, length, heads * size]."""
    rows = math.prod(query[:-2]) * query[-2]
    return rows * key[-2] * (query[-1] + (value[-1] if len(query) == 4 else query[-1]))


def _labeled(term: str, shape: Sequence[int] | None) -> Iterator[tuple[str, int]]:
    return iter(zip(term, _known(shape), strict=True))


def _known(shape: Sequence[int] | None) -> Sequence[int]:
    if shape is None:
        raise TypeError("a shape is not known")
    return shape


def _sizes(value: ir.Value | None, shapes: Mapping[str, Sequence[int]]) -> Sequence[int] | None:
    tensor = constant_of(value)
    return shapes.get(name_of(value)) if tensor is None else list(tensor.shape.numpy())
