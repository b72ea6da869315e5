"""Reads the scales of a model with Q/DQ. See `qdq_lint` for their placement."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.prepare import FLOAT_TYPES, constant_at, constant_of, input_at


@dataclass(frozen=True)
class ReadScale:
    """Quantized range of an activation: [minimum, maximum] is what the quantized values stand for.

    `scale` is that of the QuantizeLinear, and `source` the name in this model of the tensor that it reads.
    """

    scale: float
    minimum: float
    maximum: float
    is_symmetric: bool
    source: str = field(default="", compare=False)


def activation_scales(model: ir.Model) -> tuple[dict[str, ReadScale], dict[str, str]]:
    """Ranges by name of the tensor that QuantizeLinear reads, in network order.

    Args:
        model: as loaded. Weights (Q or DQ of a constant) are left out.

    Returns:
        The ranges, and what cannot be read: tensor → reason.
    """
    found: dict[str, ReadScale] = {}
    unread: dict[str, str] = {}
    for node in model.graph:
        if node.op_type.startswith(("QLinear", "QGemm")):
            unread[str(node.name or node.op_type)] = f"{node.op_type} is not Q/DQ: its scales are not read"
        value = node.inputs[0] if node.op_type == "QuantizeLinear" and node.inputs and node.outputs else None
        if value is None or constant_of(value) is not None or len(node.inputs) < 2:
            continue
        name = _output_name(node) or _name(value)
        scale = constant_at(node, 1)
        if scale is None or scale.size != 1:
            unread[name] = "its scale is computed" if scale is None else f"it has {scale.size} scales"
            continue
        read = _read(node, float(scale.astype(np.float32).reshape(())))
        zero = input_at(node, 2)
        if zero is not None and zero.dtype is ir.DataType.FLOAT8E4M3FN:
            unread[name] = "it is quantized to FP8, whose scales are no ranges of INT8"
        elif read is None:
            unread[name] = "it is not quantized to 8 bits with one zero point, or its scale is not positive and finite"
        elif name in found and found[name] != read:
            unread[name] = f"it is quantized twice, with scales {found[name].scale:.6g} and {read.scale:.6g}"
        else:
            found[name] = replace(read, source=str(value.name))
    return {name: read for name, read in found.items() if name not in unread}, unread


def _output_name(node: ir.Node) -> str:
    """Name of the model's output that a Q and its DQ make, "" if none: ONNX Runtime renames what the Q reads there."""
    if node.inputs[0] is None or node.inputs[0].is_graph_output():
        return ""
    for reader in node.outputs[0].consumers():
        if reader.op_type == "DequantizeLinear" and reader.outputs and reader.outputs[0].is_graph_output():
            return str(reader.outputs[0].name)
    return ""


def _name(value: ir.Value) -> str:
    """Its name, or that of the model input that it is in another precision (an FP16 model begins with a Cast)."""
    cast = value.producer()
    if cast is not None and cast.op_type == "Cast" and value.dtype in (*FLOAT_TYPES, None):
        source = cast.inputs[0]
        if source is not None and source.is_graph_input() and source.dtype in FLOAT_TYPES:
            return str(source.name)
    return str(value.name)


def _read(node: ir.Node, scale: float) -> ReadScale | None:
    zero = constant_at(node, 2)
    if zero is None:
        declared = node.attributes.get_int("output_dtype", 0)
        dtype = np.dtype(np.int8) if declared == ir.DataType.INT8 else np.dtype(np.uint8)
    else:
        dtype = zero.dtype
    if dtype not in (np.dtype(np.int8), np.dtype(np.uint8)) or not (math.isfinite(scale) and scale > 0):
        return None
    if zero is not None and zero.size != 1:
        return None
    point = 0 if zero is None else int(zero.reshape(-1)[0])
    if point == (0 if dtype == np.dtype(np.int8) else 128):
        # 127 and not 128 steps below 0: TensorRT's range is symmetric. UINT8 with zero point 128 is the same, shifted.
        return ReadScale(scale, -127 * scale, 127 * scale, True)
    info = np.iinfo(dtype)
    return ReadScale(scale, (int(info.min) - point) * scale, (int(info.max) - point) * scale, False)
