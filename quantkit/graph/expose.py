"""Making inner tensors visible as model outputs, so that calibration can observe them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from quantkit.errors import ModelError

__all__ = ["expose"]


def expose(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """Replaces the outputs of `model` by `tensors`, in place, and returns it.

    Model inputs among `tensors` are left out: whoever feeds them has them. Where nothing else is wanted the old outputs
    stay, since a model without outputs does not run. What only the old outputs needed is removed.

    Raises:
        ModelError: a tensor is not in the main graph.
    """
    import onnx_ir.passes.common as passes

    values = {v.name: v for node in model.graph for v in node.outputs}
    inputs = {v.name for v in model.graph.inputs}
    if missing := [name for name in tensors if name not in values and name not in inputs]:
        raise ModelError(f"the model has no tensor {missing[0]!r}")
    wanted = [values[name] for name in dict.fromkeys(tensors) if name not in inputs]
    if wanted:
        model.graph.outputs.clear()
        model.graph.outputs.extend(wanted)
    passes.RemoveUnusedNodesPass()(model)
    return model
