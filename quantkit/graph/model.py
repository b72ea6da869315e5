"""Reading, identifying, checking and writing ONNX models. What is done to the graph is left to the other modules."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from quantkit.errors import MachineError, ModelError
from quantkit.graph.expansion import check_expansion
from quantkit.graph.model_hash import ARRAY_TYPES, model_hash
from quantkit.graph.unknown_operators import put_back
from quantkit.graph.validation import check_content, unname_repeated
from quantkit.machine import is_out_of_memory, open_regular, raise_if_out_of_memory
from quantkit.notices import logs_duration
from quantkit.registry import nearest_file
from quantkit.storage import rename_durably, temporary_folder, write_atomically, write_bytes
from quantkit.types import SharedModel, TensorSpec

OLDEST_READABLE_OPSET = 7
"""onnx's version converter and ONNX Runtime begin here."""

OLDEST_OPSET = 11
"""What a prepared model has at least: before, Clip and Pad have attributes instead of inputs."""

NEWEST_OPSET = 24
"""Newest opset that the placement rules were checked against, and what a prepared model has at most."""

LARGE_MODEL_BYTES = 1 << 30
"""From here on weights go to an external file: one protobuf message cannot exceed 2 GiB."""

_SMALL_TENSOR_BYTES = 1 << 16


def open_file(file: Path) -> BinaryIO:
    """A model file, opened for reading.

    Raises:
        ModelError: it is missing, a folder, or cannot be read.
    """
    if not file.is_file():
        what = "no such model file" + nearest_file(file)
        if os.path.lexists(file):
            what = "a link to nothing, or in a circle" if not file.exists() else "a device or pipe, not an ONNX model"
        raise ModelError(f"{file} is a folder, not an ONNX model" if file.is_dir() else f"{file}: {what}")
    try:
        return open_regular(file)
    except OSError as error:
        raise ModelError(f"{file} is not an ONNX model: {root_cause(error)}") from error


@logs_duration
def parse_model(content: bytes, name: str, *, folder: Path | None = None) -> ir.Model:
    """The model in `content`; its weights are arrays in memory, external ones references to files in `folder`.

    Args:
        content: a serialized ModelProto.
        name: for messages.
        folder: of external data; None where there can be none.

    Raises:
        ModelError: no ONNX model, empty, of an unsupported opset, damaged, or its external data is missing.
    """
    try:
        with quiet():
            proto = onnx.ModelProto.FromString(content)
            del content  # large, like everything that is let go of here
            weights = _take_weights(proto)
            # Parsed anew, since all parts of a message keep the memory of the whole.
            model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
            del proto
            for name_of_weight, tensor in weights.items():
                model.graph.initializers[name_of_weight].const_value = tensor
            ir.external_data.set_base_dir(model.graph, "" if folder is None else str(folder))
    except Exception as error:
        is_torch = name.lower().endswith((".pt", ".pth"))
        why = "export it first (torch.onnx.export, `yolo export format=onnx`)" if is_torch else root_cause(error)
        raise ModelError(f"{name} is not an ONNX model: {why}") from error
    if len(model.graph) == 0:
        raise ModelError(f"{name} is not an ONNX model, or has no nodes")
    if "ai.onnx" in model.opset_imports:  # the other name of the standard domain
        model.opset_imports.setdefault("", model.opset_imports.pop("ai.onnx"))
    opset = model.opset_imports.get("", 0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_READABLE_OPSET <= opset <= newest:
        fix = "export it again with opset 17" if opset < OLDEST_OPSET else "export it with an older opset"
        raise ModelError(f"{name}: opset {opset} is not supported ({OLDEST_READABLE_OPSET} to {newest} are): {fix}")
    check_expansion(model, name)  # first: what is in a message below is bounded then
    check_content(model, name)
    unname_repeated(model)
    for value in _external_weights(model):
        if folder is None:
            raise ModelError(f"{name}: weight {value.name!r} is in another file: pass the path of the model")
        _follow_link(value, name)
        _check_external(value, name)
    return model


def load_external_weights(model: ir.Model, name: str) -> None:
    """Reads external data into memory, all of it up to `LARGE_MODEL_BYTES`; else what onnx's own code looks at.

    That is small weights of the main graph (shapes, axes; large ones are hidden from checker and shape inference, which
    do not find the file) and all weights of sub-graphs.

    Raises:
        ModelError: a file cannot be read.
    """
    external = [(value, value.const_value) for value in _external_weights(model)]
    is_large = sum(tensor.nbytes for _, tensor in external if tensor is not None) > LARGE_MODEL_BYTES
    try:
        for value, tensor in external:
            if tensor is None or (is_large and tensor.nbytes > _SMALL_TENSOR_BYTES and value.graph is model.graph):
                continue
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=value.name)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: a weight in an external data file cannot be read: {root_cause(error)}") from error


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Model inputs that a caller must feed: initializers listed as inputs are left out.

    Raises:
        ModelError: an input has no tensor type or an unknown rank.
    """
    return _specs([value for value in model.graph.inputs if value.name not in model.graph.initializers], "input")


def output_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Model outputs.

    Raises:
        ModelError: an output has no tensor type or an unknown rank.
    """
    return _specs(model.graph.outputs, "output")


