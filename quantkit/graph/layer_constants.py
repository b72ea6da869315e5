"""Constants of weighted operators: the attributes that say how a weight is used, and where the bias is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.graph.passes.edits import Names, name_of
from quantkit.graph.passes.input_channels import bias_factor, bias_input
from quantkit.graph.passes.prepare import constant_of


@dataclass(frozen=True)
class BiasEdge:
    """Where the bias of a weighted operator is a constant, or would be: input `index` of the node `owner`.

    Attributes:
        owner, index: the operator itself, or the Add behind a MatMul.
        factor: of what is stored there, in the operator's output (`beta` of Gemm).
        value: what is stored there, [C_out] or of a shape that broadcasts to it; None where nothing is.
    """

    owner: str
    index: int
    factor: float
    value: np.ndarray | None


def bias_edges(model: ir.Model) -> dict[str, BiasEdge]:
    """The weighted operators of a prepared model that have a constant bias, or could have one, by name."""
    found = {}
    for node in model.graph:
        owner, index = bias_input(node) or (None, 0)
        if owner is None:
            continue
        tensor = constant_of(owner.inputs[index]) if index < len(owner.inputs) else None
        array = None if tensor is None else np.asarray(tensor.numpy())
        if array is None or _is_of_channels(array):
            found[name_of(node)] = BiasEdge(name_of(owner), index, bias_factor(node), array)
    return found


def add_biases(model: ir.Model, biases: Mapping[str, np.ndarray]) -> None:
    """Adds to the output channels of weighted operators, in place, through their biases.

    Args:
        model: prepared.
        biases: float32 [C_out] by name of the operator.
    """
    edges, names = bias_edges(model), Names(model)
    nodes = {name_of(node): node for node in model.graph}
    for name, delta in biases.items():
        edge = edges[name]
        owner = nodes[edge.owner]
        dtype = constant_array(model, _weight_name(nodes[name])).dtype if edge.value is None else edge.value.dtype
        old = np.zeros((), dtype) if edge.value is None else edge.value
        value = names.initializer(f"{name}_bias", np.asarray(old + delta / edge.factor, dtype))
        if edge.index >= len(owner.inputs):
            owner.resize_inputs(edge.index + 1)
        owner.replace_input_with(edge.index, value)


def constant_array(model: ir.Model, name: str) -> np.ndarray:
    """Value of an initializer."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy())


def node_attributes(model: ir.Model) -> dict[str, tuple[str, dict[str, Any]]]:
    """Operator type and attributes of each node, by its name."""
    return {name_of(node): (node.op_type, {key: a.value for key, a in node.attributes.items()}) for node in model.graph}


def _weight_name(node: ir.Node) -> str:
    return next(name_of(v) for v in node.inputs[:2] if constant_of(v) is not None)


def _is_of_channels(array: np.ndarray) -> bool:
    """Whether it has at most one value for each element of the last dimension."""
    return array.size == (array.shape[-1] if array.ndim else 1)
