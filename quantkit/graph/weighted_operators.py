"""Which weighted operators of a quantized model compute on INT8 where it is meant to run, and why the others do not.

The rules for TensorRT are those of `qdq_lint`. ONNX Runtime's integer convolution also needs its output quantized, as
in `placement.onnxruntime_cpu`; UINT8 activations tell that a model is made for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.prepare import has_qdq, has_signed_activations, is_standard, weighted_nodes
from quantkit.graph.placement.activation_bounds import produced_bounds
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.graph.qdq_lint import Operator, quantized_operators
from quantkit.graph.qdq_scales import ReadScale, activation_scales

_OF_ONNXRUNTIME = "_quant"
"""ONNX Runtime's quantizer appends this to the names of the integer operators that it makes."""


@dataclass(frozen=True)
class Producer:
    """What makes an activation: `text` is "Conv conv1", or "input"; `low` and `high` bound it if it is a Relu or Clip.

    Tools that quantize leave these out where the quantized range ends at the same bounds: the activation then
    has its old name, and values beyond.
    """

    text: str
    low: float
    high: float


def weighted_coverage(model: ir.Model, original: ir.Model) -> tuple[Operator, ...]:
    """The weighted operators of a model with Q/DQ, in network order, under the names that the original has for them.

    Args:
        model: prepared; without Q/DQ the result is empty.
        original: the float model that it was made from, prepared.
    """
    if not has_qdq(model):
        return ()
    sources = {str(v.name): node for node in original.graph for v in node.outputs}
    names = {node.name: node for node in original.graph}
    nodes = {node.name: node for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    for_cpu = not has_signed_activations(model)
    ranges = {read.source: read for read in activation_scales(model)[0].values()}
    found = []
    for operator in quantized_operators(model):
        if not operator.is_weighted:
            continue
        node = nodes[operator.name]
        if for_cpu and operator.is_quantized and is_standard(node, "Conv") and not _is_requantized(node, ranges):
            reason = "its output is not quantized: ONNX Runtime convolves in float"
            operator = replace(operator, is_quantized=False, reason=reason)
        source = names.get(operator.name.removesuffix(_OF_ONNXRUNTIME)) or sources.get(str(node.outputs[0].name))
        if source is not None and source.op_type in (node.op_type, _float_type(node.op_type)):
            operator = replace(operator, name=str(source.name), op_type=source.op_type)
        found.append(operator)
    return tuple(found)


def weighted_types(model: ir.Model) -> dict[str, str]:
    """Operator type of each weighted operator of a prepared float model, by its name, in network order."""
    names = weighted_nodes(model)
    return {str(node.name): node.op_type for node in model.graph if node.name in names}


def find_producers(model: ir.Model) -> dict[str, Producer]:
    """What makes each float activation of a prepared float model, by its name, in network order."""
    values = {str(v.name): v for v in model.graph.inputs} | {str(v.name): v for n in model.graph for v in n.outputs}
    found = {}
    for name in float_activations(model):
        node = values[name].producer()
        found[name] = Producer(
            "input" if node is None else f"{node.op_type} {node.name}", *produced_bounds(values[name])
        )
    return found


def _float_type(op_type: str) -> str:
    """The operator of which an integer operator is: Conv of QLinearConv and ConvInteger, Gemm of QGemm."""
    return op_type.removeprefix("QLinear").removesuffix("Integer").removeprefix("Q")


def _is_requantized(node: ir.Node, ranges: Mapping[str, ReadScale]) -> bool:
    """Whether nothing but a QuantizeLinear reads the output, perhaps after a Relu or Clip that saturation replaces."""
    value = node.outputs[0]
    low, high = -math.inf, math.inf
    while not value.is_graph_output():
        readers = [user for user, _ in value.uses()]
        if readers and all(reader.op_type == "QuantizeLinear" for reader in readers):
            read = ranges.get(str(value.name))
            # ONNX Runtime compares in float32, in which the scale was chosen too.
            return read is None or (read.minimum >= low and bool(np.float32(read.maximum) <= np.float32(high)))
        if len(readers) != 1 or not is_standard(readers[0], "Relu", "Clip"):
            return False
        value = readers[0].outputs[0]
        below, above = produced_bounds(value)
        low, high = max(low, below), min(high, above)
    return False
