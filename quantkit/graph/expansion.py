"""Bounds of what a model may be expanded to, checked before it is: a few bytes can describe any amount of work."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from quantkit.errors import ModelError

MOST_NODES = 1_000_000
"""Nodes after all calls of functions were put in place, those of sub-graphs included."""

MOST_TENSORS = 1_000_000
"""Initializers, those of sub-graphs included."""

MOST_LEVELS = 100
"""Levels on which functions may call functions."""

LONGEST_NAME = 65_536
"""Characters."""

LONGEST_RANGE = 1 << 28
"""Numbers that a Range of constants gives: shape inference lists them all."""

_Key = tuple[str, str, str]


def check_expansion(model: ir.Model, name: str) -> None:
    """Refuses a model that no machine could work through.

    Args:
        model: as read.
        name: of its file, for messages.

    Raises:
        ModelError: naming the limit.
    """
    tensors = sum(len(graph.initializers) for graph in model.graphs())
    if tensors > MOST_TENSORS:
        raise ModelError(f"{name}: {tensors} tensors are more than the limit of {MOST_TENSORS}")
    if long := next((text for text in _names(model) if len(text) > LONGEST_NAME), None):
        raise ModelError(f"{name}: the name {long[:40]!r}... is longer than the limit of {LONGEST_NAME} characters")
    count = _expanded(model, name)
    if count > MOST_NODES:
        shown = str(count) if count < 10**9 else f"about 10^{len(str(count)) - 1}"
        raise ModelError(f"{name} expands to {shown} nodes, more than the limit of {MOST_NODES}")
    for node in all_nodes(model):
        if node.op_type == "Range" and (length := _range_length(node)) > LONGEST_RANGE:
            raise ModelError(
                f"{name}: node {node.name!r} (Range) gives {length:.3g} numbers, more than the limit of {LONGEST_RANGE}"
            )


def model_parts(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """The graph, and the functions that it may call."""
    return [model.graph, *model.functions.values()]


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes of the graph and of functions, those of their sub-graphs included."""
    for part in model_parts(model):
        yield from ir.traversal.RecursiveGraphIterator(part)


def _names(model: ir.Model) -> Iterator[str]:
    for graph in model.graphs():
        values = (*graph.inputs, *graph.outputs, *graph.initializers.values())
        yield from (value.name for value in values if isinstance(value.name, str))
    for node in all_nodes(model):
        named = (value.name for value in (*node.inputs, *node.outputs) if value is not None)
        yield from (text for text in (node.name, node.op_type, node.domain, *named) if isinstance(text, str))


def _expanded(model: ir.Model, name: str) -> int:
    """Nodes with every call of a function in place of it; the functions are counted once each."""
    sizes: dict[_Key, int] = {}

    def count(part: ir.Graph | ir.Function, callers: tuple[_Key, ...]) -> int:
        total = 0
        for node in ir.traversal.RecursiveGraphIterator(part):
            key = node.op_identifier()
            total += 1 if key not in model.functions else size_of(key, callers)
        return total

    def size_of(key: _Key, callers: tuple[_Key, ...]) -> int:
        if key in callers:
            raise ModelError(f"{name}: the function {key[1]!r} calls itself")
        if len(callers) >= MOST_LEVELS:
            raise ModelError(f"{name}: functions call functions on more levels than the limit of {MOST_LEVELS}")
        if key not in sizes:
            sizes[key] = count(model.functions[key], (*callers, key))
        return sizes[key]

    return count(model.graph, ())


def _range_length(node: ir.Node) -> float:
    """How many numbers a Range of constants gives; 0 where it is not of constants."""
    numbers = []
    for value in node.inputs:
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or math.prod(tensor.shape.numpy()) != 1:
            return 0
        numbers.append(float(tensor.numpy().reshape(())))
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or numbers[2] == 0:
        return 0
    return max(0.0, (numbers[1] - numbers[0]) / numbers[2])
