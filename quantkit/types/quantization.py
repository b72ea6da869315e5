"""Quantized number formats, where Q/DQ pairs are placed, and the quantized model that results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from quantkit.errors import CalibrationError

OLDEST_QDQ_OPSET = 13
"""First ONNX opset whose QuantizeLinear and DequantizeLinear have the attribute `axis` (per-channel scales)."""


@dataclass(frozen=True, order=True)
class QuantFormat:
    """A quantized number format: which values exist, and how many elements share a scale.

    `quantkit.numerics` does the arithmetic of a format and `quantkit.graph.passes.qdq` stores it in a model; a plan
    says which edge has which.

    Attributes:
        kind: "int" (signed) or "uint" (unsigned) integers, or "float": E4M3 of 8 bits (FP8), without infinity.
        bits: significant bits; integers of 5 to 7 bits are stored in 8, those of at most 4 bits in 4.
        granularity: "tensor" (one scale), "channel" (one scale for each slice of an axis) or "block".
        block: number of elements along the axis that share a scale; None unless the granularity is "block".
        narrow_range: leaves out the lowest value, so that the range is symmetric: -127 to 127 of 8 bits.

    Raises:
        CalibrationError: `block` contradicts the granularity, or the number of bits is not positive.

    Example:
        >>> QuantFormat("int", 8, "channel").granularity
        'channel'
    """

    kind: Literal["int", "uint", "float"]
    bits: int
    granularity: Literal["tensor", "channel", "block"] = "tensor"
    block: int | None = None
    narrow_range: bool = False

    def __post_init__(self) -> None:
        is_blocked = self.block is not None and self.block >= 1
        is_e4m3 = self.bits == 8 and not self.narrow_range
        if (
            self.bits < 1
            or (self.kind == "float" and not is_e4m3)
            or is_blocked != (self.granularity == "block")
            or is_blocked != (self.block is not None)
        ):
            raise CalibrationError(f"inconsistent quantized format: {self}")

    @property
    def name(self) -> str:
        """As users write it.

        >>> INT8.name, FP8.name, block_format(128).name
        ('int8', 'fp8', 'int4')
        """
        return f"{'fp' if self.kind == 'float' else self.kind}{self.bits}"


INT8 = QuantFormat("int", 8)
"""Symmetric activations with one scale, as TensorRT takes them."""

FP8 = QuantFormat("float", 8)
"""E4M3: 4 bits of exponent, 3 of mantissa, up to 448; for activations, with one scale, as TensorRT takes them."""

UINT8 = QuantFormat("uint", 8)
"""Asymmetric activations with one scale, as the x86 kernels of ONNX Runtime take them."""


def weight_format(axis: int | None, *, bits: int = 8, kind: Literal["int", "float"] = "int") -> QuantFormat:
    """Format of a constant weight: symmetric, per-channel along `axis`, or with one scale (None).

    Example:
        >>> weight_format(0, bits=7)
        QuantFormat(kind='int', bits=7, granularity='channel', block=None, narrow_range=True)
    """
    return QuantFormat(kind, bits, "tensor" if axis is None else "channel", narrow_range=kind == "int")


BLOCK_SIZES = 64, 128
"""Inputs that share a scale in INT4, as TensorRT takes them."""

DEFAULT_BLOCK = 128


def block_format(block: int) -> QuantFormat:
    """Format of a constant weight that alone is quantized: INT4, from -8 to 7, with a scale for each `block` values.

    Example:
        >>> block_format(128).granularity
        'block'
    """
    return QuantFormat("int", 4, "block", block)


@dataclass(frozen=True)
class QuantScheme:
    """What a user calls a format: what is quantized to which numbers, and what takes such a model.

    Attributes:
        activations: format of both inputs of a product; None leaves activations in float.
        blocks: whether constant weights of MatMul and Gemm alone are INT4, in blocks, and their inputs stay in float.
        oldest_opset: whose Q/DQ have the formats.
        oldest_tensorrt: version that takes them.
        oldest_gpu: compute capability, times ten, of the oldest GPU that computes with them; 0: any.
        source: where TensorRT's documentation says so.
    """

    activations: QuantFormat | None
    blocks: bool = False
    oldest_opset: int = OLDEST_QDQ_OPSET
    oldest_tensorrt: tuple[int, int] = (8, 6)
    oldest_gpu: int = 0
    source: str = (
        "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-quantized-types.html"
    )

    @property
    def is_plain(self) -> bool:
        """Whether it is INT8 alone: what calibration chooses ranges, weights and exclusions for."""
        return self.activations == INT8 and not self.blocks


_RELEASES = "https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-10"

Format = Literal["int8", "fp8", "int4", "int4+int8"]
Precision = Literal["fp32", "fp16", "int8", "fp8", "int4", "int4+int8"]

SCHEMES: dict[str, QuantScheme] = {
    "int8": QuantScheme(INT8),
    "fp8": QuantScheme(FP8, oldest_opset=21, oldest_tensorrt=(10, 3), oldest_gpu=89, source=f"{_RELEASES}/10.3.0.html"),
    "int4": QuantScheme(None, blocks=True, oldest_opset=21, oldest_tensorrt=(10, 0), source=f"{_RELEASES}/10.0.1.html"),
    "int4+int8": QuantScheme(
        INT8, blocks=True, oldest_opset=21, oldest_tensorrt=(10, 0), source=f"{_RELEASES}/10.0.1.html"
    ),
}
"""By the name that users write."""


def title_of(names: Iterable[str]) -> str:
    """Formats as reports and messages name them, each once.

    >>> title_of(["int8", "int4+int8", "int8"])
    'INT8 and INT4+INT8'
    """
    *others, last = dict.fromkeys(name.upper() for name in names)
    return f"{', '.join(others)} and {last}" if others else last


@dataclass(frozen=True, order=True)
class QdqEdge:
    """One node input that is read through Q/DQ (a constant weight: through DQ alone).

    Attributes:
        tensor: name of what is read.
        node: name of the node that reads it.
        index: which of the node's inputs.
        axis: dimension that the scales belong to; None for one scale.
        format: of the quantized values.
        shared: read quantized only because others read the tensor so, and one is enough.
    """

    tensor: str
    node: str
    index: int
    axis: int | None = None
    format: QuantFormat = INT8
    shared: bool = False

    def __post_init__(self) -> None:
        if (self.axis is None) != (self.format.granularity == "tensor"):
            raise CalibrationError(f"input {self.index} of node {self.node!r}: axis {self.axis} with {self.format}")


@dataclass(frozen=True)
class QdqPlan:
    """Placement of Q/DQ: derived from the graph alone, without any scale.

    Attributes:
        activations: edges of activations, with one scale each.
        weights: edges whose constant is stored quantized.
        groups: sets of tensors that must share one scale (inputs and outputs of operators that copy).
        skipped: what stays in float: name of a tensor or node → reason.
        operators: nodes among them, since a node and a tensor may share a name.
        excluded: nodes among them that were to stay in float.
        target: "tensorrt" or "cpu".
    """

    activations: tuple[QdqEdge, ...]
    weights: tuple[QdqEdge, ...]
    groups: tuple[frozenset[str], ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    operators: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
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
        """Names of the activations that need a scale, in order of first use, including members of their groups."""
        used = dict.fromkeys(edge.tensor for edge in self.activations)
        for group in self.groups:
            used.update(dict.fromkeys(sorted(group)))
        return tuple(used)


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model on disk. It is path-like: functions that take a path accept it.

    Attributes:
        path: the ONNX file.
        num_quantized: number of weighted operators whose inputs are quantized.
        num_weighted: number of operators that convolve or multiply matrices: Conv, ConvTranspose, Gemm and MatMul, and
            those that always stay in float (LSTM, GRU, RNN, Einsum, attention, what sub-graphs hold).
        skipped: what stayed in float: name of a tensor or node → reason.
        size_bytes: of its files.
        weight_share: part of the float weights (0-1) that are quantized now; embeddings and biases count.
        work_share: part of the multiply-adds (0-1) that quantized operators do; None where shapes are not known.
        format: a name in `SCHEMES`.
    """

    path: Path
    num_quantized: int
    num_weighted: int
    skipped: Mapping[str, str]
    size_bytes: int
    weight_share: float | None = None
    work_share: float | None = None
    format: str = "int8"

    def __fspath__(self) -> str:
        return str(self.path)
