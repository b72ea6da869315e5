"""Matrix products under other names become MatMul, Gemm and Conv, exactly up to the order of roundings.

ONNX Runtime's own FusedMatMul and FusedConv, a Gemm that transposes or scales, and an Einsum that is a matrix product
are not quantized as they are, or are computed in another way once Q/DQ are in front of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.edits import Names, name_of, replace_result

_OF_ONNXRUNTIME = "com.microsoft"

_ACTIVATIONS = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""What a FusedConv ends with, and its parameters."""


def rewrite_products(model: ir.Model) -> bool:
    """Rewrites a float model in place; constants that are transposed or scaled are left to constant folding.

    Args:
        model: with types and ranks inferred, as far as they are known.

    Returns:
        Whether anything was rewritten.
    """
    writer = _Writer(Names(model))
    return any([_rewrite(writer, node) for node in list(model.graph)])  # noqa: C419 - all of them


class _Writer:
    """New nodes in front of a node, each with an unused name."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.node: ir.Node | None = None

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: int | float | Sequence[int]) -> ir.Value:
        assert self.node is not None
        name = self.names.new(f"{name_of(self.node.outputs[0])}_{op_type.lower()}")
        new = ir.node(op_type, inputs, attributes=attributes, outputs=[ir.Value(name=name)])
        new.name = self.names.new(f"{name_of(self.node)}_{op_type}")
        self.names.graph.insert_before(self.node, new)
        return new.outputs[0]

    def constant(self, values: np.ndarray) -> ir.Value:
        assert self.node is not None
        return self.names.initializer(f"{name_of(self.node)}_constant", values)

    def scaled(self, value: ir.Value, factor: float) -> ir.Value:
        if factor == 1.0:
            return value
        dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
        return self.op("Mul", value, self.constant(np.asarray(factor, dtype.numpy())))

    def transposed(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        return value if list(perm) == sorted(perm) else self.op("Transpose", value, perm=list(perm))

    def reshaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self.op("Reshape", value, self.constant(np.array(shape, np.int64)))


def _rewrite(writer: _Writer, node: ir.Node) -> bool:
    rewrite = {
        ("", "Gemm"): _gemm,
        ("", "Einsum"): _einsum,
        (_OF_ONNXRUNTIME, "FusedMatMul"): _fused_matmul,
        (_OF_ONNXRUNTIME, "TransposeMatMul"): _fused_matmul,
        (_OF_ONNXRUNTIME, "FusedConv"): _fused_conv,
    }.get((node.domain, node.op_type))
    writer.node = node
    result = rewrite(writer, node) if rewrite is not None else None
    if result is None:
        return False
    maker, name = result.producer(), node.name
    replace_result(node.outputs[0], result, node)
    if maker is not None and maker.op_type in ("MatMul", "Gemm", "Conv"):
        maker.name = name  # reports and --exclude know the product by it
    return True


def _gemm(writer: _Writer, node: ir.Node) -> ir.Value | None:
    attributes = {
        "alpha": node.attributes.get_float("alpha", 1.0),
        "beta": node.attributes.get_float("beta", 1.0),
        "transA": node.attributes.get_int("transA", 0),
        "transB": node.attributes.get_int("transB", 0),
    }
    first, second, bias = (*node.inputs, None)[:3]
    if first is None or second is None:
        return None
    before = dict(attributes)
    if second.is_initializer():
        second, attributes["alpha"] = writer.scaled(second, before["alpha"]), 1.0
    elif first.is_initializer():
        first, attributes["alpha"] = writer.scaled(first, before["alpha"]), 1.0
    if bias is None:
        attributes["beta"] = 1.0
    elif bias.is_initializer():
        bias, attributes["beta"] = writer.scaled(bias, before["beta"]), 1.0
    if before["transA"]:
        first, attributes["transA"] = writer.transposed(first, [1, 0]), 0
    if attributes == before:
        return None
    return writer.op("Gemm", first, second, *([] if bias is None else [bias]), **attributes)


def _fused_matmul(writer: _Writer, node: ir.Node) -> ir.Value | None:
    if node.attributes.get_int("transBatchA", 0) or node.attributes.get_int("transBatchB", 0):
        return None
    operands = []
    for value, key in zip(node.inputs, ("transA", "transB"), strict=True):
        if value is None:
            return None
        if node.attributes.get_int(key, 0):
            if value.shape is None:
                return None
            rank = len(value.shape)
            if rank > 1:
                value = writer.transposed(value, [*range(rank - 2), rank - 1, rank - 2])
        operands.append(value)
    alpha = node.attributes.get_float("alpha", 1.0)
    constant = next((i for i in (1, 0) if node.inputs[i] is not None and _is_constant(node.inputs[i])), None)
    if constant is None:
        return writer.scaled(writer.op("MatMul", *operands), alpha)
    operands[constant] = writer.scaled(operands[constant], alpha)
    return writer.op("MatMul", *operands)


def _fused_conv(writer: _Writer, node: ir.Node) -> ir.Value | None:
    kind = node.attributes.get_string("activation", "")
    parameters = list(node.attributes.get_floats("activation_params", []))
    if kind not in _ACTIVATIONS and kind != "Clip":
        return None
    kept = {key: a.value for key, a in node.attributes.items() if not key.startswith("activation")}
    value = writer.op("Conv", *node.inputs[:3], **kept)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        value = writer.op("Add", value, node.inputs[3])
    if kind == "Clip":
        bounds = [writer.constant(np.asarray(bound, np.float32)) for bound in parameters]
        return writer.op("Clip", value, *bounds)
    return writer.op(kind, value, **dict(zip(_ACTIVATIONS[kind], parameters, strict=False)))


def _einsum(writer: _Writer, node: ir.Node) -> ir.Value | None:
    """Two operands: one weight and any activation, or two activations with one row and one column index each."""
    terms = _terms(node.attributes.get_string("equation", ""))
    values = list(node.inputs)
    if terms is None or len(values) != 2 or values[0] is None or values[1] is None:
        return None
    first, second, result = terms
    a, b = values[0], values[1]
    if _is_constant(a) and not _is_constant(b):
        a, b, first, second = b, a, second, first
    batch = [label for label in result if label in first and label in second]
    inner = [label for label in first if label in second and label not in result]
    rows = [label for label in result if label in first and label not in second]
    columns = [label for label in result if label in second and label not in first]
    whole = {*first} == {*batch, *inner, *rows} and {*second} == {*batch, *inner, *columns}
    if not whole or not inner or not rows or not columns:
        return None
    if _is_constant(b) and not batch and b.shape is not None:
        sizes = dict(zip(second, b.shape.numpy(), strict=True))
        a = writer.transposed(a, [first.index(label) for label in (*rows, *inner)])
        if len(inner) > 1:
            a = writer.reshaped(a, [*[0] * len(rows), -1])
        b = writer.transposed(b, [second.index(label) for label in (*inner, *columns)])
        if len(inner) > 1 or len(columns) > 1:
            b = writer.reshaped(b, [int(np.prod([sizes[label] for label in part])) for part in (inner, columns)])
        product = writer.op("MatMul", a, b)
        if len(columns) > 1:
            product = writer.reshaped(product, [*[0] * len(rows), *(sizes[label] for label in columns)])
    elif len(inner) == len(rows) == len(columns) == 1:
        a = writer.transposed(a, [first.index(label) for label in (*batch, *rows, *inner)])
        b = writer.transposed(b, [second.index(label) for label in (*batch, *inner, *columns)])
        product = writer.op("MatMul", a, b)
    else:
        return None
    made = [*batch, *rows, *columns]
    return writer.transposed(product, [made.index(label) for label in result])


def _terms(equation: str) -> tuple[str, str, str] | None:
    """The labels of both operands and of the result; None for another number, an ellipsis, or a diagonal."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if len(operands) != 2 or "." in equation:
        return None
    if not arrow:
        result = "".join(sorted(label for label in set(left) - {","} if left.count(label) == 1))
    if any(len(set(term)) != len(term) for term in (*operands, result)):
        return None
    return operands[0], operands[1], result


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