def _specs(values: Sequence[ir.Value], kind: str) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        if value.dtype is None or value.shape is None:
            raise ModelError(f"{kind} {value.name!r} has no type or an unknown rank: export the model with shapes")
        # Some exporters write -1 for a dynamic dimension.
        shape = tuple((d if d >= 0 else None) if isinstance(d, int) else (d.value or None) for d in value.shape)
        try:
            dtype = np.dtype(value.dtype.numpy())
        except TypeError as error:
            raise ModelError(f"{kind} {value.name!r} has an unsupported type ({value.dtype.name})") from error
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
        raise ModelError(f"{name} does not pass onnx.checker: {root_cause(cause)}") from error


_FAILED = threading.local()
_INFERENCE = logging.getLogger(passes.ShapeInferencePass.__module__)
_INFERENCE.setLevel(logging.WARNING)  # also where `quiet` silences its parent


def _keep_failure(record: logging.LogRecord) -> bool:
    """Takes what the inference of this thread failed with: onnx_ir logs it, and leaves the model as it was."""
    _FAILED.error = record.exc_info[1] if record.exc_info else None
    return False


_INFERENCE.addFilter(_keep_failure)


def infer_shapes(model: ir.Model) -> None:
    """Infers types and shapes in place, as far as onnx can; a model that it says no to stays as it was.

    Raises:
        MemoryError: for want of memory, which must not pass for an unknown shape.
    """
    _FAILED.error = None
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    if _FAILED.error is not None:
        raise_if_out_of_memory(_FAILED.error)


def serialize_model(model: ir.Model, folder: str | os.PathLike[str]) -> bytes | Path:
    """The model for a runtime: bytes, or a file with external data in `folder` from `LARGE_MODEL_BYTES` on."""
    if weight_bytes(model) < LARGE_MODEL_BYTES:
        return _serialized(model)
    path = Path(folder) / "model.onnx"
    with put_back(model):
        ir.save(model, path, external_data="model.onnx.data")
    return path


