"""Conversion to another opset, by onnx's version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.model import root_cause
from quantkit.machine import raise_if_out_of_memory


def convert_opset(model: ir.Model, name: str, opset: int) -> None:
    """Converts `model` in place, up or down.

    Args:
        model: without functions.
        name: for messages.
        opset: of the standard domain.

    Raises:
        ModelError: naming the operator that has no conversion.
    """
    from onnxscript import version_converter  # slow to load, and few models need another opset

    old = model.opset_imports[""]
    try:
        version_converter.convert_version(model, target_version=opset, fallback=True)
        reason = ""
    except Exception as error:
        reason = f" ({root_cause(error)})"
    if reason or model.opset_imports[""] != opset:
        node = _obstacle(model, old, opset)
        what = "" if node is None else f": node {node.name!r} ({node.op_type}) has no conversion"
        raise ModelError(f"{name}: opset {old} cannot be converted to {opset}{what or reason}; export with {opset}")
    # The converter keeps the IR version, and checkers reject an opset that is newer than the IR version allows.
    oldest_ir = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.ir_version = max(model.ir_version or 0, oldest_ir)


def _obstacle(model: ir.Model, old: int, opset: int) -> ir.Node | None:
    """The first node that cannot be converted by itself."""
    tried: set[str] = set()
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        attributes = sorted((key, str(a.value)[:200]) for key, a in node.attributes.items())
        if (key := f"{node.op_type} {len(node.inputs)} {attributes}") in tried:
            continue
        tried.add(key)
        try:
            onnx.version_converter.convert_version(_alone(node, old), opset)
        except Exception as error:  # whatever the converter raises
            raise_if_out_of_memory(error)
            return node
    return None


def _alone(node: ir.Node, opset: int) -> onnx.ModelProto:
    """A model of one node; its constants stay constants where they are small."""
    proto = ir.serde.serialize_node(node)
    constants, inputs = [], []
    for value in dict.fromkeys(v for v in node.inputs if v is not None):
        tensor = value.const_value
        if tensor is not None and tensor.size <= 1024:
            constants.append(onnx.numpy_helper.from_array(tensor.numpy(), value.name))
        else:
            shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
            kind = int(value.dtype or ir.DataType.FLOAT)
            inputs.append(onnx.helper.make_tensor_value_info(str(value.name), kind, shape))
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in proto.output if n]
    graph = onnx.helper.make_graph([proto], "one node", inputs, outputs, constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
