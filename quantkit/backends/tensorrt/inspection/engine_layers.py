"""Layers of an engine, their precision, and likely reasons why some stayed in float.

See `inspector` (TensorRT's JSON) and `rtx_plan` (TensorRT-RTX's text) for how they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

ElementType = Literal[
    "int8", "uint8", "fp8", "int4", "fp4", "fp16", "bf16", "fp32", "fp64", "int32", "int64", "bool", "unknown"
]

_FLOAT: tuple[ElementType, ...] = ("fp16", "bf16", "fp32", "fp64")

QUANTIZED: tuple[ElementType, ...] = ("int8", "fp8")

POINTWISE_KINDS = ("kgen", "function", "PointWise", "PointWiseV2", "ElementWise")
"""Layers that compute element by element: in the widest float among their inputs."""

_FLOAT_ONLY = {
    "softmax": "softmax",
    "normalization": "normalization",
    "layernorm": "normalization",
    "topk": "TopK",
    "nonmaxsuppression": "non-maximum suppression",
    "nms": "non-maximum suppression",
    "resize": "resizing",
    "gather": "gathering",
    "scatter": "scattering",
    "reduce": "reduction",
    "loop": "control flow",
    "einsum": "Einsum",
}
"""Word in a layer's kind → operation for which TensorRT has no 8-bit kernel."""


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of a layer.

    Attributes:
        name: in the engine.
        dtype: of its elements.
        format: TensorRT's description of the memory layout; empty if unknown.
        shape: -1 for a dimension known at run time only.
    """

    name: str
    dtype: ElementType = "unknown"
    format: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineLayer:
    """One layer, that is one kernel or one no-op.

    Attributes:
        name: as the profiler reports it.
        kind: TensorRT's layer type ("CaskConvolution", "Reformat", "kgen", "corrltn").
        onnx_nodes: names of the ONNX nodes that were fused into it, as far as TensorRT reports them.
        inputs, outputs: in TensorRT's order; of a TensorRT-RTX plan, constants last where nothing is multiplied.
        precision: of the multiplication; of the data where nothing is multiplied.
        weight_dtype: of the stored weight, None where the layer has none or TensorRT does not tell.
        tactic: name of the kernel; empty where it is not known.
        is_weighted: convolution, matrix product or fused attention.
        is_reformat: only moves or converts data: a Q/DQ that fused with nothing, or a change of layout.
        is_idle: costs nothing by itself: no-op, synchronization.
        time_ms: mean time of one run, None where it was not measured.
    """

    name: str
    kind: str
    onnx_nodes: tuple[str, ...] = ()
    inputs: tuple[EngineTensor, ...] = ()
    outputs: tuple[EngineTensor, ...] = ()
    precision: ElementType = "unknown"
    weight_dtype: ElementType | None = None
    tactic: str = ""
    is_weighted: bool = False
    is_reformat: bool = False
    is_idle: bool = False
    time_ms: float | None = None

    @property
    def is_quantized(self) -> bool:
        """Whether it computes in INT8 or FP8; a reformat never does."""
        return self.precision in QUANTIZED and not self.is_reformat and not self.is_idle

    @property
    def int4_weights(self) -> tuple[str, ...]:
        """Names of the INT4 weights that it reads, or its own where it stores one."""
        names = tuple(tensor.name for tensor in self.inputs if tensor.dtype == "int4")
        return (*names, self.name) if self.weight_dtype == "int4" else names

    @property
    def conversion(self) -> str:
        """Types of its first input and output: "fp32 → int8"."""
        ends = (next((t.dtype for t in side), "unknown") for side in (self.inputs, self.outputs))
        return " → ".join(ends)


@dataclass(frozen=True)
class QuantizedShare:
    """Quantized share of a number of layers or of their time."""

    quantized: float
    total: float

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None if the total is 0."""
        return self.quantized / self.total if self.total > 0 else None


@dataclass(frozen=True)
class FloatLayer:
    """A layer that computes in float, and the likely reason: TensorRT does not say why."""

    layer: EngineLayer
    reason: str


@dataclass(frozen=True)
class EngineLayers:
    """An engine as it was built.

    Attributes:
        layers: in the order of execution.
        source: where this was read from, for display.
        memory_bytes: "weights", "activations", "file": as far as known.
        notes: caveats, one sentence each.
        has_details: False where only names of layers are known.
        targets: GPUs that it was built for, where the engine says so.
    """

    layers: tuple[EngineLayer, ...]
    source: str
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    has_details: bool = True
    targets: tuple[str, ...] = ()

    @property
    def weighted(self) -> tuple[EngineLayer, ...]:
        """Convolutions, matrix products and fused attention."""
        return tuple(layer for layer in self.layers if layer.is_weighted)

    @property
    def reformats(self) -> tuple[EngineLayer, ...]:
        """Layers that only move or convert data."""
        return tuple(layer for layer in self.layers if layer.is_reformat)

    @property
    def weighted_coverage(self) -> QuantizedShare:
        """Number of quantized layers among the weighted ones."""
        return _count(self.weighted)

    @property
    def layer_coverage(self) -> QuantizedShare:
        """Number of quantized layers among all that do something; reformats count as not quantized."""
        return _count([layer for layer in self.layers if not layer.is_idle])

    @property
    def time_coverage(self) -> QuantizedShare | None:
        """Milliseconds in quantized layers of those in all layers; None without a profile."""
        if self.total_ms is None:
            return None
        return QuantizedShare(_sum_ms(layer for layer in self.layers if layer.is_quantized), self.total_ms)

    @property
    def total_ms(self) -> float | None:
        """Sum of the layers' times; None without a profile."""
        return None if all(layer.time_ms is None for layer in self.layers) else _sum_ms(self.layers)

    @property
    def reformat_ms(self) -> float | None:
        """Time spent on reformats; None without a profile."""
        return None if self.total_ms is None else _sum_ms(self.reformats)

    @property
    def left_in_float(self) -> tuple[FloatLayer, ...]:
        """Layers that compute in float, with the likely reason; empty where types are not known."""
        if not self.has_details:
            return ()
        producers = {tensor.name: layer for layer in self.layers for tensor in layer.outputs}
        has_quantized = any(layer.is_quantized or layer.int4_weights for layer in self.layers)
        return tuple(
            FloatLayer(layer, _reason(layer, producers, has_quantized))
            for layer in self.layers
            if not layer.is_idle
            and not layer.is_reformat
            and (layer.precision in _FLOAT or (layer.precision == "unknown" and layer.kind == "Myelin"))
        )


