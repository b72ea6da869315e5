"""Names for new nodes and values that nothing in the graph has yet."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["Names"]


class Names:
    """The names of a graph, and new values under free ones."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._taken: set[str | None] = set()
        # Names of sub-graphs too: a value of the main graph must not be shadowed there.
        for graph in model.graphs():
            self._taken |= {v.name for v in graph.inputs} | set(graph.initializers)
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            self._taken |= {node.name, *(v.name for v in node.outputs)}

    def new(self, wanted: str) -> str:
        """`wanted`, or it with a number, and from now on taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def initializer(self, wanted: str, array: np.ndarray) -> ir.Value:
        """A new initializer of the graph."""
        name = self.new(wanted)
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value
