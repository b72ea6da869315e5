"""The part of a model that a runtime can run: what lies before operators for which it has no kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from quantkit.graph.passes.edits import captured_values, inner_graphs

if TYPE_CHECKING:
    from quantkit.graph.float_model import FloatModel


def runnable_part(model: FloatModel, has_operator: Callable[[str, str], bool]) -> tuple[FloatModel, tuple[str, ...]]:
    """Cuts a model in front of the operators that a runtime does not have.

    Args:
        model: any.
        has_operator: of a domain ("" is ONNX's) and an operator type, whether the runtime knows it.

    Returns:
        The model itself, or what lies before these operators: its outputs are then what the rest would read, and those
        of the model that can be computed. And the names of the operators, each with its type.
    """
    graph = model.prepared()
    obstacles = [node for node in graph.graph if not _is_known(node, has_operator)]
    if not obstacles:
        return model, ()
    behind: set[ir.Node] = set()
    for node in graph.graph:  # in topological order
        if node in obstacles or any(v.producer() in behind for v in _reads(node)):
            behind.add(node)
    outputs = [v for v in graph.graph.outputs if v.producer() not in behind]
    for node in graph.graph:
        if node in behind:
            outputs += [v for v in _reads(node) if v.producer() not in (None, *behind)]
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(dict.fromkeys(outputs))
    graph.graph.remove(sorted(behind, key=list(graph.graph).index, reverse=True), safe=False)
    return model.with_graph(graph), tuple(f"{node.name} ({node.op_type})" for node in obstacles)


def _is_known(node: ir.Node, has_operator: Callable[[str, str], bool]) -> bool:
    nodes = [node, *(inner for graph in inner_graphs(node) for inner in ir.traversal.RecursiveGraphIterator(graph))]
    return all(has_operator("" if n.domain == "ai.onnx" else n.domain, n.op_type) for n in nodes)


def _reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads from the main graph, also inside its sub-graphs."""
    return [*(v for v in node.inputs if v is not None), *captured_values(node)]
