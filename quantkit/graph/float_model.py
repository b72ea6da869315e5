"""A model opened once for all that a command does with it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import ModelError
from quantkit.graph.model import (
    NEWEST_OPSET,
    external_files,
    input_specs,
    load_external_weights,
    open_file,
    parse_model,
    root_cause,
    serialize_model,
)
from quantkit.graph.model_hash import model_hash
from quantkit.graph.passes.prepare import has_qdq, prepare
from quantkit.notices import unicode_text
from quantkit.types import OLDEST_QDQ_OPSET, Array, PathLike, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


class FloatModel:
    """An ONNX model, parsed once: everything that is asked of it is answered from what was parsed.

    A file that is replaced later changes nothing. Weights in external data files of more than `LARGE_MODEL_BYTES` are
    the exception: they stay on disk, memory-mapped, and `check_unchanged` refuses them if their file was touched.

    Args:
        source: path of the model, or its content.
        name: for messages, and for the names of files made of it; None takes the file's.

    Attributes:
        path: of the file; of bytes, the name as a path.
        name: of the file, without its folder.
        graph: as it was read. It is everybody's: who edits, edits what `prepared` returns.

    Raises:
        ModelError: see `quantkit.graph.model.parse_model`.

    Example:
        >>> import onnx
        >>> node = onnx.helper.make_node("Relu", ["x"], ["y"])
        >>> x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy")
        >>> opset = onnx.helper.make_opsetid("", 17)
        >>> proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=[opset])
        >>> model = FloatModel(proto.SerializeToString(), name="relu.onnx")
        >>> model.name, model.inputs[0].shape, len(model.hash)
        ('relu.onnx', (1, 4), 64)
    """

    def __init__(self, source: PathLike | bytes, *, name: str | None = None) -> None:
        if isinstance(source, bytes):
            self.path = Path(name or "model.onnx")
            self.graph = parse_model(source, str(self.path))
            self._states: tuple[_FileState, ...] = ()
        else:
            self.path = Path(source)
            with open_file(self.path) as stream:
                status = os.fstat(stream.fileno())
                self.graph = parse_model(stream.read(), str(self.path), folder=self.path.parent)
            self._states = (
                _FileState.of(self.path, status),
                *(_FileState.of(path, path.stat()) for path in external_files(self.graph)),
            )
        self.name = unicode_text(name or self.path.name)
        load_external_weights(self.graph, str(self.path))
        self._mapped = frozenset(external_files(self.graph))
        self._prepared: dict[int, ir.Model] = {}
        self._fixed: Mapping[str, Array] = {}

    @classmethod
    def open(cls, model: PathLike | FloatModel) -> FloatModel:
        """The model at a path; one that is open already is returned as it is."""
        return model if isinstance(model, FloatModel) else cls(model)

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of graph and weights, as `quantkit.graph.model.model_hash` defines it."""
        return model_hash(self.graph)

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a caller must feed; see `quantkit.graph.model.input_specs`."""
        return input_specs(self.graph)

    @cached_property
    def is_quantized(self) -> bool:
        """Whether it holds Q/DQ or quantized operators."""
        return has_qdq(self.graph)

    @property
    def source_files(self) -> tuple[Path, ...]:
        """The files that it was read from: itself, and its external data; none for bytes."""
        return tuple(state.path for state in self._states)

    @property
    def size_bytes(self) -> int:
        """Bytes of its files, when they were read."""
        return sum(state.size for state in self._states)

    def prepared(self, opset: int = OLDEST_QDQ_OPSET) -> ir.Model:
        """A copy to edit, brought into the form of `quantkit.graph.passes.prepare`; weights are shared, not copied.

        Args:
            opset: the oldest opset that will do.

        Raises:
            ModelError: see `prepare`.
        """
        opset = min(max(opset, self.graph.opset_imports[""]), NEWEST_OPSET)
        if opset not in self._prepared:
            self._prepared[opset] = prepare(self._copied(), name=self.name, opset=opset, fixed=self._fixed)
        return _copy(self._prepared[opset])

    def _copied(self) -> ir.Model:
        """A copy of the graph as read. onnx_ir copies only what is in topological order: others are sorted first."""
        try:
            return _copy(self.graph)
        except RuntimeError:
            self.hash  # noqa: B018 - of the graph as it was read, before its nodes change places
        try:
            self.graph.graph.sort()
            return _copy(self.graph)
        except Exception as error:  # a cycle, a call that does not fit its function
            raise ModelError(f"{self.name}: invalid graph: {root_cause(error)}") from error

    def with_graph(self, graph: ir.Model) -> FloatModel:
        """This model with a part of its graph in the place of the whole; name, hash and files stay."""
        part = copy.copy(self)
        part.__dict__ |= {"hash": self.hash, "graph": graph, "_prepared": {}}
        return part

    def fixing(self, values: Mapping[str, Array]) -> FloatModel:
        """This model as it is when these inputs have these values: `prepared` takes the branches that they decide."""
        if self._fixed or not values:
            return self
        fixed = copy.copy(self)
        fixed.__dict__ |= {"hash": self.hash, "_fixed": values, "_prepared": {}}
        return fixed

    def check_float(self) -> None:
        """Raises `ModelError` if it is quantized already."""
        if self.is_quantized:
            raise ModelError(f"{self} is already quantized: pass the float model")

    def check_unchanged(self, *, also_itself: bool = False) -> None:
        """Refuses files that were replaced or written to since they were opened, before anything is made of them.

        Args:
            also_itself: for whoever gave the path to a parser of its own; else only memory-mapped weights count.

        Raises:
            ModelError: naming the file.
        """
        for state in self._states:
            if (also_itself or state.path in self._mapped) and not state.is_current():
                raise ModelError(f"{state.path} was changed while it was in use: run again")

    def serialized(self, folder: PathLike) -> bytes | Path:
        """The model as it was read, for a parser of another library: its file, or what is made of bytes in `folder`."""
        return self.path if self._states else serialize_model(self.graph, folder)


def _copy(model: ir.Model) -> ir.Model:
    """A copy that shares nothing but weights; onnx_ir's own shares types, which change with the dtype of a value."""
    copied = model.clone()
    for graph in copied.graphs():
        produced = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *produced):
            value.type = copy.deepcopy(value.type)
    return copied


@dataclass(frozen=True)
class _FileState:
    """What changes when a file is replaced or written to."""

    path: Path
    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> _FileState:
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def is_current(self) -> bool:
        try:
            return self == self.of(self.path, self.path.stat())
        except OSError:
            return False
