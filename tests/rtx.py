"""Building with TensorRT-RTX, which needs no GPU, and reading out of the plan which operators run in INT8.

The plan holds the compiled graph as plain text. That text is undocumented: good enough for a test, for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from quantkit.backends.tensorrt.inspection.rtx_plan import read_plan
from quantkit.graph.passes.prepare import WEIGHTED_OPS

CAPABILITIES = ("SM86", "SM89", "SM120")
"""Ampere, Ada and Blackwell. With SM75 among the targets every convolution of all targets falls to float."""

_GEMM_KINDS = ("corrltn", "deconvolution", "fully_connected", "gemm", "matmul")
"""Convolution (correlation), its transpose, and matrix products."""


@dataclass(frozen=True)
class Layer:
    """A kernel of the plan: what it is, element types of its inputs and outputs, ONNX nodes that went into it."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    def multiplies(self, dtype: str) -> bool:
        """Whether it multiplies numbers of this type; attention has three operands, and perhaps a mask."""
        operands = 3 if "mha" in self.name else 2
        return self.inputs[:2] == (dtype, dtype) and self.inputs[: operands + 1].count(dtype) >= operands


def build(
    model: bytes | Path,
    *,
    batch: int = 2,
    capabilities: Sequence[str] = CAPABILITIES,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> bytes:
    """The plan of an ONNX model for all `capabilities`; skips the test where TensorRT-RTX is not installed.

    Sizes that vary are those of the input in `shapes`, else `batch`.

    Raises:
        AssertionError: TensorRT-RTX refuses the model, with its words.
    """
    trt = pytest.importorskip("tensorrt_rtx")
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model) if isinstance(model, bytes) else parser.parse_from_file(str(model))
    assert parsed, "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for i, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), i)
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in inputs:
        if -1 in tensor.shape:
            shape = (shapes or {}).get(tensor.name) or tuple(batch if d == -1 else d for d in tensor.shape)
            profile.set_shape(tensor.name, shape, shape, shape)
    if any(-1 in tensor.shape for tensor in inputs):
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, "; ".join(logger.errors)
    return bytes(plan)


def read_layers(plan: bytes) -> tuple[Layer, ...]:
    """Kernels of a plan in order, of all graphs in it."""
    text = plan.decode("latin1")
    types = dict(re.findall(r'tensor=\{[^\n]*?name="([^"]+)"[^\n]*?type=([a-z0-9_]+) \}', text))
    found = []
    for body in re.findall(r"\nmain \{\n(.*?)\n\}\n?", text, re.DOTALL):
        for kind, _, name, rest in re.findall(
            r'^  ([a-z_]+)=\{ name=("?)(.+?)\2 (.*?)(?=^  [a-z_]+=\{|\Z)', body, re.DOTALL | re.MULTILINE
        ):
            nodes = re.findall(r"ONNX Layer: ([^\]]+)\]", rest)
            operands = (_types(rest, word, types) for word in ("input", "output"))
            found.append(Layer(kind, name, *operands, tuple(nodes)))
    return tuple(found)


def int8_nodes(layers: Sequence[Layer], weighted: Collection[str]) -> set[str]:
    """Those of the nodes `weighted` whose product is computed in INT8: see `nodes_in`."""
    return nodes_in("int8", layers, weighted)


def nodes_in(dtype: str, layers: Sequence[Layer], weighted: Collection[str]) -> set[str]:
    """Those of the nodes `weighted` whose product is computed in a type wherever the plan computes it.

    The kernel of a node is the one named after it; attention is one kernel for both of its products.
    """
    kernels: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.kind in _GEMM_KINDS or "gemm" in layer.name or "mha" in layer.name or layer.kind == "runtime_fusion":
            owners = [n for n in weighted if n in layer.nodes]
        else:
            continue
        for node in owners:
            kernels.setdefault(node, []).append(layer)
    return {node for node, found in kernels.items() if all(layer.multiplies(dtype) for layer in found)}


@dataclass(frozen=True)
class KernelCounts:
    """What is in one plan, and the Q/DQ nodes that led to it.

    Attributes:
        products: nodes that multiply INT8.
        twice: kernels that write INT8 and half precision, as for two kinds of readers of one tensor.
        pools: max and average pools that are kernels of their own.
        kernels: all.
        qdq: QuantizeLinear and DequantizeLinear nodes of the model.
    """

    products: int
    twice: int
    pools: int
    kernels: int
    qdq: int


def count_kernels(model: onnx.ModelProto, capability: str = "SM89") -> KernelCounts:
    """Counts in the plan of a quantized model, which is built."""
    plan = build(model.SerializeToString(), capabilities=[capability])
    read = read_plan(plan)
    assert read is not None
    kernels = [layer for layer in read.layers if not layer.is_idle]
    written = [{tensor.dtype for tensor in layer.outputs} for layer in kernels]
    products = [node.name for node in model.graph.node if node.op_type in WEIGHTED_OPS]
    return KernelCounts(
        products=len(int8_nodes(read_layers(plan), products)),
        twice=sum({"int8", "fp16"} <= types for types in written),
        pools=sum("pool" in f"{layer.kind} {layer.name}".lower() for layer in kernels),
        kernels=len(kernels),
        qdq=sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node),
    )


def kernels_of(layers: Sequence[Layer], node: str) -> list[str]:
    """For messages: every kernel that `node` went into."""
    return [f"{k.kind}:{k.name} {k.inputs}->{k.outputs}" for k in layers if node in k.nodes]


def _types(text: str, word: str, types: dict[str, str]) -> tuple[str, ...]:
    names = re.search(rf"\b{word}(?:_args)?=\{{([^}}]*)\}}", text)
    if names is None:
        return ()
    return tuple(
        types.get(re.sub(r"\^deref$", "", name), types.get(name, "?")) for name in re.findall(r'"([^"]+)"', names[1])
    )


def _make_logger(trt):
    class Errors(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors = []

        def log(self, severity, message):
            # Without a GPU every refusal is followed by a misleading line about the CUDA driver.
            if severity <= trt.ILogger.Severity.ERROR and "Cuda Runtime" not in message:
                self.errors.append(message)

    return Errors()
