"""What is inside a file: an engine, an ONNX model, a calibration cache or a calibration table. Changes nothing."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.backends.tensorrt.build.manifest import is_engine_of, load_manifest, manifest_path
from quantkit.backends.tensorrt.inspection.engine_reader import read_engine
from quantkit.backends.tensorrt.inspection.inspector import join_profile, parse_inspector
from quantkit.caches.formats.detect import cache_from_table, ranges_from_bits
from quantkit.caches.formats.tensorrt_cache import ALGORITHMS, parse_cache
from quantkit.caches.provenance import describe_provenance
from quantkit.caches.ranges import version_from_number
from quantkit.calibration.json_text import decode_json
from quantkit.calibration.statistics_file import is_statistics_file
from quantkit.calibration.table import FORMAT, TABLE_KEY, load_table
from quantkit.errors import BackendError, CalibrationError, ModelError, QuantKitError
from quantkit.graph.model import OLDEST_OPSET, float_precision, load_model, size_bytes
from quantkit.graph.passes.prepare import has_qdq, prepare
from quantkit.graph.qdq_lint import lint_qdq, planned_operators, quantized_operators
from quantkit.types import CalibrationTable, PathLike

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayers
    from quantkit.caches.ranges import CachedRange
    from quantkit.graph.qdq_lint import Finding, Operator

__all__ = [
    "CacheInspection",
    "EngineInspection",
    "Inspection",
    "ModelInspection",
    "Port",
    "Sort",
    "TableInspection",
    "TensorRow",
    "inspect",
    "rows_from_ranges",
    "select_tensors",
]

Sort = Literal["network", "amax", "name"]

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
_ENGINE_MAGICS = (b"ftrt", b"ptrt", b"vtrt")


@dataclass(frozen=True)
class EngineInspection:
    """An engine, and what its manifest says of it where one stands next to it."""

    path: Path
    anatomy: EngineLayers
    made_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Port:
    """Input or output of a model: element type and shape as the file states them."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class ModelInspection:
    """An ONNX model.

    Attributes:
        form: "float", or "qdq" for one that holds Q/DQ or integer operators.
        precision: of most float weights, "fp32" or "fp16".
        weight_types: bytes of weights by element type.
        operators: every node of the graph; without Q and DQ in a quantized model.
        findings: where TensorRT does not do what the Q/DQ say; empty for a float model.
        notes: one sentence each.
    """

    path: Path
    form: Literal["float", "qdq"]
    precision: str
    opset: int
    ir_version: int
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size_bytes: int
    weight_types: Mapping[str, int]
    operators: tuple[Operator, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_weighted(self) -> int:
        """Convolutions and matrix products."""
        return sum(o.is_weighted for o in self.operators)

    @property
    def num_int8(self) -> int:
        """Those of them that are INT8, or that quantkit would make so."""
        return sum(o.is_weighted and o.is_int8 for o in self.operators)

    @property
    def left_in_float(self) -> tuple[Operator, ...]:
        """Weighted operators, and others with a reason, that are not INT8."""
        return tuple(o for o in self.operators if not o.is_int8 and (o.is_weighted or o.reason))


@dataclass(frozen=True)
class TensorRow:
    """Range of one tensor: `hex` is its scale's bits as TensorRT's cache has them; `flag` what is odd about it."""

    name: str
    amax: float
    scale: float
    hex: str
    flag: str = ""


@dataclass(frozen=True)
class CacheInspection:
    """TensorRT's calibration cache.

    Attributes:
        tensorrt_version: that wrote it, or that it was written for.
        algorithm: of the calibrator that reads it.
        meaning: what that means, one sentence each.
        tensors: in network order.
    """

    path: Path
    header: str
    tensorrt_version: str
    algorithm: str
    meaning: tuple[str, ...]
    tensors: tuple[TensorRow, ...]


@dataclass(frozen=True)
class TableInspection:
    """quantkit's calibration table, and its tensors as rows."""

    path: Path
    table: CalibrationTable
    tensors: tuple[TensorRow, ...]


Inspection = EngineInspection | ModelInspection | CacheInspection | TableInspection


def inspect(path: PathLike, *, profile: PathLike | None = None, measure: bool = False) -> Inspection:
    """Finds out by its content what a file is, and what is in it.

    Args:
        path: an engine (.engine, .plan), an engine inspector's JSON, an ONNX model, a calibration cache, or a
            calibration table.
        profile: layer times of the engine, as trtexec --exportProfile writes them.
        measure: time the layers of an engine here, in a pass of its own; needs its GPU.

    Raises:
        QuantKitError: it is none of them, or cannot be read; the message names the file and the fix.
    """
    file = Path(path)
    head = _read(file, 1 << 12)
    is_engine = file.suffix.lower() in _ENGINE_SUFFIXES or head[:4] in _ENGINE_MAGICS
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and not is_engine:
        raise ModelError(f"{file} is UTF-16 text, as PowerShell's > writes it: save it as UTF-8")
    is_json = text[:1] in (b"{", b"[") and not is_engine
    if (profile is not None and not (is_engine or is_json)) or (measure and not is_engine):
        raise BackendError(f"{file} is no engine: --profile and --measure are about the time of an engine's layers")
    if is_engine:
        return _inspect_engine(file, profile, measure=measure)
    if is_json:
        return _inspect_json(file, profile)
    if head.startswith(b"TRT-"):
        return _inspect_cache(file)
    if is_statistics_file(file):
        raise ModelError(f"{file} holds statistics of a calibration: 'quantkit cache show' shows them")
    if file.suffix.lower() in (".onnx", ".pb"):
        return _inspect_model(file)
    if file.suffix.lower() in (".calib", ".cache", ".txt"):
        return _inspect_cache(file)
    try:
        return _inspect_model(file)
    except ModelError as error:
        kinds = "an engine, an inspector JSON, an ONNX model, a calibration cache, a calibration table"
        raise ModelError(f"{file} is none of what can be inspected: {kinds}") from error


def select_tensors(
    tensors: Iterable[TensorRow], *, sort: Sort = "network", pattern: str | None = None
) -> list[TensorRow]:
    """Rows whose name matches a shell pattern, sorted: as in the network, by falling amax, or by name."""
    rows = [row for row in tensors if pattern is None or fnmatch.fnmatchcase(row.name, pattern)]
    if sort == "amax":
        rows.sort(key=lambda row: -row.amax)
    elif sort == "name":
        rows.sort(key=lambda row: row.name)
    return rows


def rows_from_ranges(ranges: Mapping[str, CachedRange]) -> tuple[TensorRow, ...]:
    """Ranges of any origin as rows."""
    return tuple(TensorRow(n, r.amax, r.scale, f"{r.scale_bits:x}", r.flag) for n, r in ranges.items())


def _read(file: Path, size: int = -1) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _inspect_engine(file: Path, profile: PathLike | None, *, measure: bool) -> EngineInspection:
    anatomy = read_engine(_read(file), name=str(file), measure=measure)
    return EngineInspection(file, _with_profile(anatomy, profile), _made_of(file))


def _inspect_json(file: Path, profile: PathLike | None) -> Inspection:
    content = _read(file)
    try:
        data = decode_json(content, name=str(file), kind="a calibration table or an inspector's JSON")
    except CalibrationError as error:
        raise ModelError(str(error)) from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        if profile is not None:
            raise BackendError(f"{file} is a calibration table: --profile is about the time of an engine's layers")
        return _inspect_table(file)
    if isinstance(data, dict) and data.get("format") == "quantkit engine":
        raise ModelError(f"{file} is the manifest of an engine: inspect {file.with_suffix('')}")
    if isinstance(data, list) and any(isinstance(x, dict) and "timeMs" in x for x in data):
        raise BackendError(f"{file} is a profile: inspect the engine's inspector JSON with --profile {file}")
    anatomy = parse_inspector(content, name=str(file))
    return EngineInspection(file, _with_profile(anatomy, profile))


def _with_profile(anatomy: EngineLayers, profile: PathLike | None) -> EngineLayers:
    return anatomy if profile is None else join_profile(anatomy, _read(Path(profile)), name=str(profile))


def _made_of(file: Path) -> dict[str, str]:
    """What the manifest next to an engine says; nothing where there is none, or it is another engine's."""
    path = manifest_path(file)
    if not path.is_file():
        return {}
    try:
        manifest = load_manifest(path)
    except QuantKitError as error:
        return {"manifest": f"unusable: {error}"}
    if not is_engine_of(manifest, file):
        return {"manifest": f"{path.name} is of another engine: build again, or delete it"}
    facts = {
        "model": f"{manifest.model_name} (hash {manifest.model_hash[:12]})",
        "asked for": f"{manifest.precision}, {manifest.mode}",
        "built with": f"{manifest.library} {manifest.library_version}",
        "built on": manifest.gpu or "",
        "excluded": ", ".join(manifest.exclude),
        "calibration": ", ".join(f"{key} {str(value)[:12]}" for key, value in manifest.table.items()),
    }
    return {key: value for key, value in facts.items() if value}


def _inspect_model(file: Path) -> ModelInspection:
    model = load_model(file)
    quantized = has_qdq(model)
    opset, outputs = model.opset_imports[""], _ports(model.graph.outputs)
    inputs = _ports(v for v in model.graph.inputs if v.name not in model.graph.initializers)
    weights: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            weights[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    precision = float_precision(model)
    notes: list[str] = []
    notes += describe_provenance(file, model.metadata_props.get(TABLE_KEY, ""))
    if quantized:
        # The oldest opset: what is inspected is the model as it is, not as it would be converted.
        operators = quantized_operators(prepare(model, name=file.name, opset=OLDEST_OPSET))
    else:
        prepare(model, name=file.name)
        try:
            operators = planned_operators(model)
        except ModelError as error:
            notes.append(str(error))
            operators = ()
    return ModelInspection(
        path=file,
        form="qdq" if quantized else "float",
        precision=precision,
        opset=opset,
        ir_version=model.ir_version or 0,
        producer=" ".join(word for word in (model.producer_name, model.producer_version) if word),
        inputs=inputs,
        outputs=outputs,
        size_bytes=size_bytes(file),
        weight_types=dict(weights.most_common()),
        operators=operators,
        findings=lint_qdq(model) if quantized else (),
        notes=tuple(notes),
    )


def _ports(values: Iterable[ir.Value]) -> tuple[Port, ...]:
    ports = []
    for value in values:
        shape = None
        if value.shape is not None:
            shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
        ports.append(Port(value.name or "", value.dtype.name.lower() if value.dtype else str(value.type), shape))
    return tuple(ports)


def _inspect_cache(file: Path) -> CacheInspection:
    try:
        text = _read(file).decode()
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{file} is no TensorRT calibration cache: it is not UTF-8 text") from error
    cache = parse_cache(text, name=str(file))
    version = version_from_number(cache.version)
    return CacheInspection(
        path=file,
        header=text.partition("\n")[0],
        tensorrt_version=version,
        algorithm=cache.algorithm,
        meaning=_cache_meaning(version, cache.algorithm, list(cache.scale_bits.values())),
        tensors=rows_from_ranges(ranges_from_bits(cache.scale_bits)),
    )


def _cache_meaning(version: str, algorithm: str, bits: list[int]) -> tuple[str, ...]:
    calibrator = {
        "EntropyCalibration2": "IInt8EntropyCalibrator2",
        "MinMaxCalibration": "IInt8MinMaxCalibrator",
        "EntropyCalibration": "IInt8EntropyCalibrator",
        "LegacyCalibration": "IInt8LegacyCalibrator",
    }.get(algorithm)
    sentences = [
        f"TensorRT {version} takes it with {calibrator or 'the calibrator of that name'}; another version or "
        "calibrator says that it does not match and calibrates again",
        "TensorRT 11 has no calibrators and takes no cache: give it the model with Q/DQ",
        "TensorRT does not check which model it belongs to; a tensor that is not listed stays in float",
    ]
    if algorithm not in ALGORITHMS:
        sentences.insert(0, f"{algorithm} is no algorithm of TensorRT's calibrators")
    if zeros := sum(b == 0 for b in bits):
        sentences.append(f"{zeros} tensors have scale 0: TensorRT 8.5 and later may fail to build with those")
    return tuple(sentences)


def _inspect_table(file: Path) -> TableInspection:
    table = load_table(file)
    return TableInspection(file, table, rows_from_ranges(cache_from_table(table, name=file.name).tensors))
