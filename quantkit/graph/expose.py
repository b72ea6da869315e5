"""Making inner tensors visible as model outputs, so that calibration can observe them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from quantkit.errors import ModelError

__all__ = ["batch_first", "expose"]

_BATCH = "quantkit_batch"


def batch_first(model: ir.Model) -> frozenset[str]:
    """Names of the tensors whose first dimension is the batch, as far as shape inference can tell.

    A fixed batch size is replaced by a symbol for it, in a copy: what comes out with that symbol in front follows it.
    """
    import onnx_ir.passes.common as passes

    from quantkit.graph.model import quiet

    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    for value in copy.graph.inputs:
        if value.shape is not None and len(value.shape) and value.name not in copy.graph.initializers:
            value.shape = ir.Shape([_BATCH, *list(value.shape)[1:]])
    with quiet():
        passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    return frozenset(
        str(value.name)
        for node in copy.graph
        for value in node.outputs
        if value.shape is not None and len(value.shape) and str(value.shape[0]) == _BATCH
    )


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
