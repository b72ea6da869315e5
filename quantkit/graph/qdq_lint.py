"""Which operators of a model are quantized, and where its Q/DQ violate TensorRT's rules for explicit quantization.

A finding states the consequence: TensorRT rejects the model, computes wrong results, or silently runs the operator in
float. Sources: NVIDIA's documentation and ONNX parser (onnx-tensorrt, release branches 8.6 to 10); "in float" was
observed with TensorRT-RTX 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import (
    COPY_OPS,
    FLOAT_TYPES,
    INTEGER_PRODUCTS,
    WEIGHTED_OPS,
    constant_at,
    constant_of,
    format_needs,
    input_at,
    is_integer_operator,
    is_standard,
)
from quantkit.graph.placement.shared_scales import is_residual
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.share import float_reason, is_product
from quantkit.types import OLDEST_QDQ_OPSET

QdqSeverity = Literal["refused", "wrong", "float", "note"]
"""TensorRT rejects the model; computes other results than ONNX defines; runs in float; or for information."""

_MOVABLE_OPS = (*COPY_OPS, "Concat", "Pad")
"""Operators that TensorRT moves Q/DQ across, so that the next operator still reads quantized values."""

_REJECTED = frozenset({"integer operator", "int32 bias", "zero point", "uint8"})
_REJECTED_BY_TENSORRT_8 = _REJECTED | {"no zero point", "fp16 scale"}
"""Rules whose violation stops a build: TensorRT would fail late, or compute wrong results."""


@dataclass(frozen=True)
class Operator:
    """A node, and whether it is quantized. `reason` states why a weighted one is not; empty for other operators."""

    name: str
    op_type: str
    is_weighted: bool
    is_quantized: bool
    reason: str = ""


@dataclass(frozen=True)
class QdqFinding:
    """A violated rule: which one, at which node, and what TensorRT does."""

    rule: str
    node: str
    severity: QdqSeverity
    text: str


def planned_operators(model: ir.Model) -> tuple[Operator, ...]:
    """What quantkit would quantize in a prepared float model, and why it does not quantize the rest.

    Raises:
        ModelError: nothing can be quantized.
    """
    plan = plan_tensorrt(model)
    quantized = {edge.node for edge in plan.activations}
    planned = [
        Operator(
            name=name_of(node),
            op_type=node.op_type,
            is_weighted=is_product(node),
            is_quantized=name_of(node) in quantized,
            reason=plan.skipped[name_of(node)] if name_of(node) in plan.operators - quantized else "",
        )
        for node in model.graph
    ]
    return (*planned, *_inner_products(model))


def quantized_operators(model: ir.Model) -> tuple[Operator, ...]:
    """Operators of a model with Q/DQ; quantized are those that read all their operands through DequantizeLinear."""
    operators = []
    for node in model.graph:
        if _is_q(node) or _is_dq(node):
            continue
        weighted = is_product(node) or node.op_type in INTEGER_PRODUCTS
        reason = ""
        if is_integer_operator(node):
            is_quantized = True
        elif weighted:
            reason = float_reason(node) or _float_reason(node)
            is_quantized = not reason
        else:
            floats = [v for v in node.inputs if v is not None and constant_of(v) is None and v.dtype in FLOAT_TYPES]
            is_float = bool(floats) and node.outputs[0].dtype in FLOAT_TYPES
            is_quantized = is_float and all(_dequantizer(v) is not None for v in floats)
            if is_standard(node, "Add") and not is_quantized:
                is_quantized = _is_quantized_residual(node)
        operators.append(Operator(name_of(node), node.op_type, weighted, is_quantized, reason))
    return (*operators, *_inner_products(model))


def _inner_products(model: ir.Model) -> list[Operator]:
    """The products of sub-graphs: branches of an If, the body of a Loop."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    inner = [node for node in nodes if node.graph is not model.graph and is_product(node)]
    return [Operator(name_of(node), node.op_type, True, False, "sub-graphs stay in float") for node in inner]


