"""The ranges of a calibration file matched with the tensors of a float model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit.caches.complete import constant_ranges
from quantkit.caches.range_cache import RangeCache
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.graph.placement.tensorrt import float_activations, plan_tensorrt
from quantkit.types.calibration import TensorRange

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class TableMatch:
    """A cache laid over a prepared float model.

    Attributes:
        ranges: of activations of the model, in network order; those that inherit a range included.
        inherited: which of them are not in the cache, and take the range of what they copy or pool.
        missing: activations that INT8 needs and that have no range: tensor → reason.
        unlisted: other float activations without a range: TensorRT's implicit INT8 wants them too.
        foreign: names of the cache that the model does not have.
        needed: activations that INT8 reads, in network order.
        float_operators: operators that would be INT8 and stay in float for want of a range → the tensor.
    """

    ranges: Mapping[str, TensorRange]
    inherited: tuple[str, ...]
    missing: Mapping[str, str]
    unlisted: tuple[str, ...]
    foreign: tuple[str, ...]
    needed: tuple[str, ...]
    float_operators: Mapping[str, str]

    @property
    def matched(self) -> tuple[str, ...]:
        """Activations of the model that the cache lists."""
        return tuple(name for name in self.ranges if name not in self.inherited)


def match_to_model(cache: RangeCache, graph: ir.Model) -> TableMatch:
    """Lays ranges over a prepared float model, by name.

    Raises:
        ModelError: nothing of the model can be INT8.
    """
    activations = float_activations(graph)
    usable = {n: r.amax for n, r in cache.tensors.items() if r.is_valid}
    completed = propagate_to_copies(graph, usable)
    ranges = {
        n: cache.tensors.get(n) or TensorRange(completed[n])
        for n in activations
        if n in cache.tensors or n in completed
    }
    edges = plan_tensorrt(graph).activations
    read = {edge.tensor for edge in edges}
    needed = tuple(n for n in activations if n in read)
    values = {
        *activations,
        *constant_ranges(graph),
        *graph.graph.initializers,
        *(v.name for node in graph.graph for v in node.outputs),
    }
    return TableMatch(
        ranges=ranges,
        inherited=tuple(n for n in ranges if n not in cache.tensors),
        missing={n: "not in the cache" for n in needed if n not in ranges},
        unlisted=tuple(n for n in activations if n not in ranges and n not in read),
        foreign=tuple(n for n in cache.tensors if n not in values),
        needed=needed,
        float_operators={
            edge.node: edge.tensor for edge in edges if edge.tensor not in ranges or not ranges[edge.tensor].is_valid
        },
    )