def find_nodes(name: str, metadata: str = "") -> tuple[str, ...]:
    """Names of the ONNX nodes in a layer.

    Metadata names them; without it (before TensorRT 8.6, or another verbosity) they are cut out of the layer's name,
    where names of weights stand too: those are left out as far as they can be told.

    Args:
        name: such as "conv1.weight + QuantizeLinear_7 + Conv_9 + Relu_10", "PWN(Sigmoid_1, Mul_2)",
            "{ForeignNode[a...b]}" or "Reformatting CopyNode for Input Tensor 0 to Conv_0".
        metadata: such as "[ONNX Layer: conv][ONNX Layer: relu]", with any separator.

    Example:
        >>> find_nodes("conv1.weight + QuantizeLinear_7 + Conv_9 + Relu_10")
        ('QuantizeLinear_7', 'Conv_9', 'Relu_10')
    """
    if stated := re.findall(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |\s*$)", metadata):
        return tuple(dict.fromkeys(stated))
    name = re.sub(r"^Reformatting CopyNode for (?:In|Out)put Tensor \d+ to ", "", name)
    name = re.sub(r"^(?:copied_)?(?:squeeze|unsqueeze|reshape)_(?:after|before)_", "", name)
    if region := re.fullmatch(r"\{ForeignNode\[(.*)\]\}", name):
        return tuple(dict.fromkeys(region[1].split("...")))
    while pointwise := re.search(r"PWN\(([^()]*)\)", name):
        name = name[: pointwise.start()] + pointwise[1].replace(", ", " + ") + name[pointwise.end() :]
    parts = [part.strip() for part in re.split(r" \+ | \|\| ", name)]
    nodes = []
    for i, part in enumerate(parts):
        following = parts[i + 1] if i + 1 < len(parts) else ""
        is_constant = "quant" in following.lower() and "quant" not in part.lower()
        is_constant = is_constant or re.search(r"(?:\.weight|\.bias|:\d+)$", part) is not None
        if part and not is_constant and not part.startswith(("(Unnamed", "unsqueeze_node_after_", "__my")):
            nodes.append(part)
    return tuple(dict.fromkeys(nodes))


def _count(layers: Sequence[EngineLayer]) -> QuantizedShare:
    return QuantizedShare(sum(layer.is_quantized for layer in layers), len(layers))


def _sum_ms(layers: Iterable[EngineLayer]) -> float:
    return sum(layer.time_ms or 0.0 for layer in layers)


def _reason(layer: EngineLayer, producers: Mapping[str, EngineLayer], has_quantized: bool) -> str:
    """Why a layer is likely to have stayed in float, from its kind, its types and its neighbors."""
    words = f"{layer.kind} {layer.name}".lower()
    before = [producers[t.name] for t in layer.inputs if t.name in producers and producers[t.name] is not layer]
    if layer.kind == "Myelin":
        return "unknown: compiled as one region, whose types TensorRT does not show"
    if not has_quantized:
        return "no layer of this engine is quantized: likely built without Q/DQ and without calibration"
    if layer.int4_weights or (layer.is_weighted and any(b.int4_weights for b in before)):
        return "intended: its weight is INT4, which is converted to float to be multiplied"
    if "plugin" in words:
        return "likely: the plugin does not support 8 bits"
    if layer.is_weighted:
        return _reason_of_product(layer, words)
    operators = [layer.kind.lower(), *(n.lower() for n in layer.onnx_nodes if "quantizelinear" not in n.lower())]
    for word, what in _FLOAT_ONLY.items():
        if any(word in operator for operator in operators):
            return f"likely: TensorRT has no 8-bit kernel for {what}"
    if layer.kind in POINTWISE_KINDS and any(b.is_weighted and b.is_quantized for b in before):
        return "likely intended: a quantized product's epilogue (bias, activation, next scale) is computed in float"
    if all(tensor.dtype in QUANTIZED for tensor in layer.inputs) and layer.inputs:
        return "likely: its output has no Q/DQ"
    for b in before:
        if b.precision in _FLOAT and not b.is_reformat:
            return "likely: the previous layer is float, and there is no Q/DQ between them"
    return "likely: not all of its inputs and its output have Q/DQ"


def _reason_of_product(layer: EngineLayer, words: str) -> str:
    if "deconv" in words or "convtranspose" in words:
        return "likely: no 8-bit kernel for this transposed convolution"
    if "mha" in words:
        return "likely: not all of query, key, softmax and value are quantized"
    kinds = [tensor.dtype for tensor in layer.inputs]
    if kinds and kinds[0] in QUANTIZED:
        return "likely: its weight has no Q/DQ, or scales that TensorRT does not support here (axis, several per head)"
    if layer.weight_dtype in QUANTIZED or (len(kinds) > 1 and kinds[1] in QUANTIZED):
        return "likely: only its weight (or one operand) is quantized"
    return "likely: no Q/DQ on its inputs (excluded or not quantizable); calibrated engines: float was faster"