def lint_qdq(model: ir.Model) -> tuple[QdqFinding, ...]:
    """Every place where TensorRT does not compute what the model's Q/DQ specify, in network order.

    Args:
        model: with shapes and types inferred, as `prepare` leaves it.
    """
    findings = list(_lint_opset(model))
    for node in model.graph:
        if _is_q(node) or _is_dq(node):
            findings += _lint_parameters(node)
        elif is_integer_operator(node):
            finding = _integer_operator(node)
            findings.append(replace(finding, text=f"{node.op_type}: {finding.text}"))
        elif is_standard(node, *WEIGHTED_OPS):
            findings += _lint_product(node)
        elif is_standard(node, "Concat"):
            findings += _lint_concat(node)
        elif is_standard(node, "Add", "Mul"):
            findings += _lint_elementwise(node)
    return tuple(findings)


def check_explicit(model: ir.Model, *, name: str, tensorrt_major: int | None = None) -> None:
    """Rejects Q/DQ that TensorRT cannot build, or computes wrong results with.

    Args:
        model: with Q/DQ; as loaded.
        name: for messages.
        tensorrt_major: 8 is stricter; None for TensorRT-RTX.

    Raises:
        ModelError: naming the node, the rule and the fix.
    """
    rules = _REJECTED_BY_TENSORRT_8 if tensorrt_major == 8 else _REJECTED
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        findings: list[QdqFinding] = []
        if is_integer_operator(node):
            findings = [_integer_operator(node)]
        elif _is_q(node) or _is_dq(node):
            findings = [*_lint_parameters(node), *([_fp16_scale(node)] if _has_fp16_scale(node) else [])]
        for finding in findings:
            if finding.rule in rules:
                raise ModelError(f"{name}: node {node.name!r} ({node.op_type}): {finding.text}")


def _integer_operator(node: ir.Node) -> QdqFinding:
    text = "TensorRT does not support this operator and rejects the model; use Q/DQ nodes instead"
    return QdqFinding("integer operator", name_of(node), "refused", text)


def _has_fp16_scale(node: ir.Node) -> bool:
    return _type_at(node, 1) is ir.DataType.FLOAT16


def _fp16_scale(node: ir.Node) -> QdqFinding:
    text = "FP16 scales: TensorRT 8.6 reads them as FP32: wrong results; use 10 or later, or --high-precision fp32"
    return QdqFinding("fp16 scale", name_of(node), "note", text)


def _lint_opset(model: ir.Model) -> Iterator[QdqFinding]:
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_QDQ_OPSET:
        text = f"opset {opset}: per-channel Q/DQ and TensorRT 8.6 need opset {OLDEST_QDQ_OPSET} or later"
        yield QdqFinding("opset", "", "note", text)
    if needs := format_needs(model):
        yield QdqFinding("format", "", "note", needs)
        return  # these versions read FP16 scales
    half = next((node for node in model.graph if (_is_q(node) or _is_dq(node)) and _has_fp16_scale(node)), None)
    if half is not None:
        yield _fp16_scale(half)


