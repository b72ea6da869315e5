"""Normalizes a model to the form that placement and insertion expect, without renaming tensors.

After `prepare`: functions are inlined, nodes are in topological order, the opset is at least the requested one,
constant expressions are initializers, every node has a unique name, and element types are inferred. Operators are not
fused: runtimes do that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from quantkit.errors import ModelError
from quantkit.graph.model import NEWEST_OPSET, quiet, root_cause
from quantkit.graph.passes.constants import fold_constants
from quantkit.graph.passes.element_types import infer_types
from quantkit.graph.passes.opset import convert_opset
from quantkit.graph.passes.products import rewrite_products
from quantkit.graph.unknown_operators import set_aside
from quantkit.types import OLDEST_QDQ_OPSET, SCHEMES, Array, Format

WEIGHTED_OPS = {"Conv": (0, 1), "ConvTranspose": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1)}
"""Operators that are quantized, and the indices of their quantized inputs; the bias stays in float."""

LAYOUT_OPS = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
"""Operators whose output holds the values of their input, all of them."""

COPY_OPS = (*LAYOUT_OPS, "Slice", "Split", "MaxPool")
"""Operators whose output holds values of their input and no others: input and output can share a scale."""

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)

_OVER_CHANNELS = ("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool")

FP16_OPSET = 19
"""First opset whose QuantizeLinear takes FP16 scales."""

INTEGER_PRODUCTS = frozenset(
    {
        *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"),
        *("QAttention", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits"),
    }
)
"""Operators of ONNX and ONNX Runtime that multiply quantized matrices, which TensorRT lacks."""

_FORMATS: dict[ir.DataType | None, str] = {
    ir.DataType.INT4: "int4",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.FLOAT8E4M3FN: "fp8",
}

_ONLY_TENSORRT = (ir.DataType.FLOAT8E4M3FN, ir.DataType.INT4)
"""Types of quantized values for which x86 processors have no kernels."""

_SEQUENCE_OPS = ("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SplitToSequence")


def prepare(
    model: ir.Model, *, name: str, opset: int = OLDEST_QDQ_OPSET, fixed: Mapping[str, Array] | None = None
) -> ir.Model:
    """Normalizes `model` in place and returns it.

    Args:
        model: as read: `FloatModel.graph`.
        name: for messages.
        opset: minimum opset; a newer model keeps its own. A model with FP16 weights gets at least `FP16_OPSET`.
        fixed: values of inputs by name: an If that they decide is replaced by its branch.

    Raises:
        ModelError: the opset cannot be converted, or a convolution or normalization gets no elements.
    """
    with quiet():
        try:
            passes.InlinePass()(model)
            passes.RemoveInitializersFromInputsPass()(model)
            model.graph.sort()
        except Exception as error:  # a call that does not fit its function, a cycle
            raise ModelError(f"{name}: invalid graph: {root_cause(error)}") from error
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape):
                value.shape = ir.Shape(None if isinstance(d, int) and d < 0 else d for d in value.shape)
        set_aside(model)
        # Before opset conversion, so that names do not depend on the opset.
        _name_nodes(model.graph)
        if _is_half(model):
            opset = max(opset, FP16_OPSET)
        opset = min(max(opset, model.opset_imports[""]), NEWEST_OPSET)
        if model.opset_imports[""] != opset:
            convert_opset(model, name, opset)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        _name_nodes(model.graph)
        fold_constants(model, fixed or {})
        try:
            infer_types(model)
            if not has_qdq(model) and rewrite_products(model):
                fold_constants(model)
                infer_types(model)
        except Exception as error:
            raise ModelError(f"{name}: shape inference failed: {root_cause(error)}") from error
        _name_nodes(model.graph)
        _mark_sequences(model.graph)
    for node in model.graph:  # ONNX Runtime would end the process
        data = node.inputs[0] if is_standard(node, *_OVER_CHANNELS) else None
        if data is not None and data.shape is not None and 0 in data.shape:
            text = f"node {node.name!r} ({node.op_type}) reads {data.name!r} of shape {data.shape}, which is empty"
            raise ModelError(f"{name}: {text}: the input is too small for the model")
    return model


def weighted_nodes(model: ir.Model) -> frozenset[str]:
    """Names of the main graph's Conv, ConvTranspose, Gemm and MatMul on floating-point numbers."""
    return frozenset(
        str(node.name)
        for node in model.graph
        if is_standard(node, *WEIGHTED_OPS) and node.outputs[0].dtype in (*FLOAT_TYPES, None)
    )


