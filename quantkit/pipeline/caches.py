"""Files of calibrated ranges of any origin: reading, fitting to a model, converting. Checking: `cache_checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit._version import __version__
from quantkit.calibration.ranges import CacheDifference, CachedRange, RangeCache, difference
from quantkit.errors import CalibrationError, ModelError, StaleTableError
from quantkit.pipeline.data import PathLike, list_some
from quantkit.types import CalibrationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "CacheTarget",
    "Conversion",
    "Fit",
    "check_no_input",
    "convert_cache",
    "diff_caches",
    "fit_to_model",
    "load_float_model",
    "open_cache",
    "read_map",
]

CacheTarget = Literal["tensorrt", "table", "qdq", "ort", "ort-json", "ort-text", "json"]


@dataclass(frozen=True)
class Fit:
    """A cache laid over a prepared float model.

    Attributes:
        ranges: of activations of the model, in network order; those that inherit a range included.
        inherited: which of them are not in the cache, and take the range of what they copy or pool.
        missing: activations that INT8 needs and that have no range: tensor → reason.
        unlisted: other float activations without a range: TensorRT's implicit INT8 wants them too.
        foreign: names of the cache that the model does not have.
        needed: activations that INT8 reads, in network order.
        float_operators: operators that would be INT8 and stay in float for want of a range → the tensor.
    """

    ranges: Mapping[str, CachedRange]
    inherited: tuple[str, ...]
    missing: Mapping[str, str]
    unlisted: tuple[str, ...]
    foreign: tuple[str, ...]
    needed: tuple[str, ...]
    float_operators: Mapping[str, str]

    @property
    def matched(self) -> tuple[str, ...]:
        """Activations of the model that the cache lists."""
        return tuple(name for name in self.ranges if name not in self.inherited)


@dataclass(frozen=True)
class Conversion:
    """A file that was written: how many tensors, and what it does not carry, one sentence each."""

    path: Path
    target: CacheTarget
    num_tensors: int
    remarks: tuple[str, ...]


def open_cache(path: PathLike) -> RangeCache:
    """Reads any file that holds ranges; what it is, its content says.

    Raises:
        QuantKitError: it is none, or is broken; the message names the file.
    """
    from quantkit.calibration.formats import read_ranges

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


def diff_caches(first: PathLike, second: PathLike) -> CacheDifference:
    """Compares two files of any form, tensor by tensor."""
    return difference(open_cache(first), open_cache(second))


def read_map(path: PathLike) -> dict[str, str]:
    """Old name → new name from a JSON object.

    Raises:
        CalibrationError: it is none.
    """
    from quantkit.calibration.json_text import decode_json

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CalibrationError(f"cannot read map {path}: {error.strerror or error}") from error
    names = decode_json(content, name=f"map {path}", kind="a JSON object of old name → new name")
    if not isinstance(names, dict):
        raise CalibrationError(f"map {path} is no JSON object of old name → new name")
    if wrong := [old for old, new in names.items() if not isinstance(new, str)]:
        raise CalibrationError(f"map {path}: the new name of {wrong[0]!r} is no text")
    return names


def load_float_model(model: PathLike) -> tuple[ir.Model, str]:
    """A float model, prepared, and its hash.

    Raises:
        ModelError: it cannot be read, or holds Q/DQ already.
    """
    from quantkit.graph.model import load_model, model_hash
    from quantkit.graph.prepare import has_qdq, prepare

    graph = load_model(model)
    identity = model_hash(graph)
    if has_qdq(graph):
        raise ModelError(f"{model} is quantized already: give the float model that the ranges are for")
    return prepare(graph, name=Path(model).name), identity


def check_no_input(
    output: PathLike, *sources: PathLike | None, models: Sequence[PathLike | None] = (), option: str = "-o"
) -> None:
    """Raises `OutputError` where writing `output` would replace a source, a model or a file of its weights."""
    from quantkit.graph.model import load_model, source_files
    from quantkit.storage import check_no_source

    check_no_source(output, [path for path in (*sources, *models) if path is not None], option=option)
    if not Path(output).exists():
        return
    for path in models:
        if path is not None:
            check_no_source(output, source_files(load_model(path), path), option=option)


def fit_to_model(cache: RangeCache, graph: ir.Model) -> Fit:
    """Lays ranges over a prepared float model, by name.

    Raises:
        ModelError: nothing of the model can be INT8.
    """
    from quantkit.calibration.ranges import bits_from_amax
    from quantkit.graph.inheritance import implicit_ranges
    from quantkit.graph.placement import observable, plan_tensorrt

    activations = observable(graph)
    usable = {n: r.amax for n, r in cache.tensors.items() if r.is_usable}
    completed = implicit_ranges(graph, usable)
    ranges = {
        n: cache.tensors.get(n) or CachedRange(completed[n], bits_from_amax(completed[n]))
        for n in activations
        if n in cache.tensors or n in completed
    }
    edges = plan_tensorrt(graph).activations
    read = {edge.tensor for edge in edges}
    needed = tuple(n for n in activations if n in read)
    values = {*activations, *graph.graph.initializers, *(v.name for node in graph.graph for v in node.outputs)}
    return Fit(
        ranges=ranges,
        inherited=tuple(n for n in ranges if n not in cache.tensors),
        missing={n: "not in the cache" for n in needed if n not in ranges},
        unlisted=tuple(n for n in activations if n not in ranges and n not in read),
        foreign=tuple(n for n in cache.tensors if n not in values),
        needed=needed,
        float_operators={
            edge.node: edge.tensor for edge in edges if edge.tensor not in ranges or not ranges[edge.tensor].is_usable
        },
    )


def convert_cache(
    path: PathLike,
    output: PathLike,
    *,
    target: CacheTarget,
    model: PathLike | None = None,
    tensorrt_version: str | None = None,
    names: Mapping[str, str] | None = None,
    high_precision: Literal["fp32", "fp16"] = "fp32",
) -> Conversion:
    """Writes the ranges of one file in another form, scales bit for bit where the form can hold them.

    Args:
        path: any file that `open_cache` reads.
        output: what is written.
        target: "tensorrt", "table" (quantkit's), "qdq" (the INT8 model), "ort" (flatbuffers), "ort-json", "ort-text"
            or "json" (everything that is known).
        model: the float ONNX model that the ranges are for; "table" and "qdq" need it, and with it "tensorrt" gets the
            tensors that inherit a range.
        tensorrt_version: of the library that will read a TensorRT cache; None keeps the source's.
        names: old name → new name, applied first.
        high_precision: of what stays in float, for "qdq".

    Raises:
        StaleTableError: no name of the file is in the model, or a table belongs to another one.
        OutputError: `output` is one of the files that it would be made from.
        QuantKitError: one line that names the file, tensor or option.
    """
    from quantkit.calibration.ranges import rename
    from quantkit.storage import write_text

    check_no_input(output, path, models=(model,))
    cache = open_cache(path)
    remarks = list(cache.notes)
    asymmetric = [name for name, r in cache.tensors.items() if r.flag.startswith("asymmetric")]
    if asymmetric and target != "json":
        remarks.append(f"{len(asymmetric)} ranges are asymmetric; the larger side is kept: {list_some(asymmetric)}")
    if names:
        if cache.table is not None:
            remarks.append("renamed tensors belong to another model: data, preprocessing and settings are not carried")
        cache = rename(cache, names)
    if target == "table" or target == "qdq":
        if model is None:
            raise CalibrationError(f"--to {target} needs the float model that the ranges are for: --model MODEL.onnx")
        return _to_model(cache, Path(output), target, model, high_precision, remarks)
    if target == "tensorrt":
        return _to_tensorrt(cache, Path(output), model, tensorrt_version, remarks)
    if target == "json":
        from quantkit.calibration.formats import ranges_json

        write_text(output, ranges_json(cache))
        return Conversion(Path(output), target, len(cache.tensors), tuple(remarks))
    return _to_ort(cache, Path(output), target, remarks)


def _from_qdq(file: Path) -> RangeCache:
    from quantkit.calibration.ranges import bits_from_amax
    from quantkit.graph.model import load_model
    from quantkit.graph.prepare import has_qdq
    from quantkit.graph.scales import activation_scales
    from quantkit.pipeline.quantization import TABLE_KEY

    model = load_model(file)
    if not has_qdq(model):
        raise ModelError(f"{file} has no Q/DQ, so no ranges: give a quantized model, a table or a cache")
    found, unread = activation_scales(model)
    if not found:
        raise ModelError(f"{file}: no activation has Q/DQ with one constant scale")
    tensors = {}
    for name, read in found.items():
        if read.is_symmetric:
            tensors[name] = CachedRange(127 * read.scale, bits_from_amax(127 * read.scale))
        else:
            amax = max(-read.minimum, read.maximum)
            flag = f"asymmetric: {read.minimum:.6g} to {read.maximum:.6g}"
            tensors[name] = CachedRange(amax, bits_from_amax(amax), read.minimum, read.maximum, flag)
    notes = tuple(f"{name!r} is not read: {reason}" for name, reason in unread.items())
    return RangeCache(file.name, "qdq", tensors, notes=notes, made_of=model.metadata_props.get(TABLE_KEY, ""))


def _to_model(
    cache: RangeCache,
    output: Path,
    target: Literal["table", "qdq"],
    model: PathLike,
    high_precision: Literal["fp32", "fp16"],
    remarks: list[str],
) -> Conversion:
    from quantkit.calibration.table import save_table
    from quantkit.pipeline.quantization import quantize

    table = cache.table or _table_for(cache, model, remarks)
    if target == "table":
        save_table(table, output)
        return Conversion(output, target, len(table.tensors), tuple(remarks))
    quantized = quantize(model, table, output, high_precision=high_precision)
    if high_precision == "fp16":
        remarks.append("scales are rounded up to what FP16 holds")
    remarks.append(f"{quantized.num_quantized} of {quantized.num_weighted} weighted operators are INT8")
    return Conversion(output, target, len(table.tensors), tuple(remarks))


def _table_for(cache: RangeCache, model: PathLike, remarks: list[str]) -> CalibrationTable:
    from quantkit.calibration.ranges import NOT_LISTED, table_from_cache

    graph, identity = load_float_model(model)
    fit = fit_to_model(cache, graph)
    if not any(fit.ranges[name].is_usable for name in fit.needed if name in fit.ranges):
        raise StaleTableError(
            f"{cache.name} has a range for none of the tensors of {Path(model).name} that INT8 needs, such as "
            f"{fit.needed[0]!r}: see what 'quantkit cache verify' proposes, and apply it with --map"
        )
    if fit.foreign:
        remarks.append(f"{len(fit.foreign)} tensors are not in the model: {list_some(fit.foreign)}")
    if fit.inherited:
        remarks.append(f"{len(fit.inherited)} take the range of the tensor that they copy: {list_some(fit.inherited)}")
    if fit.float_operators:
        names = [f"{node} (no range for {tensor})" for node, tensor in fit.float_operators.items()]
        remarks.append(f"{len(names)} operators stay in float: {list_some(names)}")
    return table_from_cache(
        cache,
        fit.ranges,
        missing=dict.fromkeys(fit.missing, NOT_LISTED),
        model_hash=identity,
        model_name=Path(model).name,
        versions={"quantkit": __version__},
    )


def _to_tensorrt(
    cache: RangeCache, output: Path, model: PathLike | None, version: str | None, remarks: list[str]
) -> Conversion:
    from quantkit.calibration.ranges import bits_from_amax
    from quantkit.calibration.tensorrt_cache import TensorRTCache, library_version
    from quantkit.graph.inheritance import implicit_ranges
    from quantkit.graph.placement import observable
    from quantkit.pipeline.quantization import DEFAULT_TENSORRT_VERSION, installed_tensorrt
    from quantkit.storage import write_text

    if cache.version is not None and cache.algorithm is not None:
        number = cache.version if version is None else library_version(version)
        bits = {name: r.scale_bits for name, r in cache.tensors.items()}
        algorithm = cache.algorithm
    else:
        number = library_version(version or installed_tensorrt() or DEFAULT_TENSORRT_VERSION)
        algorithm = "MinMaxCalibration" if cache.method == "minmax" else "EntropyCalibration2"
        bits = {name: r.scale_bits for name, r in _usable(cache, remarks).items()}
        remarks.append(f"a TensorRT cache holds scales only, not {_beyond_scales(cache)}")
        if model is not None:
            graph, identity = load_float_model(model)
            if cache.table is not None:
                cache.table.check_model(identity, Path(model).name)
            completed = implicit_ranges(graph, {n: r.amax for n, r in cache.tensors.items() if r.is_usable})
            bits = {name: bits_from_amax(amax) for name, amax in completed.items()}
            if unlisted := [name for name in observable(graph) if name not in bits]:
                remarks.append(
                    f"{len(unlisted)} activations have no range, and implicit INT8 keeps what reads or writes them in "
                    f"float: {list_some(unlisted)}"
                )
        else:
            remarks.append("without --model, pools and copies that inherit a range are not listed")
            if cache.form.startswith("ort"):
                remarks.append("tensors are in ONNX Runtime's order, not the network's: --model gives that")
    _check_names(bits, "TensorRT's cache")
    write_text(output, TensorRTCache(number, algorithm, bits).text())
    return Conversion(output, "tensorrt", len(bits), tuple(remarks))


def _to_ort(
    cache: RangeCache, output: Path, target: Literal["ort", "ort-json", "ort-text"], remarks: list[str]
) -> Conversion:
    from quantkit.calibration.ort_tables import check_names, flatbuffers_table, json_table, text_table
    from quantkit.storage import write_bytes

    # In the order in which ONNX Runtime writes them.
    ranges = dict(sorted(_usable(cache, remarks).items()))
    if target != "ort-json":
        check_names(list(ranges), as_text=target == "ort-text")
    if target == "ort-json":
        content = json_table(ranges, method=cache.method).encode()
    elif target == "ort-text":
        content = text_table(ranges).encode()
    else:
        content = flatbuffers_table(ranges)
    remarks.append(f"ONNX Runtime's table holds ranges only, not {_beyond_scales(cache)}")
    remarks.append("it lists tensors by name: the order of the network is lost")
    write_bytes(output, content)
    return Conversion(output, target, len(ranges), tuple(remarks))


def _usable(cache: RangeCache, remarks: list[str]) -> dict[str, CachedRange]:
    unusable = [name for name, r in cache.tensors.items() if not r.is_usable]
    if unusable:
        remarks.append(f"{len(unusable)} tensors have no range and are left out: {list_some(unusable)}")
    usable = {name: r for name, r in cache.tensors.items() if r.is_usable}
    if not usable:
        raise CalibrationError(f"{cache.name} has no usable range")
    return usable


def _beyond_scales(cache: RangeCache) -> str:
    if cache.table is not None:
        return "what was seen, the model's and the data's fingerprint, preprocessing and settings"
    if any(r.minimum is not None for r in cache.tensors.values()):
        return "minimum and maximum"
    return f"where they came from ({cache.title})"


def _check_names(names: Sequence[str] | Mapping[str, int], what: str) -> None:
    for name in names:
        if "\n" in name or "\r" in name:
            raise CalibrationError(f"tensor name {name!r} has a line break: {what} cannot hold it")
