"""Quantized models that differ in one unit from the float model, or from the model with everything quantized.

A unit is a tensor with its readers, or an operator. Only what lies behind it runs again: what lies before it is kept
from one run of each of the two models. The Q/DQ is that of the finished model, with its rounded weights, corrected
biases and channel scales: one graph holds both models, and an input of a node is switched between the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.layer_constants import bias_edges
from quantkit.graph.measured_outputs import measured_outputs
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.quantize_tensorrt import insert_refined_qdq, plan_refined
from quantkit.numerics import decibels
from quantkit.refinement.damage import OutputDamage, recognize_class_scores
from quantkit.refinement.observation import observe
from quantkit.types import Array, CalibrationTable, Refinement

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.graph.float_model import FloatModel

_Inputs = Mapping[tuple[str, int], str]


@dataclass(frozen=True)
class QuantizedUnit:
    """Edges that are quantized, or left in float, together.

    Attributes:
        name: of the tensor or the operator.
        kind: which of the two.
        edges: its inputs of nodes: (node, index).
        tensors: activations among what is read there.
        nodes: operators that run in float if the unit does.
    """

    name: str
    kind: Literal["tensor", "operator"]
    edges: frozenset[tuple[str, int]]
    tensors: tuple[str, ...]
    nodes: frozenset[str]


@dataclass(frozen=True)
class UnitDamage:
    """Damage to the output by one unit alone, and damage of everything but this unit.

    Attributes:
        alone: the rest in float.
        without: the rest quantized.
        sqnr_db: of an operator's output, where it alone is quantized; None where there is no error, and of a tensor.
    """

    alone: float
    without: float
    sqnr_db: float | None


class UnitTrials:
    """The float and the quantized model on some samples, and what changes of one unit do to the output.

    Args:
        model: the float model.
        table: its calibration.
        units: that will be tried.
        batches: inputs of the samples.
    """

    def __init__(
        self,
        model: FloatModel,
        table: CalibrationTable,
        units: Iterable[QuantizedUnit],
        batches: Sequence[Mapping[str, Array]],
    ) -> None:
        self._name = model.name
        graph = _graph(model, table, quantized=False)
        exact = GraphPieces(graph)
        self._all = GraphPieces(_graph(model, table, quantized=True), constants=graph.graph.initializers)
        self._float_inputs, self._quantized_inputs = differing_inputs(exact, self._all)
        self._none = self._all.with_inputs(self._float_inputs)
        self._biases = {node: edge.owner for node, edge in bias_edges(graph).items()}
        self._known = frozenset(exact.producers) | frozenset(batches[0])
        outputs = measured_outputs(graph)
        self._outputs = tuple(output.name for output in outputs)
        wanted = {*self._outputs, *(name for unit in units for name in self._kept(unit))}
        self._exact, self._coarse = (list(observe(pieces, wanted, batches)) for pieces in (self._none, self._all))
        self.damage = OutputDamage(recognize_class_scores(outputs, self._exact), self._exact)
        self.total = self.damage.of(self._coarse)
        """Damage with everything quantized."""

    def measure(self, unit: QuantizedUnit) -> UnitDamage:
        """Quantizes this unit alone, and everything but this unit."""
        nodes = {*unit.nodes, *(self._biases[node] for node in unit.nodes if node in self._biases)}
        inputs = {edge for edge in self._float_inputs if edge[0] in nodes}
        own = unit.edges if unit.kind == "tensor" else inputs
        alone = self._none.with_inputs({edge: self._quantized_inputs[edge] for edge in own})
        without = self._all.with_inputs({edge: self._float_inputs[edge] for edge in inputs})
        results = self._behind(unit, alone, self._exact)
        noise = None
        if unit.kind == "operator":
            output = self._output(unit)
            noise = sqnr_db(_squares(x[output], y[output]) for x, y in zip(self._exact, results, strict=True))
        return UnitDamage(self.damage.of(results), self.damage.of(self._behind(unit, without, self._coarse)), noise)

    def _output(self, unit: QuantizedUnit) -> str:
        """Name of an operator's first output."""
        return self._none.makes(self._none.positions[unit.name])[0]

    def _kept(self, unit: QuantizedUnit) -> tuple[str, ...]:
        """Tensors that a run of what lies behind the unit starts from, and the output of an operator."""
        return (*self._none.behind(unit.nodes).inputs, *([self._output(unit)] if unit.kind == "operator" else ()))

    def _behind(
        self, unit: QuantizedUnit, pieces: GraphPieces, kept: Sequence[Mapping[str, Array]]
    ) -> list[dict[str, Array]]:
        """Tensors of a model that differs from the kept run at this unit alone."""
        made = {name for position in pieces.behind(unit.nodes).nodes for name in pieces.makes(position)}
        outputs = [name for name in dict.fromkeys((*self._outputs, *self._kept(unit))) if name in made]
        if not outputs:
            return [dict(values) for values in kept]
        dtypes = {name: np.asarray(array).dtype for name, array in kept[0].items()}
        model = pieces.cut(pieces.between(self._known - made, outputs), outputs, dtypes=dtypes)
        with OnnxRuntimeRunner(model, name=self._name, spinning=False, fuse_qdq=False) as runner:
            read = [spec.name for spec in runner.inputs]
            return [{**values, **runner.run({name: values[name] for name in read})} for values in kept]


def _graph(model: FloatModel, table: CalibrationTable, *, quantized: bool) -> ir.Model:
    """As `quantize` makes it of a table, with Q/DQ or before it is inserted."""
    graph, refinement = model.prepared(), table.refinement or Refinement()
    plan = plan_refined(graph, table.tensors, refinement, in_float=table.in_float)
    return insert_refined_qdq(graph, plan, refinement) if quantized else graph


def differing_inputs(first: GraphPieces, second: GraphPieces) -> tuple[_Inputs, _Inputs]:
    """What each has at the inputs in which nodes of the first differ: (node, index) → name, empty where there is none.

    These are activations and weights, and biases that were corrected.
    """
    ours: dict[tuple[str, int], str] = {}
    theirs: dict[tuple[str, int], str] = {}
    for name, position in first.positions.items():
        pairs = itertools.zip_longest(first.inputs_of(position), second.inputs_of(second.positions[name]), fillvalue="")
        for index, (own, other) in enumerate(pairs):
            if own != other:
                ours[name, index], theirs[name, index] = own, other
    return ours, theirs


def sqnr_db(sums: Iterable[tuple[float, float]]) -> float | None:
    """Signal-to-noise ratio from sums of squared values and of squared errors; None where either is 0."""
    signal, noise = (sum(column) for column in zip(*sums, strict=True))
    return None if noise == 0 or signal == 0 else decibels(signal, noise)


def _squares(exact: Array, coarse: Array) -> tuple[float, float]:
    x, y = (np.asarray(values, np.float64) for values in (exact, coarse))
    return float((x**2).sum()), float(((y - x) ** 2).sum())
