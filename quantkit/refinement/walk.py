"""Two streams of samples through a graph, float and quantized side by side, that stop at every quantized operator.

At each stop the inputs of the operator are at hand as the float model has them and as the quantized model really gives
them, behind everything that was rounded before. What is read no more is dropped: one pass over the graph, however many
operators it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu_where_it_pays
from quantkit.graph.layer_constants import BiasEdge
from quantkit.graph.pieces import GraphPieces, Piece
from quantkit.numerics import QuantParams, fake_quantize
from quantkit.progress import show_progress
from quantkit.types import Array, QdqEdge, QdqPlan

Constants = Mapping[tuple[str, int], npt.NDArray[np.floating]]
"""Values of constant inputs: (node, index) → array."""


@dataclass(frozen=True)
class Stop:
    """A weighted operator whose weight is quantized, and its inputs.

    Attributes:
        edge: of the weight.
        inputs: of each batch: (float, quantized) arrays of its other operand.
    """

    edge: QdqEdge
    inputs: Callable[[], Iterator[tuple[Array, Array]]]


@dataclass(frozen=True)
class NewConstants:
    """What the quantized stream computes with from a stop on: the weight behind Q/DQ, and the bias if it has one."""

    weight: npt.NDArray[np.floating]
    bias: npt.NDArray[np.floating] | None = None


@dataclass
class _Streams:
    """Tensors that are still read, of one batch. They are the same arrays until something is quantized."""

    exact: dict[str, Array] = field(default_factory=dict)
    quantized: dict[str, Array] = field(default_factory=dict)


class Walk:
    """One pass through a graph.

    Args:
        pieces: of the prepared float model.
        plan: what is quantized.
        params: scale and format of the quantized activations; those of the plan without one stay in float.
        biases: by weighted node, of those that can take a bias.
        constants: value of every constant input that a stop may change: weights and biases; 0 where there is no bias.
    """

    def __init__(
        self,
        pieces: GraphPieces,
        plan: QdqPlan,
        params: Mapping[str, QuantParams],
        biases: Mapping[str, BiasEdge],
        constants: Constants,
    ) -> None:
        self._pieces, self._params, self._biases, self._constants = pieces, params, biases, constants
        self._activations: dict[str, list[QdqEdge]] = {}
        for edge in plan.activations:
            self._activations.setdefault(edge.node, []).append(edge)
        self._weights = {edge.node: edge for edge in plan.weights if edge.node in self._activations}
        starts = sorted({0, *(pieces.positions[node] for node in self._activations)})
        ends = [*starts[1:], len(pieces.positions)]
        self._segments = list(zip(starts, ends, strict=True))
        self._pending: dict[tuple[str, int], npt.NDArray[np.floating]] = {}

    def run(
        self,
        batches: Sequence[Mapping[str, Array]],
        outputs: Sequence[str],
        visit: Callable[[Stop], NewConstants],
        *,
        progress: bool = False,
    ) -> list[tuple[dict[str, Array], dict[str, Array]]]:
        """Takes the batches through the graph, and calls `visit` at every operator with a quantized weight.

        Returns:
            The outputs of each batch, of the float and of the quantized model.
        """
        streams = [_Streams(dict(batch), dict(batch)) for batch in batches]
        for start, end in show_progress(self._segments, "rounding weights", len(self._segments), progress):
            self._step(start, end, streams, outputs, visit)
        return [
            ({n: s.exact[n] for n in outputs if n in s.exact}, {n: s.quantized[n] for n in outputs if n in s.quantized})
            for s in streams
        ]

    def _step(
        self,
        start: int,
        end: int,
        streams: Sequence[_Streams],
        outputs: Sequence[str],
        visit: Callable[[Stop], NewConstants],
    ) -> None:
        """Runs the nodes from `start` up to `end`, of which only the first can have quantized inputs."""
        pieces = self._pieces
        made = [name for position in range(start, end) for name in pieces.makes(position)]
        kept = [name for name in made if pieces.last_use.get(name, -1) >= end or name in outputs]
        node = pieces.name(start)
        activations = self._activations.get(node, [])
        self._pending |= self._visit(node, activations, streams, visit)
        inside = range(start, end)  # the Add that holds a bias may lie behind other operators
        owners = {key: pieces.positions[key[0]] for key in self._pending}
        changed = {key: self._pending.pop(key) for key, position in owners.items() if position in inside}
        if kept:
            replaced = {(e.node, e.index): _mark(e.tensor) for e in activations if e.tensor in self._params}
            replaced |= {key: _mark_constant(key) for key in changed}
            self._run_piece(pieces.of(inside), kept, replaced, changed, streams)
        for stream in streams:
            for values in (stream.exact, stream.quantized):
                for name in [n for n in values if pieces.last_use.get(n, -1) < end and n not in outputs]:
                    del values[name]

    def _visit(
        self,
        node: str,
        activations: Sequence[QdqEdge],
        streams: Sequence[_Streams],
        visit: Callable[[Stop], NewConstants],
    ) -> dict[tuple[str, int], npt.NDArray[np.floating]]:
        weight = self._weights.get(node)
        if weight is None:
            return {}
        tensor = activations[0].tensor
        params = self._params.get(tensor)

        def inputs() -> Iterator[tuple[Array, Array]]:
            for stream in streams:
                quantized = stream.quantized[tensor]
                yield stream.exact[tensor], quantized if params is None else _behind_qdq(quantized, params)

        new = visit(Stop(weight, inputs))
        changed = {(node, weight.index): new.weight}
        bias = self._biases.get(node)
        if bias is not None and new.bias is not None:
            changed[bias.owner, bias.index] = new.bias
        return changed

    def _run_piece(
        self,
        piece: Piece,
        kept: Sequence[str],
        replaced: Mapping[tuple[str, int], str],
        changed: Constants,
        streams: Sequence[_Streams],
    ) -> None:
        old = {_mark_constant(key): self._constants[key] for key in changed}
        new = {_mark_constant(key): np.asarray(array, old[_mark_constant(key)].dtype) for key, array in changed.items()}
        dtypes = {n: np.asarray(a).dtype for n, a in {**streams[0].exact, **old}.items()}
        marked = {_mark(tensor): tensor for tensor in self._params}
        model = self._pieces.cut(piece, kept, dtypes=dtypes, replaced=replaced)
        with using_gpu_where_it_pays(0), OnnxRuntimeRunner(model, spinning=False) as runner:
            names = [spec.name for spec in runner.inputs]
            for stream in streams:
                feeds = {n: old[n] if n in old else stream.exact[marked.get(n, n)] for n in names}
                results = runner.run(feeds)
                changed_feeds = {
                    n: new[n]
                    if n in new
                    else _behind_qdq(stream.quantized[marked[n]], self._params[marked[n]])
                    if n in marked
                    else stream.quantized[n]
                    for n in names
                }
                is_same = all(changed_feeds[n] is feeds[n] for n in names)
                stream.exact.update(results)
                stream.quantized.update(results if is_same else runner.run(changed_feeds))


def _behind_qdq(array: Array, params: QuantParams) -> Array:
    return fake_quantize(array, float(params.scale), params.format)


def _mark(tensor: str) -> str:
    return f"{tensor}__quantized"


def _mark_constant(key: tuple[str, int]) -> str:
    return f"{key[0]}__constant_{key[1]}"
