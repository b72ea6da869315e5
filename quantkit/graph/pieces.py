"""Pieces of a model as models of their own: what lies between some tensors and others."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.graph.passes.edits import captured_values
from quantkit.types import SharedModel

_SMALL_BYTES = 1024
"""Smaller constants are stored in the piece: shape inference may need them."""


@dataclass(frozen=True)
class Piece:
    """Some nodes of a graph.

    Attributes:
        nodes: positions in the graph, ascending.
        inputs: tensors that they read and none of them makes, constants left out.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]


@dataclass
class _Node:
    proto: onnx.NodeProto
    reads: tuple[str, ...]
    """Names of all values that it reads, those of its sub-graphs included; constants left out."""
    makes: tuple[str, ...]
    captured: tuple[str, ...]
    """Of these, what only its sub-graphs read."""


class GraphPieces:
    """Cuts a prepared model into pieces. The model must not be edited meanwhile.

    Args:
        model: prepared by `quantkit.graph.passes.prepare.prepare`, perhaps with Q/DQ.
        constants: more initializers by name, which `with_inputs` may refer to.

    Example:
        >>> import onnx
        >>> from quantkit.graph.float_model import FloatModel
        >>> relu = onnx.helper.make_node("Relu", ["x"], ["y"], name="relu")
        >>> neg = onnx.helper.make_node("Neg", ["y"], ["z"], name="neg")
        >>> x, z = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xz")
        >>> opset = onnx.helper.make_opsetid("", 17)
        >>> proto = onnx.helper.make_model(onnx.helper.make_graph([relu, neg], "g", [x], [z]), opset_imports=[opset])
        >>> pieces = GraphPieces(FloatModel(proto.SerializeToString()).prepared())
        >>> pieces.behind(["neg"])
        Piece(nodes=(1,), inputs=('y',))
    """

    def __init__(self, model: ir.Model, *, constants: Mapping[str, ir.Value] | None = None) -> None:
        self.model = model
        self.outputs = tuple(str(v.name) for v in model.graph.outputs)
        initializers = {**(constants or {}), **model.graph.initializers}
        self._constants = {name: v for name, v in initializers.items() if v.const_value is not None}
        self._stored_protos: dict[str, onnx.TensorProto] = {}
        self._nodes = [self._read(node) for node in model.graph]
        self._dtypes = {
            str(v.name): v.dtype
            for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))
            if v.dtype is not None
        }

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Position of each node by its name."""
        return {node.proto.name: position for position, node in enumerate(self._nodes)}

    @cached_property
    def producers(self) -> Mapping[str, int]:
        """Position of the node that makes a tensor."""
        return {name: position for position, node in enumerate(self._nodes) for name in node.makes}

    @cached_property
    def last_use(self) -> Mapping[str, int]:
        """Position of the last node that reads a tensor."""
        return {name: position for position, node in enumerate(self._nodes) for name in node.reads}

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Names at the inputs of a node, constants included; empty where an optional input is left out."""
        return tuple(self._nodes[position].proto.input)

    def with_inputs(self, inputs: Mapping[tuple[str, int], str]) -> GraphPieces:
        """The same graph with other tensors or constants at some inputs of nodes: (node, index) → name."""
        changed: dict[int, dict[int, str]] = {}
        for (node, index), name in inputs.items():
            changed.setdefault(self.positions[node], {})[index] = name
        other = copy.copy(self)
        other.__dict__.pop("last_use", None)
        other._nodes = list(self._nodes)
        for position, names in changed.items():
            other._nodes[position] = self._rewired(self._nodes[position], names)
        return other

    def name(self, position: int) -> str:
        """Name of a node."""
        return self._nodes[position].proto.name

    def reads(self, position: int) -> tuple[str, ...]:
        """Tensors that a node reads, constants left out."""
        return self._nodes[position].reads

    def makes(self, position: int) -> tuple[str, ...]:
        """Tensors that a node makes."""
        return self._nodes[position].makes

    def peak_bytes(self, sizes: Mapping[str, int]) -> int:
        """Most bytes that are alive at once when each tensor is dropped behind its last reader.

        Args:
            sizes: bytes of each tensor; one that is not listed takes none.
        """
        dying: dict[int, list[str]] = {}
        for name, position in self.last_use.items():
            dying.setdefault(position, []).append(name)
        made = {name for node in self._nodes for name in node.makes}
        alive = sum(size for name, size in sizes.items() if name not in made)
        peak = alive
        for position, node in enumerate(self._nodes):
            alive += sum(sizes.get(name, 0) for name in node.makes)
            peak = max(peak, alive)
            alive -= sum(sizes.get(name, 0) for name in dying.get(position, ()))
        return peak

    def of(self, positions: Iterable[int]) -> Piece:
        """The nodes at these positions."""
        return self._piece(sorted(positions))

    def behind(self, nodes: Iterable[str]) -> Piece:
        """Some nodes and everything that depends on them."""
        changed, started = set[str](), {self.positions[name] for name in nodes}
        chosen = []
        for position, node in enumerate(self._nodes):
            if position in started or not changed.isdisjoint(node.reads):
                chosen.append(position)
                changed.update(node.makes)
        return self._piece(chosen)

    def between(self, known: Iterable[str], wanted: Sequence[str]) -> Piece:
        """The nodes that it takes to compute `wanted` from `known`."""
        have, needed = set(known), set(wanted)
        chosen = []
        for position in range(len(self._nodes) - 1, -1, -1):
            node = self._nodes[position]
            if any(name in needed and name not in have for name in node.makes):
                chosen.append(position)
                needed.update(node.reads)
        return self._piece(chosen[::-1])

    def cut(
        self,
        piece: Piece,
        outputs: Sequence[str],
        *,
        dtypes: Mapping[str, np.dtype],
        replaced: Mapping[tuple[str, int], str] | None = None,
    ) -> SharedModel:
        """A piece as a model.

        Args:
            piece: its nodes.
            outputs: tensors that they make.
            dtypes: of tensors of which the graph does not say it.
            replaced: another name for an input of a node: (node, index) → name, which becomes an input of the model.
        """
        protos, read = [], dict[str, None]()
        replaced = replaced or {}
        types: dict[str, ir.DataType | None] = {
            **{name: ir.DataType.from_numpy(dtype) for name, dtype in dtypes.items()},
            **self._dtypes,
        }
        for position in piece.nodes:
            node = self._nodes[position]
            proto = node.proto
            if mine := {index: name for (owner, index), name in replaced.items() if owner == proto.name}:
                proto = onnx.NodeProto()
                proto.CopyFrom(node.proto)
                for index, name in sorted(mine.items()):
                    proto.input.extend([""] * (index + 1 - len(proto.input)))
                    types.setdefault(name, self._dtypes.get(proto.input[index]))
                    proto.input[index] = name
            protos.append(proto)
            read.update(dict.fromkeys((*proto.input, *node.captured)))
        inputs = {*piece.inputs, *replaced.values()}
        small, large = self._stored(name for name in read if name in self._constants)
        graph = onnx.GraphProto(name="piece")
        graph.node.extend(protos)
        graph.input.extend(_info(name, types.get(name)) for name in read if name in inputs)
        graph.output.extend(_info(name, types.get(name)) for name in outputs)
        graph.initializer.extend([*small, *(_external(name, array) for name, array in large.items())])
        model = onnx.ModelProto(ir_version=self.model.ir_version or 8, graph=graph)
        for domain, version in self.model.opset_imports.items():
            model.opset_import.append(onnx.helper.make_opsetid(domain, version))
        return SharedModel(model.SerializeToString(), large)

    def _read(self, node: ir.Node) -> _Node:
        captured = tuple(dict.fromkeys(str(v.name) for v in captured_values(node)))
        values = dict.fromkeys((*(str(v.name) for v in node.inputs if v is not None), *captured))
        return _Node(
            ir.serde.serialize_node(node),
            reads=tuple(name for name in values if name not in self._constants),
            makes=tuple(str(v.name) for v in node.outputs if v.name),
            captured=captured,
        )

    def _rewired(self, node: _Node, names: Mapping[int, str]) -> _Node:
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        proto.input.extend([""] * (max(names) + 1 - len(proto.input)))
        for index, name in names.items():
            proto.input[index] = name
        while proto.input and not proto.input[-1]:
            proto.input.pop()
        read = dict.fromkeys(name for name in (*proto.input, *node.captured) if name)
        return replace(node, proto=proto, reads=tuple(name for name in read if name not in self._constants))

    def _piece(self, chosen: Sequence[int]) -> Piece:
        made = {name for position in chosen for name in self._nodes[position].makes}
        read = dict.fromkeys(name for position in chosen for name in self._nodes[position].reads)
        return Piece(tuple(chosen), tuple(name for name in read if name not in made))

    def _stored(self, names: Iterable[str]) -> tuple[list[onnx.TensorProto], dict[str, np.ndarray]]:
        small, large = [], {}
        for name in names:
            tensor = self._constants[name].const_value
            assert tensor is not None  # _constants holds no other
            if tensor.nbytes > _SMALL_BYTES and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                large[name] = np.ascontiguousarray(tensor.numpy())
            else:
                if name not in self._stored_protos:
                    self._stored_protos[name] = ir.serde.serialize_tensor(tensor)
                    self._stored_protos[name].name = name
                small.append(self._stored_protos[name])
        return small, large


def _info(name: str, dtype: ir.DataType | None) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=name)
    if dtype is not None:
        info.type.tensor_type.elem_type = int(dtype)
    return info


def _external(name: str, array: np.ndarray) -> onnx.TensorProto:
    proto = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", "shared"), ("offset", "0"), ("length", str(array.nbytes))):
        proto.external_data.add(key=key, value=value)
    return proto