def has_qdq(model: ir.Model) -> bool:
    """Whether the model already holds QuantizeLinear, DequantizeLinear or ONNX Runtime's quantized operators."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") or is_integer_operator(node) for node in nodes)


def is_integer_operator(node: ir.Node) -> bool:
    """Whether it computes on quantized values, which TensorRT lacks: it reads Q/DQ instead."""
    return node.op_type in INTEGER_PRODUCTS or node.op_type.startswith(("DynamicQuantizeLinear", "QLinear"))


def quantized_formats(model: ir.Model) -> tuple[str, ...]:
    """Names of the formats that a model with Q/DQ dequantizes from: int4, int8, fp8; integer operators are int8."""
    found = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        value = node.inputs[0] if node.op_type == "DequantizeLinear" and node.inputs else None
        tensor = constant_of(value)
        dtype = tensor.dtype if tensor is not None else value.dtype if value is not None else None
        if dtype in _FORMATS:
            found.add(_FORMATS[dtype])
    return tuple(sorted(found)) or ("int8",) * has_qdq(model)


def scheme_of(model: ir.Model) -> Format:
    """Which of `SCHEMES` a model with Q/DQ is made by, as its formats say: INT8 where they are those of none."""
    formats = "+".join(quantized_formats(model))
    return next((name for name in get_args(Format) if name == formats), "int8")


def format_needs(model: ir.Model) -> str:
    """What the formats of a model with Q/DQ need of TensorRT and of the GPU, in words; empty for INT8 alone."""
    formats = quantized_formats(model)
    schemes = [SCHEMES[name] for name in formats]
    if all(scheme.is_plain for scheme in schemes):
        return ""
    version = ".".join(map(str, max(scheme.oldest_tensorrt for scheme in schemes)))
    oldest_gpu = max(scheme.oldest_gpu for scheme in schemes)
    gpus = f", and GPUs from sm{oldest_gpu} on" if oldest_gpu else ""
    return f"{'+'.join(formats).upper()}: needs TensorRT {version} or later{gpus}"


def has_signed_activations(model: ir.Model) -> bool:
    """Whether an activation is quantized to signed numbers, or weights alone to INT4, as for TensorRT.

    x86 kernels take unsigned activations.
    """
    for node in model.graph:
        index = {"QuantizeLinear": 2, "DequantizeLinear": 0}.get(node.op_type)
        value = None if index is None else input_at(node, index)
        kinds = (*_ONLY_TENSORRT, ir.DataType.INT8) if index == 2 else _ONLY_TENSORRT
        if value is not None and value.dtype in kinds:
            return True
    return False


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether `node` is one of these operators of ONNX's own domain."""
    return node.domain in ("", "ai.onnx") and node.op_type in op_types


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Value of an initializer or of the output of a Constant node; None for any other value."""
    if value is None:
        return None
    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is not None and is_standard(producer, "Constant"):
        return ir.convenience.get_const_tensor(value)
    return None


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """What a node reads at one of its inputs; None where that is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_at(node: ir.Node, index: int) -> np.ndarray | None:
    """The constant at an input of a node; None where something else or nothing is."""
    tensor = constant_of(input_at(node, index))
    return None if tensor is None else tensor.numpy()


def _mark_sequences(graph: ir.Graph) -> None:
    # Shape inference reports a sequence of tensors as a tensor.
    for node in graph:
        if is_standard(node, *_SEQUENCE_OPS):
            for value in node.outputs:
                if isinstance(value.type, ir.TensorType):
                    value.type = ir.SequenceType(value.type)


def _is_half(model: ir.Model) -> bool:
    """Whether any weight or input is FP16, which QuantizeLinear accepts from `FP16_OPSET` on."""
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    constants = [node.outputs[0] for node in model.graph if is_standard(node, "Constant")]
    tensors = [ir.convenience.get_const_tensor(value) for value in constants]
    return ir.DataType.FLOAT16 in {v.dtype for v in values} | {t.dtype for t in tensors if t is not None}


def _name_nodes(graph: ir.Graph) -> None:
    """Names unnamed and equally named nodes by operator and position, deterministically."""
    given = {node.name for node in graph}
    seen: set[str] = set()
    for position, node in enumerate(graph):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{position}"
            while node.name in given:
                node.name += "_"
            given.add(node.name)
        seen.add(node.name)
