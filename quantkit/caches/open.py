"""Opening calibration files of any origin, and the float models that they are used with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.caches.complete import constant_ranges
from quantkit.caches.formats.detect import read_ranges
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.caches.range_cache import RangeCache
from quantkit.calibration.json_text import decode_json
from quantkit.calibration.table import TABLE_KEY
from quantkit.errors import CalibrationError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.prepare import has_qdq
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.graph.qdq_scales import activation_scales
from quantkit.machine import read_input
from quantkit.storage import check_no_source
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.calibration import TensorRange

if TYPE_CHECKING:
    import onnx_ir as ir


def open_cache(path: PathLike) -> RangeCache:
    """Reads any file that holds ranges; what it is, its content says.

    Raises:
        QuantKitError: it is none, or is broken; the message names the file.
    """
    file = Path(path)
    if file.suffix.lower() in (".onnx", ".pb"):
        return _from_qdq(file)
    try:
        return read_ranges(file)
    except CalibrationError as error:
        if not file.is_file():
            raise
        try:
            return _from_qdq(file)
        except ModelError:
            raise error from None


def read_map(path: PathLike) -> dict[str, str]:
    """Old name → new name from a JSON object.

    Raises:
        CalibrationError: it is none.
    """
    content = read_input(path, CalibrationError, "map")
    names = decode_json(content, name=f"map {path}", kind="a JSON object of old name → new name")
    if not isinstance(names, dict):
        raise CalibrationError(f"map {path} is not a JSON object of old to new names")
    if wrong := [old for old, new in names.items() if not isinstance(new, str)]:
        raise CalibrationError(f"map {path}: the new name of {wrong[0]!r} is not text")
    return names


def read_cache_of_model(path: Path, graph: ir.Model, model_name: str) -> bytes:
    """Content of TensorRT's cache, if most of its tensors are the model's: it says nothing else of what it belongs to.

    Args:
        path: of the cache.
        graph: the prepared float model.
        model_name: of its file.

    Raises:
        CalibrationError: it is no cache, or another model's.
    """
    content = read_input(path, CalibrationError, "--calib")
    try:
        named = parse_cache(content.decode(), name=path.name).scale_bits
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is not a TensorRT calibration cache: {error}") from error
    known = named.keys() & {*float_activations(graph), *constant_ranges(graph)}
    # TensorRT names some tensors itself; another model shares a name or two ("input", "output").
    if 2 * len(known) < len(named) or not known:
        count = f"{len(known)} of its {len(named)} tensors are"
        raise CalibrationError(f"{path.name} belongs to another model than {model_name}: only {count} of this one")
    return content


def check_no_input(
    output: PathLike,
    *sources: PathLike | CalibrationTable | None,
    models: Sequence[PathLike | FloatModel | None] = (),
    option: str = "-o",
) -> None:
    """Raises `OutputError` where writing `output` would replace a source, a model or a file of its weights."""
    paths = [model.path if isinstance(model, FloatModel) else model for model in models]
    check_no_source(
        output, [path for path in (*sources, *paths) if isinstance(path, (str, os.PathLike))], option=option
    )
    if not Path(output).exists():
        return
    for model in models:
        if model is not None:
            check_no_source(output, FloatModel.open(model).source_files, option=option)


def _from_qdq(file: Path) -> RangeCache:
    model = FloatModel(file).graph
    if not has_qdq(model):
        raise ModelError(f"{file} has no Q/DQ and thus no ranges: pass a quantized model, a table or a cache")
    found, unread = activation_scales(model)
    if not found:
        raise ModelError(f"{file}: no activation has Q/DQ with one constant scale")
    tensors = {}
    for name, read in found.items():
        if read.is_symmetric:
            tensors[name] = TensorRange(127 * read.scale)
        else:
            amax = max(-read.minimum, read.maximum)
            note = f"asymmetric: {read.minimum:.6g} to {read.maximum:.6g}"
            tensors[name] = TensorRange(amax, read.minimum, read.maximum, note, is_asymmetric=True)
    notes = tuple(f"{name!r} is not read: {reason}" for name, reason in unread.items())
    return RangeCache(file.name, "qdq", tensors, notes=notes, made_of=model.metadata_props.get(TABLE_KEY, ""))
