"""How much of a model is INT8: operators, weights and multiply-adds, whatever computes the rest.

LSTM, GRU, RNN, Einsum, attention and what sub-graphs hold stay in float. They count, so that "n of n" means all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.multiply_adds import RECURRENT, count_multiply_adds
from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.expose import with_input_shapes
from quantkit.graph.passes.prepare import FLOAT_TYPES, WEIGHTED_OPS, constant_of, is_standard
from quantkit.types import QdqPlan

_IN_FLOAT = frozenset(
    {
        *(*RECURRENT, "Einsum", "DeformConv", "FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul"),
        *("TransposeMatMul", "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"),
        *("PackedMultiHeadAttention", "DecoderMaskedMultiHeadAttention", "LongformerAttention"),
    }
)
"""Operators that multiply matrices or convolve, beside those that are quantized; of any domain."""

_DYNAMIC_SIZE = 64
"""Assumed for a dynamic dimension that is not the batch."""


@dataclass(frozen=True)
class Product:
    """An operator that multiplies, of the main graph or a sub-graph.

    Attributes:
        name: of its node.
        op_type: its operator.
        is_inner: whether it is in a sub-graph.
        work: its multiply-adds for one sample; None where a shape is not known.
    """

    name: str
    op_type: str
    is_inner: bool
    work: int | None


@dataclass(frozen=True)
class ShareOfModel:
    """What part of a model is INT8.

    Attributes:
        num_quantized, num_products: of its operators that multiply.
        of_weights: part of all float weights (0-1), embeddings and biases included.
        of_work: part of the multiply-adds (0-1); None where a shape is not known.
    """

    num_quantized: int
    num_products: int
    of_weights: float
    of_work: float | None


def quantized_share(model: ir.Model, plan: QdqPlan) -> ShareOfModel:
    """How much of a float model a plan makes INT8.

    Args:
        model: prepared, without Q/DQ.
        plan: of it.
    """
    products = find_products(model)
    quantized = {edge.node for edge in (*plan.activations, *plan.weights)}
    sizes = {value: value.const_value.size for value in _float_constants(model) if value.const_value is not None}
    nodes = [node for node in model.graph if node.name in quantized and is_standard(node, *WEIGHTED_OPS)]
    read = {node.inputs[index] for node in nodes for index in WEIGHTED_OPS[node.op_type]}
    stored = sum(size for value, size in sizes.items() if value in read)
    made = [product for product in products if not product.is_inner and product.name in quantized]
    work = [product.work for product in products]
    known = None not in work and any(work)
    return ShareOfModel(
        num_quantized=len(made),
        num_products=len(products),
        of_weights=stored / max(sum(sizes.values()), 1),
        of_work=sum(p.work or 0 for p in made) / sum(count or 0 for count in work) if known else None,
    )


def find_products(model: ir.Model) -> tuple[Product, ...]:
    """Every operator on floating-point numbers that multiplies matrices or convolves, in network order."""
    assumed = _assumed_shapes(model)
    shaped = with_input_shapes(model, assumed)
    _fill_shapes(shaped, model, assumed)
    return tuple(
        Product(
            name_of(node),
            node.op_type,
            node.graph is not shaped.graph,
            count_multiply_adds(node, [_sizes(value) for value in node.inputs], _sizes(node.outputs[0])),
        )
        for node in ir.traversal.RecursiveGraphIterator(shaped.graph)
        if is_product(node)
    )


def float_weights(model: ir.Model) -> dict[str, int]:
    """Bytes of the FP32 weights of a model by "name of OPERATOR", the largest first, those of sub-graphs included."""
    sizes = {
        f"{name_of(value)} of {next(iter(value.uses())).node.op_type}": value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype is ir.DataType.FLOAT and value.uses()
    }
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def is_product(node: ir.Node) -> bool:
    """Whether a node multiplies matrices or convolves, on floating-point numbers."""
    is_kind = is_standard(node, *WEIGHTED_OPS) or node.op_type in _IN_FLOAT
    return is_kind and node.outputs[0].dtype in (*FLOAT_TYPES, None)


def estimated_work(node: ir.Node) -> int:
    """Multiply-adds of one operator for one sample, dynamic sizes assumed; 0 where even a rank is not known."""

    def assumed(value: ir.Value | None) -> Sequence[int] | None:
        if value is None or value.shape is None:
            return _sizes(value)
        return [d if isinstance(d, int) else _DYNAMIC_SIZE if i else 1 for i, d in enumerate(value.shape)]

    return count_multiply_adds(node, [assumed(value) for value in node.inputs], assumed(node.outputs[0])) or 0


def estimated_total_work(model: ir.Model) -> int:
    """Multiply-adds of a whole model for one sample, estimated likewise."""
    return sum(map(estimated_work, model.graph))


def float_reason(node: ir.Node) -> str:
    """Why a product is never INT8; empty for the kinds that are quantized."""
    return f"{node.op_type} stays in float" if node.op_type in _IN_FLOAT else ""


def _fill_shapes(shaped: ir.Model, model: ir.Model, assumed: Mapping[str, ir.Shape]) -> None:
    """Gives values that ONNX does not infer the shapes that are known of them (a runtime's), with the same sizes."""
    symbols = {
        str(symbol): size
        for value in model.graph.inputs
        if value.shape is not None
        for symbol, size in zip(value.shape, assumed[name_of(value)], strict=True)
    }
    known = {value.name: value.shape for node in model.graph for value in node.outputs}
    for node in shaped.graph:
        for value in node.outputs:
            shape = known.get(value.name)
            if shape is not None and _sizes(value) is None:
                value.shape = ir.Shape(d if isinstance(d, int) else symbols.get(str(d)) for d in shape)


def _float_constants(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from (value for value in graph.initializers.values() if value.dtype in FLOAT_TYPES)


def _assumed_shapes(model: ir.Model) -> dict[str, ir.Shape]:
    """One sample, and `_DYNAMIC_SIZE` of whatever else is dynamic."""
    return {
        name_of(value): ir.Shape(
            d if isinstance(d, int) else _DYNAMIC_SIZE if i else 1 for i, d in enumerate(value.shape)
        )
        for value in model.graph.inputs
        if value.shape is not None
    }


def _sizes(value: ir.Value | None) -> Sequence[int] | None:
    tensor = constant_of(value)
    if tensor is not None:
        return list(tensor.shape.numpy())
    if value is None or value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return [d for d in value.shape if isinstance(d, int)]
