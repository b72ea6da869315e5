"""Types and formats of inputs, outputs and layers, as trtexec's --inputIOFormats and --layerPrecisions set them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError

TYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "bool": "bool",
}
"""Names of trtexec, and of TensorRT's Python module."""

_OF_LAYERS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class IoFormat:
    """Type and memory format of an input or output, such as "fp16" and "chw"."""

    name: str
    type: str
    format: str

    def __str__(self) -> str:
        return f"{self.name}:{self.type}:{self.format}"


@dataclass(frozen=True)
class LayerPrecision:
    """Precision of the layers whose name matches a pattern."""

    pattern: str
    type: str

    def __str__(self) -> str:
        return f"{self.pattern}:{self.type}"


def parse_io_formats(words: Sequence[str]) -> tuple[IoFormat, ...]:
    """Reads NAME:TYPE:FORMAT; a name may hold colons.

    >>> parse_io_formats(["input_1:0:fp16:chw"])
    (IoFormat(name='input_1:0', type='fp16', format='chw'),)
    """
    formats = []
    for word in (part for text in words for part in text.split(",")):
        parts = word.rsplit(":", 2)
        if len(parts) != 3 or not parts[0] or parts[1].lower() not in TYPES:
            raise ValueError(f"{word!r} is not NAME:TYPE:FORMAT, such as input:fp16:chw; types: {', '.join(TYPES)}")
        formats.append(IoFormat(parts[0], parts[1].lower(), parts[2].lower()))
    return tuple(formats)


def parse_layer_precisions(words: Sequence[str]) -> tuple[LayerPrecision, ...]:
    """Reads NAME:TYPE; a name may hold colons and "*".

    >>> parse_layer_precisions(["head*:fp32"])
    (LayerPrecision(pattern='head*', type='fp32'),)
    """
    found = []
    for word in (part for text in words for part in text.split(",")):
        pattern, _, kind = word.rpartition(":")
        if not pattern or kind.lower() not in _OF_LAYERS:
            raise ValueError(f"{word!r} is not NAME:TYPE, such as conv1:fp16; types: {', '.join(_OF_LAYERS)}")
        found.append(LayerPrecision(pattern, kind.lower()))
    return tuple(found)


def set_io_formats(library: Library, network: Any, formats: Sequence[IoFormat], *, strong: bool) -> None:
    """Sets types and formats of inputs and outputs.

    Raises:
        BackendError: there is no such tensor or format, or a strongly typed network has another type.
    """
    trt = library.module
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    tensors = {t.name: t for t in (*inputs, *(network.get_output(i) for i in range(network.num_outputs)))}
    for wanted in formats:
        if wanted.name not in tensors:
            raise BackendError(f"--io-formats {wanted}: the model has no such input or output: {', '.join(tensors)}")
        if not hasattr(trt.TensorFormat, known := {"chw": "linear"}.get(wanted.format, wanted.format).upper()):
            names = ", ".join(name.lower() for name in trt.TensorFormat.__members__)
            raise BackendError(f"--io-formats {wanted}: {library.title} knows {names}")
        tensor, kind = tensors[wanted.name], getattr(trt, TYPES[wanted.type], None)
        if kind is None:
            raise BackendError(f"--io-formats {wanted}: {library.title} has no type {wanted.type}")
        if strong and tensor.dtype != kind:
            raise BackendError(
                f"--io-formats {wanted}: in a strongly typed network the tensor is {tensor.dtype.name}, as in the model"
                "; --mode implicit (TensorRT up to 10) takes others"
            )
        if not strong:
            tensor.dtype = kind
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, known))


def set_layer_precisions(library: Library, network: Any, wanted: Sequence[LayerPrecision]) -> None:
    """Sets the precision of layers by name; the last pattern that matches counts.

    Raises:
        BackendError: a pattern matches no layer.
    """
    trt = library.module
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for one in wanted:
        matching = [layer for layer in layers if fnmatchcase(layer.name, one.pattern)]
        if not matching:
            raise BackendError(f"--layer-precisions {one}: no layer has that name")
        for layer in matching:
            layer.precision = getattr(trt, TYPES[one.type])
