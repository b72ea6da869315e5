"""What graph passes share: unused names, new nodes, other constants, removal of initializers, ancestors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir


class Names:
    """The names that a graph uses, and new values under unused ones."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._taken: set[str | None] = set()
        # Names of sub-graphs too: they must not shadow a value of the main graph.
        for graph in model.graphs():
            self._taken |= {v.name for v in graph.inputs} | set(graph.initializers)
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            self._taken |= {node.name, *(v.name for v in node.outputs)}

    def new(self, wanted: str) -> str:
        """Reserves `wanted`, or `wanted` with a number if that name is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def initializer(self, wanted: str, array: np.ndarray) -> ir.Value:
        """Registers a new initializer in the graph."""
        name = self.new(wanted)
        tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value


def make_dequantize(
    names: Names,
    inputs: Sequence[ir.Value | None],
    name: str,
    *,
    node_name: str | None = None,
    shape: ir.Shape | None,
    dtype: ir.DataType | None = ir.DataType.FLOAT,
    axis: int | None = None,
    block: int | None = None,
) -> ir.Node:
    """A DequantizeLinear that is not in the graph yet.

    Args:
        names: of the graph.
        inputs: quantized values, scale and zero point.
        name: what the result is named after.
        node_name: what the node is named after, if not after the result.
        shape: of the result.
        dtype: float type of the result.
        axis: of per-channel scales, or of blocks.
        block: their size.
    """
    # A type object of its own for each value: a later conversion changes types in place.
    kind = ir.TensorType(dtype or ir.DataType.FLOAT)
    return ir.node(
        "DequantizeLinear",
        inputs,
        attributes={key: value for key, value in (("axis", axis), ("block_size", block)) if value is not None},
        outputs=[ir.Value(name=names.new(f"{name}_dequantized"), shape=shape, type=kind)],
        name=names.new(f"{node_name or name}_DequantizeLinear"),
    )


def insert_behind(
    names: Names,
    value: ir.Value,
    op_type: str,
    operand: np.ndarray,
    *,
    result: str,
    constant: str,
    shape: ir.Shape | None,
) -> ir.Value:
    """Inserts `op_type`(value, operand) behind the producer of `value`; nothing reads the result yet.

    Args:
        names: of the graph.
        value: a float activation or model input.
        op_type: Mul, Sub, Pad, ...
        operand: the constant second input.
        result: what the result is named after.
        constant: what the initializer is named after.
        shape: of the result.
    """
    kind = ir.TensorType(value.dtype or ir.DataType.FLOAT)
    output = ir.Value(name=names.new(result), shape=shape, type=kind)
    inputs = [value, names.initializer(constant, operand)]
    node = ir.node(op_type, inputs, outputs=[output], name=names.new(f"{result}_{op_type}"))
    producer = value.producer()
    if producer is not None:
        names.graph.insert_after(producer, node)
    else:
        names.graph.insert_before(names.graph[0], node)
    return output


def replace_constant(names: Names, node: ir.Node, index: int, array: np.ndarray, *, name: str) -> None:
    """Gives input `index` of `node` another constant; whatever else reads the old one keeps it.

    An initializer that only this input reads keeps its name and its type. Otherwise there will be a new initializer.

    Args:
        names: of the graph.
        node: in the main graph.
        index: of a constant input, or of an optional input that is missing.
        array: the new values.
        name: what a new initializer is named after.
    """
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
        dtype = old.dtype.numpy() if old.dtype is not None else array.dtype
        old.const_value = ir.Tensor(np.asarray(array, dtype, order="C"), name=old.name)
        old.shape = ir.Shape(array.shape)
    else:
        node.replace_input_with(index, names.initializer(name, array))


def replace_result(old: ir.Value, new: ir.Value, node: ir.Node) -> None:
    """Replaces `old`, the output of `node`, by `new`, which takes its name; removes `node`."""
    name, shape, kind = old.name, old.shape, old.type
    graph = node.graph
    if graph is None:
        return
    for user, index in list(old.uses()):
        user.replace_input_with(index, new)
    for position, value in enumerate(list(graph.outputs)):
        if value is old:
            graph.outputs[position] = new
    graph.remove(node, safe=True)
    new.name, new.shape, new.type = name, shape, kind


def remove_unused_initializers(model: ir.Model) -> ir.Model:
    """Removes the initializers that nothing reads from `model`, in place, and returns it."""
    for name in [n for n, v in model.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del model.graph.initializers[name]
    return model


INSIDE = "a sub-graph reads its weight in float: it would be stored twice"


def is_read_inside(value: ir.Value | None, node: ir.Node) -> bool:
    """Whether a sub-graph reads what `node` reads too: the weight of a Loop's steps, of which the first is outside."""
    users = [] if value is None else [user for user, _ in value.uses()]
    return any(user.graph is not node.graph or any(True for _ in inner_graphs(user)) for user in users)


def name_of(thing: ir.Node | ir.Value | None) -> str:
    """Name of a node or value; empty if it has none."""
    return "" if thing is None or thing.name is None else thing.name


def ancestors(values: Iterable[ir.Value | None]) -> set[ir.Node]:
    """The nodes that these values are computed by."""
    found: set[ir.Node] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return found


def inner_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The sub-graphs of a node: branches of an If, the body of a Loop."""
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured_values(node: ir.Node) -> Iterator[ir.Value]:
    """Values of the graph of a node that its sub-graphs read, at any depth; a value that is read twice comes twice."""
    for graph in inner_graphs(node):
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            yield from (v for v in inner.inputs if v is not None and v.graph is node.graph)
