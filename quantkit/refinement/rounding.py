"""Rounds the weights of a model, layer after layer, on the inputs that the quantized model really gives each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController

from quantkit.graph.layer_constants import BiasEdge, bias_edges, constant_array, node_attributes
from quantkit.graph.passes.edits import name_of
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.quant_params import activation_params
from quantkit.numerics import QuantParams, dequantize_array
from quantkit.refinement.moment_sums import HostSums, MakeSums, sums_where_they_pay
from quantkit.refinement.moments import Moments
from quantkit.refinement.recipes import round_layer
from quantkit.refinement.samples import SampleBatches
from quantkit.refinement.unfold import LayerShape, layer_shape, spread_positions
from quantkit.refinement.walk import NewConstants, Stop, Walk
from quantkit.types import QdqEdge, QdqPlan, Refinement, RoundedWeight, TensorRange

if TYPE_CHECKING:
    import onnx_ir as ir

_COLUMNS_PER_INPUT = 32
_FEWEST_COLUMNS = 4096
_NARROW = 2048
"""Inputs of an output channel up to which one thread computes: for 1,728 two take five times its CPU time on two busy
cores, and six times as long; 16 take seven times its CPU time on 16 idle ones, and four fifths as long."""

_ROWS = 4096
"""Output channels whose errors are computed at once."""

_HELD_OUT = 4
"""One batch of so many judges what the others suggest; where there are fewer, a part of each."""


@dataclass(frozen=True)
class RoundedLayer:
    """How one weight was rounded.

    Attributes:
        node: the operator.
        choice: the recipe, in words.
        error, nearest_error: of its output on held-out samples, as rounded and rounded to nearest: mean square, in
            which positions count less that the quantized inputs change much.
    """

    node: str
    choice: str
    error: float
    nearest_error: float


class _Rounder:
    """Visits the weighted operators in network order."""

    def __init__(self, graph: ir.Model, plan: QdqPlan, samples: SampleBatches) -> None:
        self._graph, self._num_samples, self._num_batches = graph, samples.num_samples, len(samples.batches)
        self.attributes = node_attributes(graph)
        self.biases = bias_edges(graph)
        self.readers = Counter(edge.tensor for edge in plan.weights)
        self._unread = Counter(self.readers)
        self._waiting: dict[str, Moments] = {}
        self.make_sums: MakeSums = HostSums.of_nothing
        self.layers: list[RoundedLayer] = []
        self.weights: dict[str, RoundedWeight] = {}
        self.corrections: dict[str, np.ndarray] = {}

    def visit(self, stop: Stop) -> NewConstants:
        edge = stop.edge
        op_type, attributes = self.attributes[edge.node]
        weight = constant_array(self._graph, edge.tensor)
        layer = layer_shape(op_type, weight.shape, attributes, operand=edge.index)
        alpha = float(attributes.get("alpha", 1.0)) if op_type == "Gemm" else 1.0
        bias = self.biases.get(edge.node) if self._has_own_channels(edge, layer) else None
        with _blas().limit(limits=1) if layer.matrix_shape[2] <= _NARROW else nullcontext():
            rounded = round_layer(
                layer.matrix(weight),
                self._collect(stop, layer, layer.matrix(weight)),
                has_bias=bias is not None,
                scale_shape=layer.scale_shape(edge.axis if edge.format.block is None else 1),
                fmt=edge.format,
            )
        self.layers.append(RoundedLayer(edge.node, rounded.choice, rounded.error, rounded.nearest_error))
        params = _params(layer, edge, rounded.scale)
        codes = layer.weight_from(rounded.codes)
        is_plain = edge.format.kind == "int" and edge.format.block is None
        self.weights[edge.tensor] = RoundedWeight(codes, params.scale, edge.axis, None if is_plain else edge.format)
        new = dequantize_array(codes, params)
        if bias is None or not rounded.bias.any():
            return NewConstants(new)
        correction = np.zeros(int(layer.output_channels.max()) + 1, np.float32)
        correction[layer.output_channels.reshape(-1)] = alpha * rounded.bias.reshape(-1)
        self.corrections[edge.node] = correction
        return NewConstants(new, old_bias(bias, correction.size) + correction / bias.factor)

    def _has_own_channels(self, edge: QdqEdge, layer: LayerShape) -> bool:
        """Whether each row of the weight makes a channel of the output that no other row or operator makes."""
        channels = layer.output_channels
        return edge.index == 1 and self.readers[edge.tensor] == 1 and np.unique(channels).size == channels.size

    def _collect(self, stop: Stop, layer: LayerShape, matrix: np.ndarray) -> Moments:
        """Second moments of the operator's inputs; of a shared weight, of those of its earlier readers too.

        A position counts less where the quantized inputs alone make a larger error of the output than elsewhere, such
        as the few tokens of a transformer whose large values a range clips, since the output hardly depends on them.
        Its error is not for the weights and the bias of all positions to take back.
        """
        groups, _, width = layer.matrix_shape
        tensor = stop.edge.tensor
        moments = self._waiting.pop(tensor) if tensor in self._waiting else Moments(groups, width, self.make_sums)
        first, limit = 0, 1
        for number, (exact, quantized) in enumerate(stop.inputs()):
            available = layer.num_positions(exact.shape)
            samples = layer.num_samples(exact.shape) if available else 0
            wanted = max(_COLUMNS_PER_INPUT * width, _FEWEST_COLUMNS)
            limit = max(-(-wanted // max(self._num_samples, 1)), 1)
            positions = spread_positions(available, samples, limit, first)
            columns = [layer.columns(np.asarray(x, np.float32), positions) for x in (exact, quantized)]
            is_held_out = np.repeat(self._is_held_out(number, samples), positions.shape[1])
            weights = _robust_weights(_squared_errors(matrix, columns[0] - columns[1]))
            for held_out in (False, True):
                chosen = (is_held_out == held_out) & (weights > 0)
                moments.add(*(x[:, :, chosen] for x in columns), weights=weights[chosen], held_out=held_out)
            first += samples
        self._unread[tensor] -= 1
        if self._unread[tensor]:  # another operator reads this weight; else they are as large as the layer is wide
            self._waiting[tensor] = moments
        return moments

    def _is_held_out(self, number: int, samples: int) -> np.ndarray:
        """Which samples of a batch judge what the others suggest."""
        if self._num_batches >= _HELD_OUT:
            return np.full(samples, number % _HELD_OUT == _HELD_OUT - 1)
        return np.arange(samples) >= samples - samples // _HELD_OUT


@cache
def _blas() -> ThreadpoolController:
    """NumPy's, which cuts products of small matrices among threads that then mostly wait for one another."""
    return ThreadpoolController().select(user_api="blas")


