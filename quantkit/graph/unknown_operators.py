"""Operators that ONNX does not know, such as TensorRT's plugins: set aside while a graph is edited, and put back.

They may stand in the default domain, where exporters for TensorRT write them (EfficientNMS_TRT), and where onnx's
checker, version converter and shape inference refuse them. In a domain of their own they are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

_ASIDE = "quantkit.unknown"


def is_unknown(node: ir.Node) -> bool:
    """Whether `node` claims to be ONNX's and is not, in any opset; also where it was set aside."""
    return node.domain == _ASIDE or (node.domain == "" and not onnx.defs.has(node.op_type))


def set_aside(model: ir.Model) -> None:
    """Moves unknown operators of the default domain to one of their own, in place."""
    for node in _all_nodes(model):
        if is_unknown(node):
            node.domain = _ASIDE
            for graph in model.graphs():
                graph.opset_imports[_ASIDE] = 1


@contextmanager
def put_back(model: ir.Model) -> Iterator[None]:
    """The model as a file holds it, meanwhile: what was set aside is in the default domain again."""
    aside = [node for node in _all_nodes(model) if node.domain == _ASIDE]
    version = model.graph.opset_imports.pop(_ASIDE, None)
    try:
        for node in aside:
            node.domain = ""
        yield
    finally:
        for node in aside:
            node.domain = _ASIDE
        if version is not None:
            model.graph.opset_imports[_ASIDE] = version


def _all_nodes(model: ir.Model) -> list[ir.Node]:
    return list(ir.traversal.RecursiveGraphIterator(model.graph))
