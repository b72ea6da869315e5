"""Inserts QuantizeLinear and DequantizeLinear at the edges of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import Names, make_dequantize, remove_unused_initializers
from quantkit.graph.passes.prepare import constant_of
from quantkit.graph.quant_params import fp16_params
from quantkit.numerics import LARGEST_HALF, QuantParams, least_error_params, quantize_array
from quantkit.types import QdqEdge, QdqPlan, QuantFormat, RoundedWeight

_RoundedForms = dict[tuple[int | None, QuantFormat], tuple[QuantParams, np.ndarray]]

_NEAREST: WeakKeyDictionary[ir.Tensor[Any], _RoundedForms] = WeakKeyDictionary()
"""Weights rounded to nearest, by axis and format, as long as the float weight lives: trials, the quality of the output
and the model that is written quantize the same ones."""


def insert_qdq(
    model: ir.Model,
    plan: QdqPlan,
    activations: Mapping[str, QuantParams],
    *,
    weights: Mapping[str, RoundedWeight] | None = None,
    fp16_scales: bool = False,
) -> ir.Model:
    """Inserts the plan's Q/DQ into a prepared `model`, in place, and returns it.

    An activation gets one QuantizeLinear and one DequantizeLinear, read by all its planned edges; every other reader
    keeps the float tensor. A weight is stored quantized once and dequantized for each reader, because runtimes fuse a
    DequantizeLinear into the operator that reads it. Scales of activations have rank 0: TensorRT-RTX runs a convolution
    in float when the scale has shape [1].

    Args:
        model: prepared, of the graph that `plan` was made from.
        plan: the edges, with the format of each.
        activations: parameters by tensor name, one scale each.
        weights: quantized values of weights by name; the others are rounded to nearest.
        fp16_scales: round every scale to FP16, for a model that is converted to FP16 afterwards.

    Raises:
        ModelError: the plan was made from another graph, or a weight is not finite.
    """
    nodes = {node.name: node for node in model.graph}
    for edge in (*plan.activations, *plan.weights):
        node = nodes.get(edge.node)
        value = node.inputs[edge.index] if node is not None else None
        if value is None or value.name != edge.tensor:
            raise ModelError(f"the plan does not fit the model: node {edge.node!r} does not read {edge.tensor!r}")
    insertion = _Insertion(Names(model), weights or {}, fp16_scales)
    for edge in plan.activations:
        insertion.quantize_activation(nodes[edge.node], edge.index, activations)
    for edge in plan.weights:
        insertion.quantize_weight(nodes[edge.node], edge)
    return remove_unused_initializers(model)


class _Insertion:
    """What has been inserted so far, so that each tensor is quantized once."""

    def __init__(self, names: Names, weights: Mapping[str, RoundedWeight], fp16_scales: bool) -> None:
        self.names = names
        self.weights = weights
        self.fp16_scales = fp16_scales
        self.dequantized: dict[ir.Value, ir.Value] = {}
        self.stored: dict[QdqEdge, list[ir.Value]] = {}

    def quantize_activation(self, node: ir.Node, index: int, activations: Mapping[str, QuantParams]) -> None:
        value = node.inputs[index]
        assert value is not None  # insert_qdq has checked the plan
        if value not in self.dequantized:
            self.dequantized[value] = self._insert_pair(value, activations[str(value.name)])
        node.replace_input_with(index, self.dequantized[value])

    def quantize_weight(self, node: ir.Node, edge: QdqEdge) -> None:
        value = node.inputs[edge.index]
        tensor = constant_of(value)
        if value is None or tensor is None:
            raise ModelError(f"the plan does not fit the model: {edge.tensor!r} is not a constant")
        key = QdqEdge(edge.tensor, "", 0, edge.axis, edge.format)
        if key not in self.stored:
            params, codes = self._quantize(edge, tensor)
            if params is not (rounded := self._round_scales(value, params)):
                params, codes = rounded, codes if self._found(edge) else quantize_array(tensor.numpy(), rounded)
            quantized = self.names.initializer(f"{edge.tensor}_quantized", codes)
            self.stored[key] = [quantized, *self._constants(value, params)]
        dq = make_dequantize(
            self.names,
            self.stored[key],
            edge.tensor,
            shape=ir.Shape(tensor.numpy().shape),
            dtype=value.dtype,
            axis=edge.axis,
            block=edge.format.block,
        )
        self.names.graph.insert_before(node, dq)
        node.replace_input_with(edge.index, dq.outputs[0])

    def _quantize(self, edge: QdqEdge, tensor: ir.TensorProtocol) -> tuple[QuantParams, np.ndarray]:
        """Parameters and quantized values of a weight: as they were found, or rounded to nearest."""
        if found := self._found(edge):
            params = QuantParams(scale=found.scale, axis=edge.axis, format=found.stored_format)
            return params, found.codes.astype(params.dtype)
        forms = _NEAREST.setdefault(tensor, {}) if isinstance(tensor, ir.Tensor) else {}
        key = (edge.axis, edge.format)
        if key not in forms:
            if not np.isfinite(array := tensor.numpy()).all():
                raise ModelError(
                    f"weight {edge.tensor!r} of node {edge.node!r} contains NaN or infinite values: repair the model"
                )
            forms[key] = _round_to_nearest(array, *key)
        return forms[key]

    def _found(self, edge: QdqEdge) -> RoundedWeight | None:
        found = self.weights.get(edge.tensor)
        return found if found is not None and found.fits(edge.axis, edge.format) else None

    def _insert_pair(self, value: ir.Value, params: QuantParams) -> ir.Value:
        names, name = self.names, str(value.name)
        params = self._round_scales(value, params)
        constants = self._constants(value, params)
        stored = ir.TensorType(ir.DataType.from_numpy(params.dtype))
        quantized = ir.Value(name=names.new(f"{name}_quantized"), shape=value.shape, type=stored)
        q = ir.node(
            "QuantizeLinear", [value, *constants], outputs=[quantized], name=names.new(f"{name}_QuantizeLinear")
        )
        dq = make_dequantize(names, [quantized, *constants], name, shape=value.shape, dtype=value.dtype)
        producer = value.producer()
        if producer is not None:
            names.graph.insert_after(producer, [q, dq])
        else:
            names.graph.insert_before(names.graph[0], [q, dq])
        return dq.outputs[0]

    def _round_scales(self, value: ir.Value, params: QuantParams) -> QuantParams:
        # A tensor that is FP16 already has FP16 scales, whatever happens to the rest of the model.
        if not self.fp16_scales and value.dtype is not ir.DataType.FLOAT16:
            return params
        if (largest := params.scale.max(initial=0)) > LARGEST_HALF:
            advice = "quantize with --high-precision fp32, or --exclude the operators that read it"
            raise ModelError(f"the scale {largest:.3g} of {value.name!r} is beyond FP16: {advice}")
        return fp16_params(params)

    def _constants(self, value: ir.Value, params: QuantParams) -> tuple[ir.Value, ...]:
        """Scale and zero point. The zero point is stored although ONNX lets it out: TensorRT 8.6 requires it.

        Blocks came later and have many.
        """
        scale_type = np.float16 if value.dtype is ir.DataType.FLOAT16 else np.float32
        scale = self.names.initializer(f"{value.name}_scale", params.scale.astype(scale_type))
        if params.format.block is not None:
            return (scale,)
        zeros = np.full(params.scale.shape, params.zero_point, params.dtype)
        return scale, self.names.initializer(f"{value.name}_zero_point", zeros)


def _round_to_nearest(array: np.ndarray, axis: int | None, fmt: QuantFormat) -> tuple[QuantParams, np.ndarray]:
    params = least_error_params(array, axis, fmt)
    codes = quantize_array(array, params)
    codes.flags.writeable = False  # it is part of several models
    return params, codes
