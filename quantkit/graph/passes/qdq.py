"""Inserting QuantizeLinear and DequantizeLinear where a plan says, with the scales that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.naming import Names
from quantkit.graph.passes.prepare import constant_of
from quantkit.graph.quant_params import fp16_params
from quantkit.numerics import QuantParams, quantize, weight_params
from quantkit.types import QdqEdge, QdqPlan

__all__ = ["insert_qdq"]

Rounding = Callable[[QuantParams], QuantParams]


def insert_qdq(
    model: ir.Model,
    plan: QdqPlan,
    activations: Mapping[str, QuantParams],
    *,
    fp16_scales: bool = False,
    weight_levels: int = 127,
) -> ir.Model:
    """Inserts the plan's Q/DQ into a prepared `model`, in place, and returns it.

    An activation gets one QuantizeLinear and one DequantizeLinear, read by all its planned edges; every other reader
    keeps the float tensor. A weight is stored as INT8 once and dequantized for each reader, because runtimes fuse a
    DequantizeLinear into the operator that reads it. Scales of activations are rank-0: TensorRT-RTX runs a convolution
    in float when the scale has shape [1].

    Args:
        model: prepared, of the graph that `plan` was made from.
        plan: where.
        activations: parameters by tensor name, per tensor.
        fp16_scales: round every scale to one that FP16 holds, for a model that is converted to FP16 afterwards.
        weight_levels: the largest code of a weight.

    Raises:
        ModelError: the plan belongs to another graph, or a weight is not finite.
    """
    nodes = {node.name: node for node in model.graph}
    for edge in (*plan.activations, *plan.weights):
        node = nodes.get(edge.node)
        value = node.inputs[edge.index] if node is not None else None
        if value is None or value.name != edge.tensor:
            raise ModelError(f"the plan does not fit the model: node {edge.node!r} does not read {edge.tensor!r}")
    names = Names(model)
    every = fp16_params if fp16_scales else _unchanged
    dequantized: dict[str, ir.Value] = {}
    for edge in plan.activations:
        node = nodes[edge.node]
        value = node.inputs[edge.index]
        if value is not None and edge.tensor not in dequantized:
            params = _rounding(value, every)(activations[edge.tensor])
            dequantized[edge.tensor] = _quantize_activation(value, params, names)
        node.replace_input_with(edge.index, dequantized[edge.tensor])
    stored: dict[tuple[str, int | None], tuple[ir.Value, ...]] = {}
    for edge in plan.weights:
        _quantize_weight(nodes[edge.node], edge, stored, names, every, weight_levels)
    _drop_unused_initializers(model)
    return model


def _rounding(value: ir.Value, every: Rounding) -> Rounding:
    # A tensor that is FP16 already has FP16 scales, whatever happens to the rest of the model.
    return fp16_params if value.dtype is ir.DataType.FLOAT16 else every


def _unchanged(params: QuantParams) -> QuantParams:
    return params


def _quantize_activation(value: ir.Value, params: QuantParams, names: Names) -> ir.Value:
    constants = _parameters(str(value.name), params, value.dtype, names)
    codes = ir.DataType.from_numpy(params.dtype)
    quantized = ir.Value(name=names.new(f"{value.name}_quantized"), shape=value.shape, type=ir.TensorType(codes))
    restored = ir.Value(name=names.new(f"{value.name}_dequantized"), shape=value.shape, type=_float(value))
    name = str(value.name)
    q = ir.node("QuantizeLinear", [value, *constants], outputs=[quantized], name=names.new(f"{name}_QuantizeLinear"))
    dq = ir.node(
        "DequantizeLinear", [quantized, *constants], outputs=[restored], name=names.new(f"{name}_DequantizeLinear")
    )
    producer = value.producer()
    if producer is not None:
        names.graph.insert_after(producer, [q, dq])
    else:
        names.graph.insert_before(names.graph[0], [q, dq])
    return restored


def _quantize_weight(
    node: ir.Node,
    edge: QdqEdge,
    stored: dict[tuple[str, int | None], tuple[ir.Value, ...]],
    names: Names,
    every: Rounding,
    levels: int,
) -> None:
    value = node.inputs[edge.index]
    tensor = constant_of(value)
    if value is None or tensor is None:
        raise ModelError(f"the plan does not fit the model: {edge.tensor!r} is no constant")
    if (edge.tensor, edge.axis) not in stored:
        array = tensor.numpy()
        if not np.isfinite(array).all():
            raise ModelError(f"weight {edge.tensor!r} of node {edge.node!r} holds NaN or infinity: repair the model")
        params = _rounding(value, every)(weight_params(array, edge.axis, levels=levels))
        codes = names.initializer(f"{edge.tensor}_quantized", quantize(array, params))
        stored[edge.tensor, edge.axis] = (codes, *_parameters(edge.tensor, params, value.dtype, names))
    shape = ir.Shape(tensor.numpy().shape)
    restored = ir.Value(name=names.new(f"{edge.tensor}_dequantized"), shape=shape, type=_float(value))
    dq = ir.node(
        "DequantizeLinear",
        list(stored[edge.tensor, edge.axis]),
        attributes={} if edge.axis is None else {"axis": edge.axis},
        outputs=[restored],
        name=names.new(f"{edge.tensor}_DequantizeLinear"),
    )
    names.graph.insert_before(node, dq)
    node.replace_input_with(edge.index, restored)


def _float(value: ir.Value) -> ir.TensorType:
    # A type of its own: a later conversion changes types in place.
    return ir.TensorType(value.dtype or ir.DataType.FLOAT)


def _parameters(tensor: str, params: QuantParams, dtype: ir.DataType | None, names: Names) -> tuple[ir.Value, ir.Value]:
    # The zero point is written although it may be omitted: TensorRT 8.6 requires it.
    scale_type = np.float16 if dtype is ir.DataType.FLOAT16 else np.float32
    scale = names.initializer(f"{tensor}_scale", params.scale.astype(scale_type))
    zeros = np.full(params.scale.shape, params.zero_point, params.dtype)
    return scale, names.initializer(f"{tensor}_zero_point", zeros)


def _drop_unused_initializers(model: ir.Model) -> None:
    for name in [n for n, v in model.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del model.graph.initializers[name]
