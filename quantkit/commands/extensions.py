"""Operators that a runtime lacks: the user's libraries are loaded, and a model is cut in front of what nobody runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.onnxruntime import has_operator, using_extensions
from quantkit.backends.tensorrt.library import load_library
from quantkit.backends.tensorrt.plugins import load_plugins
from quantkit.caches.reuse import check_table
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.graph.runnable_part import runnable_part
from quantkit.machine import read_file
from quantkit.notices import Notice, Notify, join_names
from quantkit.types.calibration import NOT_OBSERVED

if TYPE_CHECKING:
    from quantkit.types import CalibrationTable, PathLike
    from quantkit.types.options import ExtensionOptions

_FIX = "--ort-extension LIBRARY brings kernels"


@contextmanager
def with_extensions(options: ExtensionOptions) -> Iterator[None]:
    """ONNX Runtime has the user's operators meanwhile, TensorRT the plugins from now on.

    Raises:
        BackendError: a library is missing or does not load.
    """
    if options.plugins:
        load_plugins(load_library("tensorrt"), options.plugins)
    with using_extensions(options.ort_extension):
        yield


def extension_identity(options: ExtensionOptions) -> str:
    """What tells ONNX Runtime's libraries from others of the same name; "" without any."""
    hashes = (hashlib.sha256(read_file(path, most_bytes=None)).hexdigest() for path in options.ort_extension)
    return ",".join(f"{Path(p).name}:{found[:16]}" for p, found in zip(options.ort_extension, hashes, strict=True))


def cut_to_runnable(model: FloatModel, notify: Notify) -> FloatModel:
    """The part of a model that ONNX Runtime can run; says in front of which operators it ends."""
    part, obstacles = runnable_part(model, has_operator)
    if obstacles:
        text = f"Calibration stops in front of {join_names(obstacles)}: ONNX Runtime has no such operator. What lies "
        notify(Notice("warning", "model", f"{text}behind stays in float; {_FIX}."))
    return part


def unobserved_tensors(model: FloatModel, part: FloatModel) -> dict[str, str]:
    """What lies behind a model's runnable part, with the reason for which no range is known."""
    if part is model:
        return {}
    seen = set(float_activations(part.prepared()))
    return {name: NOT_OBSERVED for name in float_activations(model.prepared()) if name not in seen}


def open_runnable(model: PathLike | FloatModel, table: CalibrationTable | None, said: object = None) -> FloatModel:
    """A float model that ONNX Runtime runs as a whole; one with Q/DQ, or of another table, is refused."""
    model = FloatModel.open(model)
    if model.is_quantized:
        raise ModelError(f"{model} is already quantized: pass the float model, and this one as --variant NAME={model}")
    if table is not None:
        check_table(table, model)
    _, obstacles = runnable_part(model, has_operator)
    if obstacles:
        raise ModelError(f"{model.name}: ONNX Runtime has no operator for {join_names(obstacles)}: {_FIX}")
    return fix_as_calibrated(model, table, said)
