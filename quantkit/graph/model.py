"""Reading, identifying, checking and writing ONNX models. What is done to the graph is left to the other modules."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from quantkit.errors import ModelError
from quantkit.graph.validation import check_content
from quantkit.storage import write_atomically, write_bytes
from quantkit.types import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "LARGE_MODEL_BYTES",
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "check_model",
    "float_precision",
    "input_specs",
    "load_model",
    "model_hash",
    "quiet",
    "save_model",
    "serialize_model",
    "size_bytes",
    "source_files",
    "weight_bytes",
]

OLDEST_OPSET = 11
"""Older models have Clip and Pad with attributes instead of inputs and predate every current exporter."""

NEWEST_OPSET = 24
"""Newest opset that the placement rules were checked against."""

LARGE_MODEL_BYTES = 1 << 30
"""From here on weights go to an external file: one protobuf message cannot exceed 2 GiB."""

_SMALL_TENSOR_BYTES = 1 << 16


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Reads a model; large external data stays on disk until it is used.

    Raises:
        ModelError: the file is missing, no ONNX model, empty, of an unsupported opset, or its external data is missing.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(
            f"{file}: no such model file" if not file.is_dir() else f"{file} is a folder, not an ONNX model"
        )
    try:
        with quiet():
            model = ir.load(file, format="protobuf")
    except Exception as error:
        raise ModelError(f"{file} is not an ONNX model: {_first_line(error)}") from error
    if len(model.graph) == 0:
        raise ModelError(f"{file} is not an ONNX model, or has no node")
    if "ai.onnx" in model.opset_imports:  # the other name of the standard domain
        model.opset_imports.setdefault("", model.opset_imports.pop("ai.onnx"))
    opset = model.opset_imports.get("", 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        fix = "export it again with opset 17" if opset < OLDEST_OPSET else "export it with an older opset"
        raise ModelError(f"{file}: opset {opset} is not supported ({OLDEST_OPSET} to {NEWEST_OPSET} are): {fix}")
    check_content(model, str(file))
    for value in _external_weights(model):
        _check_external(value, file)
    try:
        _load_small_weights(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: a weight in an external data file cannot be read: {_first_line(error)}") from error
    return model


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


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Model inputs that a caller must feed: initializers listed as inputs are left out.

    Raises:
        ModelError: an input has no tensor type or an unknown rank.
    """
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if value.dtype is None or value.shape is None:
            raise ModelError(f"input {value.name!r} has no type or an unknown rank: export the model with shapes")
        shape = tuple(d if isinstance(d, int) else (d.value or None) for d in value.shape)
        try:
            dtype = np.dtype(value.dtype.numpy())
        except TypeError as error:
            raise ModelError(f"input {value.name!r} has a type that no array has ({value.dtype.name})") from error
        specs.append(TensorSpec(str(value.name), dtype, shape))
    return tuple(specs)


