"""The quantized model with more of it in float: only what lies behind the change runs again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.layer_constants import bias_edges
from quantkit.graph.pieces import GraphPieces, Piece
from quantkit.graph.placement.tensorrt import exclude_tensors
from quantkit.refinement.observation import observe
from quantkit.refinement.samples import REFINEMENT_BUDGET_BYTES
from quantkit.refinement.unit_trials import differing_inputs
from quantkit.types import Array, QdqPlan

if TYPE_CHECKING:
    import onnx_ir as ir

_Edges = frozenset[tuple[str, int]]
"""Inputs of nodes: (node, index)."""

_Results = list[dict[str, Array]]


class FloatTrials:
    """A quantized model on some samples, with changes that leave edges of its plan in float.

    Args:
        exact: the model as `plan_refined` left it.
        quantized: a copy of it with Q/DQ.
        batches: inputs of the samples.
        outputs: names of the tensors that are compared.
    """

    def __init__(
        self,
        exact: ir.Model,
        quantized: ir.Model,
        batches: Sequence[Mapping[str, Array]],
        outputs: Sequence[str],
    ) -> None:
        self._pieces = GraphPieces(quantized, constants=exact.graph.initializers)
        pieces = GraphPieces(exact)
        self._float_inputs, _ = differing_inputs(pieces, self._pieces)
        self._known = frozenset(pieces.producers) | frozenset(batches[0])
        self._owners = {node: edge.owner for node, edge in bias_edges(exact).items()}
        self._batches, self._outputs = batches, tuple(outputs)

    def run(self, changes: Sequence[_Edges]) -> list[_Results]:
        """Outputs of all batches, for each change."""
        common = frozenset.intersection(*changes)
        if len(changes) == 1:
            return [self._select(observe(self._in_float(common), self._outputs, self._batches))]
        variants = [self._behind(change, {node for node, _ in change - common}) for change in changes]
        starts = {name for _, piece, _ in variants for name in piece.inputs}
        kept, size = [], 0
        for values in observe(self._in_float(common), [*self._outputs, *starts], self._batches):
            kept.append(values)
            size += sum(array.nbytes for array in values.values())
            if size > REFINEMENT_BUDGET_BYTES:
                return [self.run([change])[0] for change in changes]
        return [self._run_piece(*variant, kept) for variant in variants]

    def _in_float(self, change: _Edges) -> GraphPieces:
        owners = {self._owners[node] for node, _ in change if node in self._owners}
        inputs = {edge: name for edge, name in self._float_inputs.items() if edge in change or edge[0] in owners}
        return self._pieces.with_inputs(inputs)

    def _behind(self, change: _Edges, nodes: set[str]) -> tuple[GraphPieces, Piece, list[str]]:
        """A changed model, the part of it that computes what lies behind these nodes, and the outputs there."""
        pieces = self._in_float(change)
        made = {name for position in pieces.behind(nodes).nodes for name in pieces.makes(position)}
        outputs = [name for name in self._outputs if name in made]
        return pieces, pieces.between(self._known - made, outputs), outputs

    def _run_piece(
        self, pieces: GraphPieces, piece: Piece, outputs: Sequence[str], kept: Sequence[Mapping[str, Array]]
    ) -> _Results:
        if not outputs:
            return self._select(kept)
        dtypes = {name: np.asarray(array).dtype for name, array in kept[0].items()}
        with OnnxRuntimeRunner(pieces.cut(piece, outputs, dtypes=dtypes), spinning=False, fuse_qdq=False) as runner:
            read = [spec.name for spec in runner.inputs]
            return self._select({**values, **runner.run({name: values[name] for name in read})} for values in kept)

    def _select(self, results: Iterable[Mapping[str, Array]]) -> _Results:
        return [{name: values[name] for name in self._outputs} for values in results]


def edges_in_float(plan: QdqPlan, tensors: Mapping[str, str]) -> _Edges:
    """What leaving tensors in float takes away from a plan."""
    left = exclude_tensors(plan, tensors)
    return frozenset(
        (edge.node, edge.index) for edge in {*plan.activations, *plan.weights} - {*left.activations, *left.weights}
    )
