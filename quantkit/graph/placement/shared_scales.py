"""One Q for a tensor: what else reads a quantized tensor, and what copies it, reads the same INT8 values.

A tensor that products read in INT8 and others in float is written twice. So is one that is quantized with two scales,
behind an operator that copies it and at another reader. Three rules, seen in plans of TensorRT-RTX
(`benchmarks/placement_plans.py`), leave one tensor:

1. Operators that copy (pooling, concatenation, splitting, layout, nearest neighbors) have one scale on both sides.
2. Where everything behind a copy ends in INT8, what is copied is quantized at its producer, if others read it too.
3. A residual Add or a BatchNormalization that alone keeps a float copy of a quantized tensor reads the INT8 values,
   whatever the residual branch ends in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx_ir as ir

from quantkit.graph.passes.edits import ancestors, name_of
from quantkit.graph.passes.prepare import COPY_OPS, FLOAT_TYPES, WEIGHTED_OPS, constant_of, is_standard
from quantkit.types import QdqEdge

_COPYING_OPS = (*COPY_OPS, "Concat", "DepthToSpace", "SpaceToDepth")

_POINTWISE_OPS = (
    *("BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "Elu", "Mish"),
    *("AveragePool", "GlobalAveragePool"),
)
"""Operators between what a Concat joins and the product that reads it, in networks that normalize first."""


class SharedScales:
    """Which tensors of a graph share a scale, and which readers share the INT8 values.

    Args:
        model: prepared.
        edges: of products and of skip connections.
        excluded: names of nodes that stay in float.
        normalized: inputs of normalizations: residual streams that stay in float.
    """

    def __init__(
        self,
        model: ir.Model,
        edges: Iterable[QdqEdge],
        excluded: Collection[str],
        normalized: Collection[ir.Value],
    ) -> None:
        self.graph, self.excluded, self.normalized = model.graph, excluded, normalized
        self.edges = {(edge.node, edge.index): edge for edge in edges}
        self.copies = [node for node in model.graph if _is_copying(node)]
        self.classes = _classes(self.copies)
        self.num_given = len(self.edges)

    def added(self, *, only_copies: bool = False) -> tuple[QdqEdge, ...]:
        """The edges of rules 2 and 3, or of rule 2 alone: copies round to what their readers round to anyway."""
        for members in () if only_copies else self._joined():
            self._quantize_joined(members)
        size = -1
        while size != len(self.edges):
            size = len(self.edges)
            for node in reversed(self.copies):
                self._quantize_copied(node)
            for value in () if only_copies else self._multiplied():
                self._share(value)
        return tuple(self.edges.values())[self.num_given :]

    def groups(self) -> tuple[frozenset[str], ...]:
        """Sets of quantized tensors with one scale (rule 1)."""
        quantized = {edge.tensor for edge in self.edges.values()}
        found = (frozenset(map(name_of, members)) & quantized for members in self.classes)
        return tuple(group for group in found if len(group) > 1)

    def _multiplied(self) -> list[ir.Value]:
        """Tensors that products read in INT8, as they are or copied: a skip connection alone is none."""
        nodes = [node for node in self.graph if is_standard(node, *WEIGHTED_OPS) or _is_copying(node)]
        read = ((node, i) for node in nodes for i in range(len(node.inputs)) if (name_of(node), i) in self.edges)
        return list(dict.fromkeys(value for node, i in read if (value := node.inputs[i]) is not None))

    def _joined(self) -> Iterator[Sequence[ir.Value]]:
        """Classes with a Concat and with a tensor that is read more than once."""
        for members in self.classes:
            producers = [value.producer() for value in members]
            if any(node is not None and is_standard(node, "Concat") for node in producers) and any(
                _num_readers(value) > 1 for value in members
            ):
                yield members

    def _quantize_joined(self, members: Sequence[ir.Value]) -> None:
        """Quantizes what BatchNormalizations read of dense blocks, where products behind them are quantized."""
        reads = [(node, index) for value in members for node, index in _readers(value) if node not in self.copies]
        left = [read for read in reads if (name_of(read[0]), read[1]) not in self.edges]
        if left and all(
            self._may_edit(node)
            and is_standard(node, "BatchNormalization")
            and index == 0
            and self._leads_to_products(node.outputs[0])
            for node, index in left
        ):
            for node, index in left:
                self._add(node, index, shared=False)

    def _leads_to_products(self, value: ir.Value) -> bool:
        return not value.is_graph_output() and all(
            (name_of(user), index) in self.edges
            or (
                self._may_edit(user)
                and is_standard(user, *_POINTWISE_OPS, *COPY_OPS)
                and self._leads_to_products(user.outputs[0])
            )
            for user, index in _readers(value)
        )

    def _quantize_copied(self, node: ir.Node) -> None:
        """Rule 2, at one operator that copies."""
        inputs = _copied(node)
        if any(_num_readers(value) > 1 for _, value in inputs) and self._ends_quantized(node):
            for index, _ in inputs:
                self._add(node, index, shared=True)

    def _ends_quantized(self, node: ir.Node) -> bool:
        """Whether every reader of what `node` copies is INT8, or copies to such."""
        if not self._may_edit(node):
            return False
        outputs = [value for value in node.outputs if _num_readers(value)]
        return bool(outputs) and all(
            not value.is_graph_output()
            and value.dtype in FLOAT_TYPES
            and all(self._is_quantized(user, index) for user, index in _readers(value))
            for value in outputs
        )

    def _is_quantized(self, user: ir.Node, index: int) -> bool:
        return (name_of(user), index) in self.edges or (_is_copying(user) and self._ends_quantized(user))

    def _share(self, value: ir.Value) -> None:
        """Rule 3, at one quantized tensor."""
        left = [(user, index) for user, index in _readers(value) if not self._is_quantized(user, index)]
        if not value.is_graph_output() and all(self._may_share(user, index) for user, index in left):
            for user, index in left:
                self._add(user, index, shared=True)

    def _may_share(self, user: ir.Node, index: int) -> bool:
        if not self._may_edit(user) or user.outputs[0] in self.normalized:
            return False
        if is_standard(user, "BatchNormalization"):
            return index == 0
        return is_standard(user, "Add") and is_residual(user, index)

    def _may_edit(self, node: ir.Node) -> bool:
        return node.graph is self.graph and name_of(node) not in self.excluded

    def _add(self, node: ir.Node, index: int, *, shared: bool) -> None:
        edge = QdqEdge(name_of(node.inputs[index]), name_of(node), index, shared=shared)
        self.edges.setdefault((edge.node, edge.index), edge)


def _classes(copies: Iterable[ir.Node]) -> list[list[ir.Value]]:
    """Values that are copies of each other."""
    of: dict[ir.Value, list[ir.Value]] = {}
    for node in copies:
        values = (*(value for _, value in _copied(node)), *node.outputs)
        found = [of.get(value, [value]) for value in values if value.dtype in FLOAT_TYPES]
        joined = list(dict.fromkeys(value for members in found for value in members))
        of |= dict.fromkeys(joined, joined)
    return list({id(members): members for members in of.values()}.values())


def is_residual(node: ir.Node, index: int) -> bool:
    """Whether an Add joins its operand `index` to a branch that multiplies."""
    skip, branch = node.inputs[index], node.inputs[1 - index]
    return any(is_standard(behind, *WEIGHTED_OPS) for behind in ancestors([branch]) - ancestors([skip]))


def _copied(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """What a copying operator copies: index of the input and its value, constants left out."""
    inputs = enumerate(node.inputs if is_standard(node, "Concat") else node.inputs[:1])
    return [(index, value) for index, value in inputs if value is not None and constant_of(value) is None]


def _is_copying(node: ir.Node) -> bool:
    if node.outputs[0].dtype not in FLOAT_TYPES or any(constant_of(v) is not None for v in node.inputs[:1]):
        return False
    if is_standard(node, "Resize", "Upsample"):
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if not is_standard(node, *_COPYING_OPS):
        return False
    # Query, key and value of attention differ too much for one scale.
    return not is_standard(node, "Split", "Slice") or not any(_reaches_attention(value) for value in node.outputs)


def _reaches_attention(value: ir.Value) -> bool:
    """Whether a product of two activations reads a value, as it is or scaled."""
    for user, index in value.uses():
        if is_standard(user, "MatMul"):
            if all(constant_of(operand) is None for operand in user.inputs):
                return True
        elif (
            is_standard(user, *COPY_OPS)
            or (is_standard(user, "Mul", "Div") and constant_of(user.inputs[1 - index]) is not None)
        ) and any(_reaches_attention(result) for result in user.outputs):
            return True
    return False


def _readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Who reads the numbers of a value, and as which input: not those that ask for its shape."""
    return [(user, index) for user, index in value.uses() if not is_standard(user, "Shape", "Size")]


def _num_readers(value: ir.Value) -> int:
    return len(_readers(value)) + value.is_graph_output()
