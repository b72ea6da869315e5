"""Types of activations where ONNX's inference has none: from the operator's schema, else from the runtime."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from quantkit.errors import QuantKitError
from quantkit.graph.model import infer_shapes, share_weights
from quantkit.graph.passes.edits import replace_result
from quantkit.types.running import TYPE_SOURCES

_SAME_AS_INPUT = frozenset({"GroupNormalization"})
"""Operators without inference of their own whose result is like their first input."""


def infer_types(model: ir.Model) -> None:
    """Infers types and shapes in place; what is not known stays without a type.

    Raises:
        Exception: whatever onnx's inference says of a broken model.
    """
    infer_shapes(model)
    if _untyped(model):
        _from_stand_ins(model)
        _from_schemas(model)
        infer_shapes(model)
    if _untyped(model) and _from_runtime(model):
        infer_shapes(model)


def _untyped(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs if value.name and value.type is None]


def _from_stand_ins(model: ir.Model) -> None:
    """Infers through `_SAME_AS_INPUT`, with an Identity in the place of each."""
    copy = model.clone()
    for node in list(copy.graph):
        if node.op_type in _SAME_AS_INPUT:
            identity = ir.node("Identity", node.inputs[:1], outputs=[ir.Value(name="stand-in")])
            copy.graph.insert_before(node, identity)
            replace_result(node.outputs[0], identity.outputs[0], node)
    infer_shapes(copy)
    known = {value.name: value for node in copy.graph for value in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            found = known.get(value.name)
            if value.type is None and found is not None and isinstance(found.type, ir.TensorType):
                value.type, value.shape = ir.TensorType(found.type.dtype), found.shape
            elif value.shape is None and found is not None:
                value.shape = found.shape


def _from_schemas(model: ir.Model) -> None:
    """A tensor has the type of others that a schema calls by the same name: outputs, and what no schema makes."""
    opset = model.graph.opset_imports.get("", 1)
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
            continue
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        known = {
            formal.type_str: value.dtype
            for formal, value in zip(schema.inputs, node.inputs, strict=False)
            if value is not None and value.dtype is not None
        }
        pairs = [*zip(schema.inputs, node.inputs, strict=False), *zip(schema.outputs, node.outputs, strict=False)]
        for formal, value in pairs:
            dtype = known.get(formal.type_str)
            if value is not None and value.type is None and dtype is not None:
                value.type = ir.TensorType(dtype)


def _from_runtime(model: ir.Model) -> bool:
    """What an installed runtime infers for all that has no type; whether there was anything."""
    copy = model.clone()
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(_untyped(copy))
    values = {value.name: value for value in _untyped(model)}
    for tell in TYPE_SOURCES.values():
        try:
            specs = tell(share_weights(copy))
        except QuantKitError:  # an operator that the runtime does not know either
            continue
        for spec in specs:
            if spec.dtype.kind != "O":
                value = values[spec.name]
                value.type = ir.TensorType(ir.DataType.from_numpy(spec.dtype))
                value.shape = ir.Shape(spec.shape) if spec.shape else value.shape
        return True
    return False
