"""Which tensors tell what quantization does to a model's output, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import FLOAT_TYPES, LAYOUT_OPS, constant_of, is_standard

OutputKind = Literal["logits", "probabilities", "values"]

_CHOOSING = frozenset({"NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "NonZero", "Unique", "Multinomial", "Compress"})
"""Operators whose output jumps where their input changes a little: the comparison is made in front of them."""

_PRODUCTS = ("Gemm", "MatMul", "Conv")


@dataclass(frozen=True)
class MeasuredOutput:
    """A float tensor whose error is what matters.

    Attributes:
        name: of the tensor.
        kind: "logits" and "probabilities" are class scores along `axis`, as far as the graph tells; "values" is
            anything else. `quantkit.refinement.damage.recognize_class_scores` looks at values too.
        axis: of the classes, or of the channels; None where every element counts alike.
    """

    name: str
    kind: OutputKind
    axis: int | None


def measured_outputs(model: ir.Model) -> tuple[MeasuredOutput, ...]:
    """The float outputs of a prepared model; in front of operators that choose (NonMaxSuppression, TopK), their inputs.

    Returns:
        At least one tensor, unless nothing in the model is float.
    """
    chosen: set[ir.Value] = set()
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None]
        if node.op_type in _CHOOSING or (node.domain not in ("", "ai.onnx") and "nms" in node.op_type.lower()):
            found.update(dict.fromkeys(v for v in inputs if v not in chosen and _is_measurable(v)))
            chosen.update(node.outputs)
        elif any(v in chosen for v in inputs):
            chosen.update(node.outputs)
    direct = [v for v in model.graph.outputs if v not in chosen and _is_measurable(v)]
    found = {**dict.fromkeys(direct), **found}
    if not found:  # integers alone: what they are made of
        last = [v for node in model.graph for v in node.outputs if _is_measurable(v)][-1:]
        found = dict.fromkeys(last)
    return tuple(_describe(value) for value in found)


def _is_measurable(value: ir.Value) -> bool:
    return value.dtype in FLOAT_TYPES and isinstance(value.type, ir.TensorType | None) and constant_of(value) is None


def _describe(value: ir.Value) -> MeasuredOutput:
    name, rank = name_of(value), None if value.shape is None else len(value.shape)
    source = _behind_copies(value)
    if source is not None and is_standard(source, "Softmax", "LogSoftmax") and source.outputs[0] is value:
        axis = source.attributes.get_int("axis", -1)
        return MeasuredOutput(name, "probabilities" if source.op_type == "Softmax" else "logits", axis)
    if rank == 2 and source is not None:
        classes = value.shape[1] if value.shape is not None else None
        if is_standard(source, "Softmax"):
            return MeasuredOutput(name, "probabilities", 1)
        if _is_product(source) and classes != 1:
            return MeasuredOutput(name, "logits", 1)
    if rank is None or rank < 2:
        return MeasuredOutput(name, "values", None)
    return MeasuredOutput(name, "values", _channel_axis(value))


def _channel_axis(value: ir.Value) -> int:
    """Axis 1 of images; of [N, T, C] or [N, C, T] the one that a linear layer or a convolution makes; of lists of
    boxes, which are put together of several, the one whose length is known, or the shorter.
    """
    assert value.shape is not None
    if len(value.shape) != 3:
        return 1
    node = value.producer()
    if node is not None and is_standard(node, "Add"):
        node = next((v.producer() for v in node.inputs if v is not None and constant_of(v) is None), None)
    if node is not None and is_standard(node, "MatMul", "LayerNormalization"):
        return 2
    if node is not None and is_standard(node, "Conv", "ConvTranspose"):
        return 1
    first, second = value.shape[1], value.shape[2]
    return 1 if isinstance(first, int) and (not isinstance(second, int) or first < second) else 2


def _behind_copies(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and is_standard(node, *LAYOUT_OPS, "Cast") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _is_product(node: ir.Node) -> bool:
    """Whether a weighted operator, perhaps with a bias behind it, makes the class scores."""
    if is_standard(node, "Add") and any(constant_of(v) is not None for v in node.inputs):
        value = next((v for v in node.inputs if constant_of(v) is None), None)
        source = None if value is None else _behind_copies(value)
        return source is not None and is_standard(source, *_PRODUCTS)
    return is_standard(node, *_PRODUCTS, "GlobalAveragePool", "ReduceMean")
