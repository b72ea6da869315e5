"""Where Q/DQ go, and the INT8 model that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantkit.errors import CalibrationError

__all__ = ["OLDEST_QDQ_OPSET", "QdqEdge", "QdqPlan", "QuantizedModel"]

OLDEST_QDQ_OPSET = 13
"""QuantizeLinear and DequantizeLinear know an axis from ONNX opset 13 on."""


@dataclass(frozen=True, order=True)
class QdqEdge:
    """Input `index` of node `node` reads `tensor` through Q/DQ (a weight: through DQ). `axis` is set per channel."""

    tensor: str
    node: str
    index: int
    axis: int | None = None


@dataclass(frozen=True)
class QdqPlan:
    """Where Q/DQ go: a function of the graph alone, without a single scale.

    Attributes:
        activations: edges quantized per tensor.
        weights: edges whose constant is stored as INT8.
        groups: sets of tensors that must share one scale (inputs and output of a Concat).
        skipped: what stays in float, and why: name of a tensor or node → reason.
        target: "tensorrt" or "cpu".
    """

    activations: tuple[QdqEdge, ...]
    weights: tuple[QdqEdge, ...]
    groups: tuple[frozenset[str], ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    target: str = "tensorrt"

    def __post_init__(self) -> None:
        seen: set[tuple[str, int]] = set()
        for edge in (*self.activations, *self.weights):
            if (edge.node, edge.index) in seen:
                raise CalibrationError(f"input {edge.index} of node {edge.node!r} is planned twice")
            seen.add((edge.node, edge.index))
        for name, reason in self.skipped.items():
            if not reason:
                raise CalibrationError(f"{name!r} is left in float without a reason")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the activations that need a scale, in first-use order, members of their groups included."""
        used = dict.fromkeys(edge.tensor for edge in self.activations)
        for group in self.groups:
            used.update(dict.fromkeys(sorted(group)))
        return tuple(used)


@dataclass(frozen=True)
class QuantizedModel:
    """An INT8 model on disk; wherever a path is taken, it can be given.

    Attributes:
        path: the ONNX file.
        num_quantized: how many of them compute on INT8.
        num_weighted: Conv, ConvTranspose, Gemm and MatMul operators of the model.
        skipped: what stayed in float: name of a tensor or node → reason.
    """

    path: Path
    num_quantized: int
    num_weighted: int
    skipped: Mapping[str, str]

    def __fspath__(self) -> str:
        return str(self.path)