def share_weights(model: ir.Model) -> SharedModel:
    """The model for ONNX Runtime, which computes with the large weights where they lie instead of copying them."""
    initializers = model.graph.initializers
    tensors = {name: value.const_value for name, value in initializers.items() if value.const_value is not None}
    shared = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.nbytes > _SMALL_TENSOR_BYTES and tensor.dtype in ARRAY_TYPES
    }
    for name, tensor in shared.items():
        initializers[name].const_value = ir.ExternalTensor(
            "shared", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    try:
        content = _serialized(model, keep=shared)
    finally:
        for name, tensor in shared.items():
            initializers[name].const_value = tensor
    return SharedModel(content, {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in shared.items()})


@logs_duration
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
        with temporary_folder(beside=target) as folder:
            with put_back(model):
                ir.save(model, folder / "model", format="protobuf", external_data=data.name)
            temporary.write_bytes((folder / "model").read_bytes())
            rename_durably(folder / data.name, data)  # now that all is on the disk: no data stay without a model
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


def external_files(model: ir.Model) -> tuple[Path, ...]:
    """Files that hold weights of `model` which are not in memory."""
    tensors = [value.const_value for value in _external_weights(model)]
    return tuple(sorted({Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}))


def _follow_link(value: ir.Value, name: str) -> None:
    """Lets a weight be read where its link leads, if that is the folder where the link of the model leads too.

    Hugging Face's cache has both as links to `blobs`; onnx_ir reads no file through a link to another folder.
    """
    tensor = value.const_value
    if not isinstance(tensor, ir.ExternalTensor) or not os.path.islink(tensor.path):
        return
    file, folder = Path(tensor.path).resolve(), Path(name).resolve().parent
    if file.parent != folder:
        raise ModelError(
            f"{name}: the external data file {tensor.location} is a link to another folder, {file.parent}, than the "
            "model's: copy both with their links followed (cp -L)"
        )
    value.const_value = ir.ExternalTensor(
        file.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=str(value.name),
        base_dir=folder,
    )


def _check_external(value: ir.Value, name: str) -> None:
    tensor = value.const_value
    if not isinstance(tensor, ir.ExternalTensor):
        return
    where = f"{name}: the external data file {tensor.location}"
    if not os.path.isfile(tensor.path):  # Path would take "weights/" for "weights"
        raise ModelError(f"{where} of weight {value.name!r} is missing")
    offset, length = tensor.offset or 0, tensor.length
    try:
        needed = tensor.nbytes
    except TypeError as error:  # no element type
        raise ModelError(f"{name}: weight {value.name!r} has no type") from error
    if offset < 0 or needed < 0 or (length is not None and length < needed):
        raise ModelError(f"{where} has {length} bytes from {offset} for weight {value.name!r}, which takes {needed}")
    if Path(tensor.path).stat().st_size < offset + (length or needed):
        raise ModelError(f"{where} is too short for weight {value.name!r}")


def _take_weights(proto: onnx.ModelProto) -> dict[str, ir.TensorProtocol]:
    """Moves the large weights out of `proto`: a message copies its bytes whenever it is asked for them."""
    names = Counter(tensor.name for tensor in proto.graph.initializer)
    weights: dict[str, ir.TensorProtocol] = {}
    for tensor in proto.graph.initializer:
        content, dtype = tensor.raw_data, ARRAY_TYPES.get(tensor.data_type)  # a copy, each time it is asked for
        if len(content) <= _SMALL_TENSOR_BYTES or dtype is None or names[tensor.name] > 1:
            continue
        if len(content) != math.prod(tensor.dims) * dtype.itemsize:  # damaged: `check_content` says so
            continue
        array = np.frombuffer(content, dtype).reshape(tensor.dims)
        props = {prop.key: prop.value for prop in tensor.metadata_props}
        weights[tensor.name] = ir.Tensor(
            array, name=tensor.name, doc_string=tensor.doc_string or None, metadata_props=props
        )
        tensor.ClearField("raw_data")
    return weights


def _serialized(model: ir.Model, *, keep: Container[str] = ()) -> bytes:
    # External weights are loaded first: a serialized external tensor would keep its reference to the old file.
    for value in _external_weights(model):
        if value.const_value is not None and not (value.name in keep and value.graph is model.graph):
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)
    with quiet(), put_back(model):
        return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def root_cause(error: BaseException) -> str:
    """First line of the original exception: passes of onnx_ir wrap it in their own.

    Raises:
        MachineError: it is for want of memory, which says nothing of the model.
    """
    if is_out_of_memory(error):
        raise MachineError(
            "not enough memory to read or edit the model, whose file may be fine: free some, or raise the limit"
        ) from error
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