def _lint_parameters(node: ir.Node) -> Iterator[QdqFinding]:
    name = name_of(node)
    dtype = _quantized_type(node)
    if dtype is ir.DataType.INT32:
        text = "INT32 bias: TensorRT rejects the model; keep the bias in float (ONNX Runtime: QuantizeBias=False)"
        yield QdqFinding("int32 bias", name, "refused", text)
        return
    scale, zero = (constant_at(node, i) for i in (1, 2))
    if zero is not None and np.any(zero != 0):
        text = "zero point is not 0: TensorRT rejects the model; use symmetric quantization"
        yield QdqFinding("zero point", name, "refused", text)
    elif _is_unsigned_by_default(node):
        text = "no zero point: UINT8 in ONNX, but INT8 in TensorRT: wrong results; add an INT8 zero point"
        yield QdqFinding("no zero point", name, "wrong", text)
    elif dtype is ir.DataType.UINT8 and not _is_unsigned_by_default(
        node.inputs[0].producer() if node.inputs[0] else None
    ):
        text = "UINT8: TensorRT warns and uses INT8, which clips values above 127; quantize to INT8"
        yield QdqFinding("uint8", name, "wrong", text)
    elif dtype is ir.DataType.INT8 and (len(node.inputs) < 3 or node.inputs[2] is None):
        yield QdqFinding("no zero point", name, "note", "no zero point: TensorRT 8.6 requires one (zeros)")
    if scale is None:
        yield QdqFinding("computed scale", name, "refused", "scale is not a constant: TensorRT rejects the model")
        return
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        text = "a scale is not positive and finite: TensorRT rejects the model; use any positive one in unused channels"
        yield QdqFinding("scale not positive", name, "refused", text)
    is_constant = _source(node) is not None
    if scale.size > 1 and not is_constant:
        text = f"an activation has {scale.size} scales: TensorRT runs its consumers in float; use one scale"
        yield QdqFinding("scales of an activation", name, "float", text)
    elif scale.ndim > 0 and scale.size == 1 and not is_constant:
        text = f"scale has shape {list(scale.shape)}: TensorRT-RTX runs a Conv that reads it in float; use a scalar"
        yield QdqFinding("scale rank", name, "float", text)


def _lint_product(node: ir.Node) -> Iterator[QdqFinding]:
    reads = [_reads_quantized(node.inputs[i]) for i in WEIGHTED_OPS[node.op_type]]
    name = name_of(node)
    if all(reads):
        if (axis := _wrong_axis(node)) is not None:
            text = f"its weight scales are along axis {axis}, not along the output channels: TensorRT runs it in float"
            yield QdqFinding("weight axis", name, "float", f"{node.op_type}: {text}")
        elif is_standard(node, "ConvTranspose"):
            text = "ConvTranspose: TensorRT-RTX runs it in float despite its Q/DQ"
            yield QdqFinding("ConvTranspose", name, "float", text)
    elif any(reads) and not _is_weight_only(node):
        first, second = (node.inputs[i] for i in WEIGHTED_OPS[node.op_type])
        if any(_weight_source(v) is not None for v in (first, second)):
            rule = "weight only" if reads[1] else "activation only"
            which = "weight" if reads[1] else "activation"
        else:
            rule, which = "one operand", "operand"
        text = f"{node.op_type}: only its {which} is quantized: TensorRT runs it in float; quantize both inputs"
        yield QdqFinding(rule, name, "float", text)


def _lint_concat(node: ir.Node) -> Iterator[QdqFinding]:
    sources = [_dequantizer(v) for v in node.inputs]
    scales = {_scale_key(q) for q in sources if q is not None}
    requantized = all(_is_q(user) for user, _ in node.outputs[0].uses())
    if len(scales) > 1 and not requantized:
        text = f"Concat joins tensors of {len(scales)} scales: TensorRT runs its consumers in float; use one scale"
        yield QdqFinding("scales of a Concat", name_of(node), "float", text)


def _lint_elementwise(node: ir.Node) -> Iterator[QdqFinding]:
    floats = [v for v in node.inputs if v is not None and constant_of(v) is None]
    reads = [_dequantizer(v) is not None for v in floats]
    if len(reads) == 2 and any(reads) and not all(reads):
        if node.op_type == "Add" and _is_quantized_residual(node):
            return  # the skip of a residual block: this is how TensorRT wants it
        text = f"{node.op_type}: only one operand is quantized: it runs in float, and the Q/DQ nodes cost time"
        yield QdqFinding("one operand", name_of(node), "float", text)


def _float_reason(node: ir.Node) -> str:
    reads = [_reads_quantized(node.inputs[i]) for i in WEIGHTED_OPS[node.op_type]]
    if not any(reads):
        return "no Q/DQ on its inputs"
    if _is_weight_only(node):
        return ""
    if not all(reads):
        return "only its weight is quantized" if reads[1] else "only its activation is quantized"
    if _wrong_axis(node) is not None:
        return "weight scales are not along the output channels"
    for i in WEIGHTED_OPS[node.op_type]:
        source = _dequantizer(node.inputs[i])
        scale = constant_at(source, 1) if source is not None else None
        if scale is not None and scale.ndim > 0 and source is not None and _source(source) is None:
            return "an activation scale is not a scalar"
    return ""


