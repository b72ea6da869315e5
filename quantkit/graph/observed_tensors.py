"""Which tensors calibration has to observe: what either target quantizes, or everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.errors import ModelError
from quantkit.graph.placement.tensorrt import float_activations, plan_tensorrt, probability_tensors
from quantkit.graph.quantize_cpu import cpu_tensors

if TYPE_CHECKING:
    import onnx_ir as ir


def observed_tensors(graph: ir.Model, *, all_tensors: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """What calibration has to observe, in network order, and which of it are probabilities.

    Args:
        graph: the float model, prepared.
        all_tensors: observe every activation.

    Raises:
        ModelError: nothing of it can be INT8.
    """
    names = float_activations(graph)
    wanted, refusals = set(names) if all_tensors else set(), []
    for target in ("tensorrt", "cpu"):
        try:
            wanted |= set(plan_tensorrt(graph).tensors if target == "tensorrt" else cpu_tensors(graph))
        except ModelError as error:  # a ConvTranspose is for TensorRT only, say
            refusals.append(error)
    if len(refusals) == 2:
        raise refusals[0]
    return tuple(tensor for tensor in names if tensor in wanted), probability_tensors(graph)
