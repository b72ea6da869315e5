"""Whether TensorRT computes what a model with Q/DQ says: some forms it refuses late, some it runs with wrong numbers.

Rules of NVIDIA's ONNX parser (onnx-tensorrt, release branches 8.6 to 10) and of TensorRT-RTX 1.7, as seen there.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.prepare import constant_of

__all__ = ["check_explicit"]

_OF_ONNXRUNTIME = (
    "QLinearConv",
    "QLinearMatMul",
    "QLinearAdd",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
)


def check_explicit(model: ir.Model, *, name: str, tensorrt_major: int | None = None) -> None:
    """Refuses Q/DQ that TensorRT cannot take.

    Args:
        model: with Q/DQ.
        name: for messages.
        tensorrt_major: 8 is stricter; None for TensorRT-RTX.

    Raises:
        ModelError: naming the node and the fix.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        reason = next(_obstacles(node, strict=tensorrt_major == 8), None)
        if reason is not None:
            raise ModelError(f"{name}: node {node.name!r} ({node.op_type}) {reason}")


def _obstacles(node: ir.Node, *, strict: bool) -> Iterator[str]:
    if node.op_type in _OF_ONNXRUNTIME:
        yield "is ONNX Runtime's own: quantize the float model with quantkit quantize, target tensorrt"
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    value, scale = node.inputs[0], node.inputs[1]
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = constant_of(zero_point)
    if ir.DataType.UINT8 in (_dtype(zero_point), _dtype(value), _dtype(node.outputs[0])):
        yield "is UINT8, which TensorRT reads as INT8 and gets wrong: quantize for target tensorrt"
    if tensor is not None and tensor.numpy().astype("int32").any():
        yield "has a zero point other than 0, which TensorRT refuses: quantize for target tensorrt"
    if node.op_type == "DequantizeLinear" and _dtype(value) is ir.DataType.INT32:
        yield "dequantizes an INT32 bias, which TensorRT refuses: leave the bias in float"
    if strict and zero_point is None:
        yield "has no zero point, which TensorRT 8 requires: quantize the float model with quantkit quantize"
    if strict and _dtype(scale) is ir.DataType.FLOAT16:
        yield "has an FP16 scale, which TensorRT 8 misreads: quantize with --high-precision fp32"


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    if value is None:
        return None
    tensor = constant_of(value)
    return tensor.dtype if tensor is not None else value.dtype
