"""Which tensors calibration has to observe: everything that a TensorRT cache lists, or what either target quantizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit.errors import ModelError
from quantkit.graph.placement.tensorrt import float_activations, plan_tensorrt, probability_tensors
from quantkit.graph.quantize_cpu import cpu_tensors

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class ObservedTensors:
    """What calibration observes.

    Attributes:
        names: in network order.
        needed: those that Q/DQ for either target need; the others are only for TensorRT's caches.
        probabilities: those that are probabilities.
    """

    names: tuple[str, ...]
    needed: frozenset[str]
    probabilities: frozenset[str]


def observed_tensors(graph: ir.Model, *, all_tensors: bool) -> ObservedTensors:
    """What calibration has to observe.

    Args:
        graph: the float model, prepared.
        all_tensors: observe every activation.

    Raises:
        ModelError: nothing of it can be INT8.
    """
    needed: set[str] = set()
    refusals = []
    for target in ("tensorrt", "cpu"):
        try:
            needed |= set(
                plan_tensorrt(graph, quantize_all=True).tensors if target == "tensorrt" else cpu_tensors(graph)
            )
        except ModelError as error:  # a ConvTranspose is for TensorRT only, say
            refusals.append(error)
    if len(refusals) == 2:
        raise refusals[0]
    names = tuple(tensor for tensor in float_activations(graph) if all_tensors or tensor in needed)
    return ObservedTensors(names, frozenset(needed), probability_tensors(graph) & set(names))