def _is_weight_only(node: ir.Node) -> bool:
    """Whether its weight alone is to be quantized: INT4 in blocks, which TensorRT dequantizes before the product."""
    source = _dequantizer(node.inputs[1])
    return source is not None and _quantized_type(source) is ir.DataType.INT4 and _source(source) is not None


def _is_quantized_residual(node: ir.Node) -> bool:
    """Whether one operand is dequantized and the other is a branch that multiplies: a residual block."""
    reads = [_dequantizer(value) is not None for value in node.inputs]
    return len(reads) == 2 and any(reads) and not all(reads) and is_residual(node, reads.index(True))


def _reads_quantized(value: ir.Value | None) -> bool:
    """Whether a quantized value is read here: from DQ, or through operators that TensorRT moves Q/DQ across."""
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        if _dequantizer(current) is not None:
            continue
        node = current.producer()
        if node is None or not is_standard(node, *_MOVABLE_OPS):
            return False
        if is_standard(node, "Concat"):
            keys = {_scale_key(q) for q in map(_dequantizer, node.inputs) if q is not None}
            if len(keys) > 1:
                return False
            stack += node.inputs
        else:
            stack.append(node.inputs[0])
    return True


def _wrong_axis(node: ir.Node) -> int | None:
    """Axis of the weight's scales if it is not that of the output channels."""
    index = 1 if _weight_source(node.inputs[1]) is not None else 0
    source = _dequantizer(node.inputs[index])
    scale = constant_at(source, 1) if source is not None else None
    weight = _weight_source(node.inputs[index])
    if source is None or scale is None or scale.size < 2 or weight is None or weight.shape is None:
        return None
    rank = len(weight.shape)
    axis = source.attributes.get_int("axis", 1) % rank
    if node.op_type == "Gemm":
        right = 0 if node.attributes.get_int("transB", 0) else 1
    else:
        right = {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}[node.op_type]
    return axis if index == 1 and axis != right else None


def _weight_source(value: ir.Value | None) -> ir.Value | None:
    """The constant that a weight is, or that its DQ (and Q) read."""
    if value is None:
        return None
    if constant_of(value) is not None:
        return value
    node = _dequantizer(value)
    return _source(node) if node is not None else None


def _source(node: ir.Node) -> ir.Value | None:
    """The constant that a Q or DQ reads, directly or through the other; None for an activation."""
    value = node.inputs[0]
    if constant_of(value) is not None:
        return value
    before = value.producer() if value is not None else None
    return _source(before) if before is not None and (_is_q(before) or _is_dq(before)) else None


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and _is_dq(node) else None


def _scale_key(node: ir.Node) -> object:
    scale = constant_at(node, 1)
    return node.inputs[1] if scale is None else scale.tobytes()


def _quantized_type(node: ir.Node) -> ir.DataType | None:
    """Element type of a QuantizeLinear's output or a DequantizeLinear's input."""
    if input_at(node, 2) is not None:
        return _type_at(node, 2)
    if _is_dq(node):
        return _type_at(node, 0)
    return ir.DataType(node.attributes.get_int("output_dtype", ir.DataType.UINT8) or ir.DataType.UINT8)


def _type_at(node: ir.Node, index: int) -> ir.DataType | None:
    value = input_at(node, index)
    if (tensor := constant_of(value)) is not None:
        return tensor.dtype
    return None if value is None else value.dtype


def _is_unsigned_by_default(node: ir.Node | None) -> bool:
    if node is None or not _is_q(node):
        return False
    return input_at(node, 2) is None and not node.attributes.get_int("output_dtype", 0)


def _is_q(node: ir.Node) -> bool:
    return node.op_type == "QuantizeLinear"


def _is_dq(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear"
