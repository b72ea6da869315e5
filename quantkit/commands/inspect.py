"""What is inside a file: an engine, an ONNX model, a calibration cache or a calibration table. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.tensorrt.build.manifest import describe_build, may_run_host_code
from quantkit.backends.tensorrt.inspection.engine_reader import read_engine
from quantkit.backends.tensorrt.inspection.inspector import join_profile, parse_inspector
from quantkit.caches.inspection import CacheInspection, TableInspection, inspect_table, inspect_tensorrt_cache
from quantkit.caches.siblings import describe_provenance
from quantkit.calibration.json_text import decode_json
from quantkit.calibration.statistics_file import is_statistics_file
from quantkit.calibration.table import FORMAT, TABLE_KEY
from quantkit.errors import BackendError, CalibrationError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.inspection import ModelInspection, inspect_model
from quantkit.machine import open_regular
from quantkit.types import PathLike

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayers

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
_ENGINE_MAGICS = (b"ftrt", b"ptrt", b"vtrt")


@dataclass(frozen=True)
class EngineInspection:
    """An engine, and what its manifest says of it where one stands next to it."""

    path: Path
    engine_layers: EngineLayers
    made_of: Mapping[str, str] = field(default_factory=dict)


Inspection = EngineInspection | ModelInspection | CacheInspection | TableInspection


def inspect(
    path: PathLike, *, profile: PathLike | None = None, measure: bool = False, plugins: Sequence[PathLike] = ()
) -> Inspection:
    """Finds out by its content what a file is, and what is in it.

    Args:
        path: an engine (.engine, .plan), an engine inspector's JSON, an ONNX model, a calibration cache, or a
            calibration table.
        profile: layer times of the engine, as trtexec --exportProfile writes them.
        measure: time the layers of an engine here, in a pass of its own; needs its GPU.
        plugins: libraries of TensorRT plugins that an engine needs.

    Raises:
        QuantKitError: it is none of them, or cannot be read; the message names the file and the fix.
    """
    file = Path(path)
    head = _read(file, 1 << 12)
    is_engine = file.suffix.lower() in _ENGINE_SUFFIXES or head[:4] in _ENGINE_MAGICS
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and not is_engine:
        raise ModelError(f"{file} is UTF-16 text, as written by > in PowerShell: save it as UTF-8")
    is_json = text[:1] in (b"{", b"[") and not is_engine
    if (profile is not None and not (is_engine or is_json)) or (measure and not is_engine):
        raise BackendError(f"{file} is not an engine: --profile and --measure are for the layer times of engines")
    if is_engine:
        return _inspect_engine(file, profile, measure=measure, plugins=plugins)
    if is_json:
        return _inspect_json(file, profile)
    if head.startswith(b"TRT-"):
        return inspect_tensorrt_cache(_read(file), file)
    if is_statistics_file(file):
        raise ModelError(f"{file} contains calibration statistics: use `quantkit cache show`")
    if file.suffix.lower() in (".onnx", ".pb"):
        return _inspect_model(file)
    if file.suffix.lower() in (".calib", ".cache", ".txt"):
        return inspect_tensorrt_cache(_read(file), file)
    try:
        return _inspect_model(file)
    except ModelError as error:
        kinds = "an engine, an inspector JSON, an ONNX model, a calibration cache or a calibration table"
        raise ModelError(f"{file} is not a file that can be inspected: expected {kinds}") from error


def _read(file: Path, size: int = -1) -> bytes:
    try:
        with open_regular(file) as stream:
            return stream.read(size)
    except OSError as error:
        why = "it is a folder; pass a file in it" if file.is_dir() else error.strerror or error
        raise ModelError(f"cannot read {file}: {why}") from error


def _inspect_engine(
    file: Path, profile: PathLike | None, *, measure: bool, plugins: Sequence[PathLike]
) -> EngineInspection:
    host_code = may_run_host_code(file)
    engine_layers = read_engine(_read(file), name=str(file), measure=measure, plugins=plugins, host_code=host_code)
    return EngineInspection(file, _with_profile(engine_layers, profile), describe_build(file))


def _inspect_json(file: Path, profile: PathLike | None) -> Inspection:
    content = _read(file)
    try:
        data = decode_json(content, name=str(file), kind="a calibration table or an inspector's JSON")
    except CalibrationError as error:
        raise ModelError(str(error)) from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        if profile is not None:
            raise BackendError(f"{file} is a calibration table: --profile is for the layer times of engines")
        return inspect_table(file)
    if isinstance(data, dict) and data.get("format") == "quantkit engine":
        raise ModelError(f"{file} is the manifest of an engine: inspect {file.with_suffix('')}")
    if isinstance(data, list) and any(isinstance(x, dict) and "timeMs" in x for x in data):
        raise BackendError(f"{file} is a profile: inspect the engine's inspector JSON with --profile {file}")
    engine_layers = parse_inspector(content, name=str(file))
    return EngineInspection(file, _with_profile(engine_layers, profile))


def _with_profile(engine_layers: EngineLayers, profile: PathLike | None) -> EngineLayers:
    return engine_layers if profile is None else join_profile(engine_layers, _read(Path(profile)), name=str(profile))


def _inspect_model(file: Path) -> ModelInspection:
    model = FloatModel(file)
    provenance = describe_provenance(file, model.graph.metadata_props.get(TABLE_KEY, ""))
    found = inspect_model(model)
    return replace(found, notes=(*provenance, *found.notes))
