"""The identity of a model: a hash of its graph and weights, whatever its file looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping

import numpy as np
import onnx_ir as ir

ARRAY_TYPES = {
    int(data_type): np.dtype(data_type.numpy()).newbyteorder("<")
    for data_type in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.INT8, ir.DataType.UINT8)
}
"""Element types of weights that numpy, every runtime and a hash take as they lie in a file."""


def model_hash(model: ir.Model) -> str:
    """SHA-256 of graph and weights, hexadecimal.

    Independent of the file name, of where weights are stored (inside or external), of their order in the file, and of
    names and doc strings of nodes; dependent on everything that decides what the model computes and on tensor names.
    """
    digest = hashlib.sha256()

    def feed(*words: object) -> None:
        for word in words:
            digest.update(repr(word).encode())
            digest.update(b"\x00")

    feed("quantkit model 1", sorted(model.opset_imports.items()))
    for function in sorted(model.functions.values(), key=lambda f: str(f.identifier())):
        feed("function", function.identifier(), sorted(function.opset_imports.items()))
        feed([v.name for v in function.inputs], [v.name for v in function.outputs])
        _feed_attributes(function.attributes, feed)
        for node in function:
            _feed_node(node, feed)
    _feed_graph(model.graph, feed)
    return digest.hexdigest()


def _feed_graph(graph: ir.Graph, feed: Callable[..., None]) -> None:
    for value in graph.inputs:
        feed("input", value.name, str(value.dtype), str(value.shape))
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        if tensor is not None:
            feed("initializer", name, *_tensor_words(tensor))
    for node in graph:
        _feed_node(node, feed)
    feed("outputs", [v.name for v in graph.outputs])


def _feed_node(node: ir.Node, feed: Callable[..., None]) -> None:
    feed(node.domain, node.op_type, node.overload)
    outputs = [v.name for v in node.outputs]
    while outputs and not outputs[-1]:  # one that nobody reads: written again, the model does not list it
        outputs.pop()
    feed([v.name if v is not None else "" for v in node.inputs], outputs)
    _feed_attributes(node.attributes, feed)


def _feed_attributes(attributes: Mapping[str, ir.Attr], feed: Callable[..., None]) -> None:
    for name in sorted(attributes):
        attribute = attributes[name]
        if attribute.is_ref():
            feed(name, str(attribute.type), attribute.ref_attr_name, None)
        elif attribute.type is ir.AttributeType.GRAPH:
            feed(name, "graph")
            _feed_graph(attribute.as_graph(), feed)
        elif attribute.type is ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                feed(name, "graph")
                _feed_graph(graph, feed)
        elif attribute.type is ir.AttributeType.TENSOR:
            feed(name, *_tensor_words(attribute.as_tensor()))
        elif attribute.type is ir.AttributeType.TENSORS:
            for tensor in attribute.as_tensors():
                feed(name, *_tensor_words(tensor))
        else:
            feed(name, str(attribute.type), None, attribute.value)


def _tensor_words(tensor: ir.TensorProtocol) -> Iterable[object]:
    shape = tuple(int(d) if isinstance(d, int) else str(d) for d in tensor.shape)
    if tensor.dtype is ir.DataType.STRING:
        return (str(tensor.dtype), shape, tensor.numpy().tolist())
    # Arrays are hashed where they lie; what numpy has no type for is packed as in a file.
    in_place = tensor.dtype in ARRAY_TYPES
    content = np.ascontiguousarray(tensor.numpy()).data if in_place else tensor.tobytes()
    return (str(tensor.dtype), shape, hashlib.sha256(content).hexdigest())


def outputs_hash(model: ir.Model, nodes: Container[str | None]) -> str:
    """Hash of the names of the tensors that some nodes make."""
    outputs = sorted(str(value.name) for node in model.graph if node.name in nodes for value in node.outputs)
    return hashlib.sha256("\n".join(outputs).encode()).hexdigest()[:16]