def float_precision(model: ir.Model) -> Literal["fp32", "fp16"]:
    """What most of the floating-point weights are: "fp16" or "fp32"."""
    sizes = {ir.DataType.FLOAT: 0, ir.DataType.FLOAT16: 0}
    tensors = [value.const_value for value in model.graph.initializers.values()]
    tensors += [ir.convenience.get_const_tensor(n.outputs[0]) for n in model.graph if n.op_type == "Constant"]
    for tensor in tensors:
        if tensor is not None and tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.size
    return "fp16" if sizes[ir.DataType.FLOAT16] > sizes[ir.DataType.FLOAT] else "fp32"


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def source_files(model: ir.Model, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files that a model at `path` consists of: itself, and its external data."""
    return (Path(path), *sorted(_external_files(model)))


def size_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of a model on disk, external data files included."""
    file = Path(path)
    model = ir.load(file, format="protobuf")
    return file.stat().st_size + sum(p.stat().st_size for p in _external_files(model))


def check_model(model: ir.Model, name: str) -> None:
    """Runs onnx.checker with shape inference over `model`, without its large weights.

    Raises:
        ModelError: naming `name` and what the checker says.
    """
    try:
        with quiet():
            passes.CheckerPass(full_check=True)(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ir.passes.PassError) as error:
        cause = error.__cause__ or error
        raise ModelError(f"{name} does not pass onnx.checker: {_first_line(cause)}") from error


def serialize_model(model: ir.Model, folder: str | os.PathLike[str]) -> bytes | Path:
    """The model for a runtime: bytes, or a file with external data in `folder` from `LARGE_MODEL_BYTES` on."""
    if weight_bytes(model) < LARGE_MODEL_BYTES:
        return _serialized(model)
    path = Path(folder) / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    return path


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Writes a model atomically: one file, or with an external data file `<name>.data` next to it when it is large.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: naming the file that cannot be written.
    """
    target = Path(path)
    if weight_bytes(model) < LARGE_MODEL_BYTES:
        write_bytes(target, _serialized(model))
        return (target,)
    # The content's hash is part of the data file's name, so that an interrupted run cannot pair an old model
    # with new weights: the model file, renamed last, is what makes the pair current.
    data = target.with_name(f"{target.name}.{model_hash(model)[:12]}.data")
    written: list[Path] = []

    def write_model(temporary: Path) -> None:
        ir.save(model, temporary, format="protobuf", external_data=data.name)
        written.append(data)

    write_atomically(target, write_model)
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{12}\.data")
    for stale in target.parent.iterdir():
        if stale != data and ours.fullmatch(stale.name):
            stale.unlink(missing_ok=True)
    return (target, *written)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the loggers of onnx_ir and onnxscript: what they have to say becomes our error or is harmless."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _external_weights(model: ir.Model) -> list[ir.Value]:
    """Initializers of all graphs, sub-graphs included, whose values are in another file."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [value for value in values if isinstance(value.const_value, ir.ExternalTensor)]


def _external_files(model: ir.Model) -> set[Path]:
    tensors = [value.const_value for value in _external_weights(model)]
    return {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def _check_external(value: ir.Value, file: Path) -> None:
    tensor = value.const_value
    if not isinstance(tensor, ir.ExternalTensor):
        return
    where = f"{file}: the external data file {tensor.location}"
    if not os.path.isfile(tensor.path):  # Path would take "weights/" for "weights"
        raise ModelError(f"{where} of weight {value.name!r} is missing")
    offset, length = tensor.offset or 0, tensor.length
    try:
        needed = tensor.nbytes
    except TypeError as error:  # no element type
        raise ModelError(f"{file}: weight {value.name!r} has no type") from error
    if offset < 0 or needed < 0 or (length is not None and length < needed):
        raise ModelError(f"{where} has {length} bytes from {offset} for weight {value.name!r}, which takes {needed}")
    if Path(tensor.path).stat().st_size < offset + (length or needed):
        raise ModelError(f"{where} ends before weight {value.name!r} does")


def _load_small_weights(model: ir.Model) -> None:
    """Reads the external values that onnx's checker and shape inference look at: they do not find the file.

    Those are small ones of the main graph (shapes, axes; large ones are hidden from both) and all of sub-graphs.
    """
    for value in _external_weights(model):
        tensor = value.const_value
        if tensor is not None and (tensor.nbytes <= _SMALL_TENSOR_BYTES or value.graph is not model.graph):
            value.const_value = ir.Tensor(tensor.numpy().copy(), name=value.name)


def _serialized(model: ir.Model) -> bytes:
    # External weights are loaded first: a serialized external tensor would keep its reference to the old file.
    for value in _external_weights(model):
        if value.const_value is not None:
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)
    with quiet():
        return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _feed_graph(graph: ir.Graph, feed: Feed) -> None:
    for value in graph.inputs:
        feed("input", value.name, str(value.dtype), str(value.shape))
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        if tensor is not None:
            feed("initializer", name, *_tensor_words(tensor))
    for node in graph:
        _feed_node(node, feed)
    feed("outputs", [v.name for v in graph.outputs])


def _feed_node(node: ir.Node, feed: Feed) -> None:
    feed(node.domain, node.op_type, node.overload)
    outputs = [v.name for v in node.outputs]
    while outputs and not outputs[-1]:  # one that nobody reads: written again, the model does not list it
        outputs.pop()
    feed([v.name if v is not None else "" for v in node.inputs], outputs)
    _feed_attributes(node.attributes, feed)


def _feed_attributes(attributes: Mapping[str, ir.Attr], feed: Feed) -> None:
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
    return (str(tensor.dtype), shape, hashlib.sha256(tensor.tobytes()).hexdigest())


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


if TYPE_CHECKING:
    from typing import Protocol

    class Feed(Protocol):
        def __call__(self, *words: object) -> None: ...
