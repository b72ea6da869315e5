"""Weights that alone are quantized, to INT4 in blocks: constant right operands of MatMul and Gemm.

Their inputs stay in float: TensorRT and TensorRT-RTX dequantize the weight in front of the product, which saves memory
and the time of reading it, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import FLOAT_TYPES, constant_of, is_standard
from quantkit.graph.placement.format_rules import block_size, largest_magnitude
from quantkit.graph.placement.tensorrt import match_nodes
from quantkit.numerics import LARGEST_HALF
from quantkit.types import BLOCK_SIZES, QdqEdge, QdqPlan, block_format

_FEWEST = 16
"""Inputs and outputs of a product whose weight is worth it."""


def plan_weight_only(model: ir.Model, block: int, *, exclude: Sequence[str] = ()) -> QdqPlan:
    """Plans INT4 weights.

    Args:
        model: prepared by `quantkit.graph.passes.prepare.prepare`.
        block: number of inputs that share a scale, for each output: less where so many do not divide the inputs.
        exclude: node names, operator types, or shell patterns over node names that stay in float.

    Returns:
        A plan without activations. It may be empty.

    Raises:
        ModelError: an exclusion matches nothing.
    """
    out = match_nodes(model, exclude)
    skipped: dict[str, str] = {}
    edges: list[QdqEdge] = []
    for node in model.graph:
        if not is_standard(node, "MatMul", "Gemm") or constant_of(node.inputs[1]) is None:
            continue
        axis = int(is_standard(node, "Gemm") and node.attributes.get_int("transB", 0) == 1)
        reason = out.get(name_of(node)) or _obstacle(node, axis, block)
        if reason:
            skipped[name_of(node)] = reason
        elif size := block_size(_shape(node)[axis], block):
            edges.append(QdqEdge(name_of(node.inputs[1]), name_of(node), 1, axis, block_format(size)))
    return QdqPlan((), tuple(edges), skipped=skipped, excluded=frozenset(out))


def _obstacle(node: ir.Node, axis: int, block: int) -> str:
    value, data = node.inputs[1], node.inputs[0]
    if value is None or data is None or value.dtype not in FLOAT_TYPES or data.dtype not in FLOAT_TYPES:
        return "its inputs are not FP32 or FP16"
    if constant_of(data) is not None:
        return "both inputs are constants"
    shape = _shape(node)
    if len(shape) != 2:
        return "its weight is a stack of matrices"
    if min(shape) < _FEWEST:
        return f"its weight has fewer than {_FEWEST} inputs or outputs"
    if others := sorted({user.op_type for user, _ in value.uses() if not is_standard(user, "MatMul", "Gemm")}):
        return f"its weight is also read by {', '.join(others)}, in float"
    if largest_magnitude(value) / 7 > LARGEST_HALF:
        return "its weight needs scales beyond FP16"
    if block_size(shape[axis], block) is None:
        return f"its {shape[axis]} inputs do not divide into blocks of {' or '.join(map(str, BLOCK_SIZES))}"
    return ""


def _shape(node: ir.Node) -> list[int]:
    tensor = constant_of(node.inputs[1])
    return [] if tensor is None else [int(size) for size in tensor.shape.numpy()]
