"""Exposes inner tensors as model outputs, so that calibration can observe them."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from quantkit.errors import ModelError
from quantkit.graph.model import infer_shapes, quiet
from quantkit.graph.passes.prepare import LAYOUT_OPS, is_standard

_BATCH = "quantkit_batch"

_UNKNOWN_BYTES = 4 << 20
"""Assumed for tensors of unknown shape: the size of the first activation of an image classifier."""


def batch_first(model: ir.Model) -> frozenset[str]:
    """Names of the tensors whose first dimension is the batch, as far as shape inference can tell.

    A fixed batch size is replaced by a symbolic dimension in a copy; shape inference shows where it propagates to.
    """
    known = {str(v.name): v.shape for v in model.graph.inputs if v.shape is not None and len(v.shape)}
    copy = with_input_shapes(model, {name: ir.Shape([_BATCH, *list(shape)[1:]]) for name, shape in known.items()})
    return frozenset(
        str(value.name)
        for node in copy.graph
        for value in node.outputs
        if value.shape is not None and len(value.shape) and str(value.shape[0]) == _BATCH
    )


def activation_bytes(model: ir.Model, tensors: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Size of each of `tensors` in bytes, as far as shape inference can tell.

    Args:
        model: prepared.
        tensors: names in its main graph.
        shapes: what will be fed, by input.
    """
    copy = with_input_shapes(model, {name: ir.Shape(shape) for name, shape in shapes.items()})
    values = {str(v.name): v for v in copy.graph.inputs} | {str(v.name): v for n in copy.graph for v in n.outputs}
    return {name: _bytes(values[name]) if name in values else _UNKNOWN_BYTES for name in tensors}


def expose(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """Replaces the outputs of `model` by `tensors`, in place, and returns it.

    Model inputs among `tensors` are left out: the caller already has them. If nothing else is wanted, the old outputs
    stay, since a model without outputs does not run. Nodes that only the old outputs needed are removed.

    Raises:
        ModelError: a tensor is not in the main graph.
    """
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


def hide_copies(model: ir.Model, observed: Container[str], batch_first: Container[str]) -> dict[str, str]:
    """Takes away outputs whose values another observed tensor holds too, all of them and no others.

    Copies that fill up a batch are cut off where it comes first: both or neither of the two have to be so.

    Args:
        model: with the observed tensors among its outputs or inputs; changed in place.
        observed: their names.
        batch_first: tensors whose first dimension is known to be the batch.

    Returns:
        By tensor that is no output any more, the first one that holds its values.
    """
    copies: dict[str, str] = {}
    for node in model.graph:
        if is_standard(node, *LAYOUT_OPS) and node.inputs and node.inputs[0] is not None:
            copy, source = str(node.outputs[0].name), str(node.inputs[0].name)
            source = copies.get(source, source)
            if copy in observed and source in observed and (copy in batch_first) == (source in batch_first):
                copies[copy] = source
    expose(model, [str(value.name) for value in model.graph.outputs if value.name not in copies])
    return copies


def with_input_shapes(model: ir.Model, shapes: Mapping[str, ir.Shape]) -> ir.Model:
    """A copy with other input shapes, and the shapes inferred from them.

    Args:
        model: prepared.
        shapes: by input; the others keep theirs.
    """
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    for value in copy.graph.inputs:
        shape = shapes.get(str(value.name))
        if shape is not None and value.name not in copy.graph.initializers:
            value.shape = shape
    with quiet():
        infer_shapes(copy)
    return copy


def _bytes(value: ir.Value) -> int:
    if value.shape is None or value.dtype is None or not all(isinstance(d, int) for d in value.shape):
        return _UNKNOWN_BYTES
    return math.prod(int(d) for d in value.shape if isinstance(d, int)) * math.ceil(value.dtype.itemsize)
