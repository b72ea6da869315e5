"""Propagation of dynamic ranges in TensorRT's implicit INT8: copies and pools have the range of their input.

Observed in the calibration caches of TensorRT: the line of a pool repeats its input's, and members of a Concat share a
range.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from quantkit.graph.passes.prepare import COPY_OPS, FLOAT_TYPES, is_standard
from quantkit.graph.placement.tensorrt import float_activations

_INHERITING_OPS = (*COPY_OPS, "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Dropout")


def propagate_to_copies(model: ir.Model, amax: Mapping[str, float]) -> dict[str, float]:
    """Ranges for TensorRT's calibration cache from calibrated ones.

    Args:
        model: prepared.
        amax: calibrated magnitude by tensor name; need not be complete.

    Returns:
        amax by tensor name in network order: inherited where TensorRT inherits, one range (the largest) over the
        inputs and the output of a Concat, and tensors that inherit a known range added.
    """
    ranges = dict(amax)
    for node in model.graph:
        if is_standard(node, *_INHERITING_OPS) and node.inputs[0] is not None:
            source = ranges.get(str(node.inputs[0].name))
            for value in node.outputs:
                if source is not None and value.dtype in FLOAT_TYPES:
                    ranges[str(value.name)] = source
        elif is_standard(node, "Concat"):
            members = [str(v.name) for v in (*node.inputs, *node.outputs) if v is not None and str(v.name) in ranges]
            if str(node.outputs[0].name) in members:
                ranges |= dict.fromkeys(members, max(ranges[name] for name in members))
    return {name: ranges[name] for name in float_activations(model) if name in ranges}
