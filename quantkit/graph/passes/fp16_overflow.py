"""Where FP16 overflows: nodes that make or read tensors beyond its range, by magnitudes seen on samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import constant_of, is_standard
from quantkit.notices import Notice, Notify, join_names

_LARGEST = float(np.finfo(np.float16).max)

_MASK = 1e8
"""Constants from here on are attention masks (-1e9, -3.4e38): no activation is so large. They are clipped."""


def overflowing_nodes(model: ir.Model, magnitudes: Mapping[str, float]) -> dict[str, str]:
    """Nodes that have to stay in FP32, with the tensor and its magnitude.

    What masks make of scores is left out: FP16 clips the mask, and the result of the Softmax is the same.

    Args:
        model: prepared, with or without Q/DQ.
        magnitudes: largest one seen, by name of the tensor in the float model.
    """
    sizes = dict(magnitudes)
    masks: set[ir.Value] = set()
    found: dict[str, str] = {}
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        node = value.producer()
        if node is not None and is_standard(node, "QuantizeLinear", "DequantizeLinear") and node.inputs[0] is not None:
            size = sizes.get(name_of(value), sizes.get(name_of(node.inputs[0]), 0.0))  # that of what is quantized
            sizes[name_of(value)] = size
        size = sizes.get(name_of(value), 0.0)
        is_masked = node is not None and any(v in masks or _magnitude(v) >= _MASK for v in node.inputs if v is not None)
        if is_masked and (size == 0 or size >= _MASK):
            masks.add(value)
        elif size > _LARGEST:
            for touched in (*([node] if node is not None else []), *value.consumers()):
                found.setdefault(name_of(touched), f"{name_of(value)} reaches {size:.4g}")
    for node in model.graph:
        for read in node.inputs:
            size = 0.0 if read is None else _magnitude(read)
            if _LARGEST < size < _MASK:
                found.setdefault(name_of(node), f"the constant {name_of(read)} has {size:.4g}")
    return found


def describe_overflow(nodes: Mapping[str, str]) -> str:
    """Names the nodes that stay in FP32; empty if there are none."""
    if not nodes:
        return ""
    named = join_names([f"{node} ({why})" for node, why in nodes.items()])
    return f"{len(nodes)} nodes stay in FP32, beyond what FP16 holds ({_LARGEST:.0f}): {named}"


def tell_overflow(nodes: Mapping[str, str], notify: Notify) -> None:
    """The same as a notice, if there are any."""
    if text := describe_overflow(nodes):
        notify(Notice("info", "model", text))


def with_dequantizers(model: ir.Model, nodes: Collection[str]) -> Iterator[ir.Node]:
    """The nodes of these names, and the DequantizeLinear nodes that they read: a scale gives the type of the result."""
    for node in model.graph:
        if name_of(node) in nodes:
            yield node
            for value in node.inputs:
                producer = None if value is None else value.producer()
                if producer is not None and is_standard(producer, "DequantizeLinear"):
                    yield producer


def _magnitude(value: ir.Value) -> float:
    """The largest value of a constant; 0 of other values, of integers and of large weights."""
    constant = constant_of(value)
    if constant is None or constant.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE) or constant.size > 1 << 20:
        return 0.0
    return float(np.max(np.abs(constant.numpy()), initial=0.0))
