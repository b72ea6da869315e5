"""Rejects damaged models that protobuf can still parse, and mends what only ONNX Runtime minds.

The rules are those of onnx.checker that ONNX Runtime enforces too, and that the rest of quantkit relies on.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.expansion import all_nodes, model_parts
from quantkit.machine import raise_if_out_of_memory

_STANDARD = ("", "ai.onnx")


def check_content(model: ir.Model, name: str) -> None:
    """Rejects names that are not Unicode, nodes that violate their operator's schema, and unreadable weights.

    Args:
        model: as read.
        name: of its file, for messages.

    Raises:
        ModelError: naming the node or weight.
    """
    for words in _names(model):
        if odd := [word for word in words if not isinstance(word, str | None)]:
            raise ModelError(
                f"{name}: the name {odd[0]!r} is not Unicode text: the file is damaged or not an ONNX model"
            )
    for part in model_parts(model):
        opsets = part.opset_imports
        known = {*opsets, *_STANDARD, *(function.domain for function in model.functions.values())}
        for node in ir.traversal.RecursiveGraphIterator(part):
            reason = _broken_rule(node, opsets.get("", opsets.get("ai.onnx", 1)))
            if reason is None and node.domain not in known:
                reason = f"is of the domain {node.domain!r}, which the model does not import: export it again, or add "
                reason += f"onnx.helper.make_opsetid({node.domain!r}, 1) to its opset_import"
            if reason is not None:
                raise ModelError(f"{name}: node {node.name!r} ({node.op_type}) {reason}")
        if unmade := next((value for value in part.outputs if _is_undefined(value)), None):
            raise ModelError(f"{name}: nothing makes the output {unmade.name!r}")
    for weight, tensor in _tensors(model):
        if reason := _unreadable(tensor):
            raise ModelError(f"{name}: weight {weight!r} {reason}")


def unname_repeated(model: ir.Model) -> None:
    """Takes a node's name away where an earlier node of its graph has it, which ONNX Runtime refuses."""
    for graph in model.graphs():
        seen: set[str | None] = set()
        for node in graph:
            if node.name in seen:
                node.name = ""
            seen.add(node.name)


def _names(model: ir.Model) -> Iterator[list[object]]:
    for graph in model.graphs():
        yield [graph.name, *(value.name for value in (*graph.inputs, *graph.outputs)), *graph.initializers]
        yield [
            value.const_value.location
            for value in graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        ]
    for node in all_nodes(model):
        yield [node.name, node.op_type, node.domain, node.overload, *node.attributes]
        yield [value.name for value in (*node.inputs, *node.outputs) if value is not None]
    yield [*model.metadata_props, *model.metadata_props.values()]


def _broken_rule(node: ir.Node, opset: int) -> str | None:
    """What a node violates: a rule for all, or of its operator's schema, which operators of custom domains lack."""
    untyped = next((a.name for a in node.attributes.values() if a.type is ir.AttributeType.UNDEFINED), None)
    if untyped is not None:
        return f"has an attribute {untyped!r} without a type"
    if undefined := next((v for v in node.inputs if v is not None and _is_undefined(v)), None):
        return f"reads the tensor {undefined.name!r}, which nothing makes"
    if node.domain not in _STANDARD or not onnx.defs.has(node.op_type, opset, ""):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return f"has {len(node.inputs)} inputs, the operator takes {schema.min_input} to {schema.max_input}"
    if not schema.min_output <= len(node.outputs) <= schema.max_output:
        return f"has {len(node.outputs)} outputs, the operator has {schema.min_output} to {schema.max_output}"
    required = onnx.defs.OpSchema.FormalParameterOption.Single
    for value, parameter in zip(node.inputs, schema.inputs, strict=False):
        if value is None and parameter.option == required:
            return f"has no input {parameter.name!r}"
    for value, parameter in zip(node.outputs, schema.outputs, strict=False):
        if not value.name and parameter.option == required:
            return f"has no name for its output {parameter.name!r}"
    for attribute in node.attributes.values():
        known = schema.attributes.get(attribute.name)
        if known is None:
            return f"has an attribute {attribute.name!r} that the operator does not have"
        if attribute.type != getattr(known.type, "value", None):  # onnx's stubs do not know that it is an enumeration
            return f"has an attribute {attribute.name!r} of type {attribute.type.name}, not its own"
    if missing := [n for n, a in schema.attributes.items() if a.required and n not in node.attributes]:
        return f"has no attribute {missing[0]!r}"
    if node.op_type == "Constant" and len(node.attributes) != 1:
        return f"has {len(node.attributes)} values"
    return None


def _is_undefined(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            # Not as_tensor: it fails on a tensor without a type.
            if attribute.type is ir.AttributeType.TENSOR and not attribute.is_ref():
                yield f"{node.name}.{attribute.name}", attribute.value
            elif attribute.type is ir.AttributeType.TENSORS and not attribute.is_ref():
                yield from ((f"{node.name}.{attribute.name}", tensor) for tensor in attribute.value)


def _unreadable(tensor: ir.TensorProtocol) -> str | None:
    try:
        dtype = tensor.dtype
    except ValueError:  # a number that names none
        dtype = ir.DataType.UNDEFINED
    if dtype is ir.DataType.UNDEFINED:
        return "has an unknown type"
    shape = tuple(tensor.shape)
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        return "has no shape of whole numbers from 0"
    if isinstance(tensor, ir.ExternalTensor):
        return None
    try:
        values = tensor.numpy()
    except Exception as error:  # numpy and onnx_ir raise nearly anything on data of another length
        raise_if_out_of_memory(error)
        reason = str(error).strip().splitlines()
        return f"cannot be read: {reason[0][:200] if reason else type(error).__name__}"
    return None if values.shape == shape else f"has shape {list(values.shape)}, not {list(shape)} as it says"