def _squared_errors(matrix: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Squared errors [P] of the output of a weight [G, R, K] whose inputs differ by [G, K, P]."""
    total = np.zeros(difference.shape[2], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, matrix.shape[1], _ROWS):
            total += np.square(matrix[:, start : start + _ROWS] @ difference).sum(axis=(0, 1))
    return total


def _robust_weights(squares: np.ndarray) -> np.ndarray:
    """How much each column counts, by its squared error [P]: the less the larger it is beside the typical one that is
    not 0, as by a Cauchy loss; 0 if it is not finite; on average 1.
    """
    some = squares[(squares > 0) & np.isfinite(squares)]
    weights = np.isfinite(squares).astype(np.float32)
    if some.size:
        weights = np.nan_to_num(1 / (1 + squares / np.median(some)))
    return np.asarray(weights / max(weights.mean(), np.finfo(np.float32).tiny) if weights.size else weights, np.float32)


def round_weights(
    graph: ir.Model,
    plan: QdqPlan,
    ranges: Mapping[str, TensorRange] | None,
    samples: SampleBatches,
    *,
    progress: bool = False,
) -> tuple[Refinement, tuple[RoundedLayer, ...]]:
    """Rounded weights and corrected biases of everything that a plan quantizes.

    Args:
        graph: the float model, prepared; it stays as it is.
        plan: of that graph.
        ranges: of its quantized activations; None where they stay in float.
        samples: of which every fourth batch is held out.
        progress: show a progress bar.
    """
    rounder = _Rounder(graph, plan, samples)
    biases = rounder.biases
    constants: dict[tuple[str, int], np.ndarray] = {}
    for edge in plan.weights:
        weight = constants[edge.node, edge.index] = constant_array(graph, edge.tensor)
        if (bias := biases.get(edge.node)) is not None:
            constants[bias.owner, bias.index] = old_bias(bias, _num_channels(rounder, edge, weight)).astype(
                weight.dtype
            )
    params = {} if ranges is None else activation_params(plan, ranges)
    walk = Walk(GraphPieces(graph), plan, params, biases, constants)
    with sums_where_they_pay() as rounder.make_sums:
        walk.run(samples.batches, (), rounder.visit, progress=progress)
    return Refinement(weights=rounder.weights, biases=rounder.corrections), tuple(rounder.layers)


def round_weights_alone(
    graph: ir.Model, plan: QdqPlan, samples: SampleBatches
) -> tuple[Refinement, tuple[RoundedLayer, ...]]:
    """The same of a plan without activations, whose operators read floats; see `plan_weight_only`."""
    nodes = {name_of(node): node for node in graph.graph}
    read = tuple(QdqEdge(name_of(nodes[edge.node].inputs[0]), edge.node, 0) for edge in plan.weights)
    return round_weights(graph, replace(plan, activations=read), None, samples)


def old_bias(edge: BiasEdge, channels: int) -> np.ndarray:
    """What is stored, or zeros."""
    return np.zeros(channels, np.float32) if edge.value is None else np.asarray(edge.value, np.float32)


def _num_channels(rounder: _Rounder, edge: QdqEdge, weight: np.ndarray) -> int:
    op_type, attributes = rounder.attributes[edge.node]
    return int(layer_shape(op_type, weight.shape, attributes, operand=edge.index).output_channels.max()) + 1


def _params(layer: LayerShape, edge: QdqEdge, scale: np.ndarray) -> QuantParams:
    """Scales of a weight from those of its matrix [G, R]."""
    if edge.format.block is not None:  # of one matrix, [1, R, K]
        of_blocks = np.ascontiguousarray(scale[0, :, :: edge.format.block], np.float32)
        return QuantParams(scale=of_blocks if edge.axis == 1 else of_blocks.T, axis=edge.axis, format=edge.format)
    shape = layer.scale_shape(edge.axis)
    groups = scale[: shape[0], : shape[1]]
    return QuantParams(
        scale=np.asarray(groups.reshape(() if edge.axis is None else -1), np.float32),
        axis=edge.axis,
        format=edge.format,
    )
