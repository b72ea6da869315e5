"""Makes ONNX Runtime round what an FP16 model computes to FP16, on processors without FP16 arithmetic.

There ONNX Runtime computes FP16 operators in FP32, between Casts, and removes every pair of Casts that meets: between
one operator and the next nothing is rounded, and nothing overflows at 65504. A GPU sums in FP32 and rounds each result.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from quantkit.graph.passes.edits import Names, name_of
from quantkit.graph.passes.prepare import COPY_OPS, is_standard

_EXACT_OPS = (*COPY_OPS, "Concat", "Constant", "DequantizeLinear", "Expand", "Gather", "Relu")
"""Whose results are FP16 numbers, if their inputs are."""


def holds_fp16(model: ir.Model) -> bool:
    """Whether anything is computed in FP16, in a model with element types."""
    return any(True for node in model.graph for _ in _rounded(node))


def round_to_fp16(model: ir.Model) -> ir.Model:
    """Puts two Identity behind everything that is computed in FP16, in place; a session must not eliminate them.

    Two of them do compute in FP16: a single one ONNX Runtime moves to FP32 too.

    Args:
        model: with element types.
    """
    names = Names(model)
    for node in list(model.graph):
        for value in _rounded(node):
            uses, last, after = list(value.uses()), value, node
            for _ in range(2):
                name = names.new(f"{name_of(value)}_rounded")
                result = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
                identity = ir.node("Identity", [last], outputs=[result], name=names.new(f"{name}_Identity"))
                model.graph.insert_after(after, identity)
                last, after = result, identity
            for reader, index in uses:
                reader.replace_input_with(index, last)
    return model


def _rounded(node: ir.Node) -> Iterator[ir.Value]:
    if not is_standard(node, *_EXACT_OPS):
        yield from (value for value in node.outputs if value.dtype is ir.DataType.FLOAT16)
