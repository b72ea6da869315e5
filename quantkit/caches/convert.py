"""A calibration file written in the format of another tool, and what that format does not carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantkit._version import __version__
from quantkit.backends.tensorrt.library import version_of_caches
from quantkit.caches.complete import check_complete, ranges_for_cache
from quantkit.caches.formats.ort_tables import check_names, flatbuffers_table, json_table, text_table
from quantkit.caches.formats.tensorrt_cache import TensorRTCache, library_version
from quantkit.caches.match import match_to_model
from quantkit.caches.range_cache import RangeCache, table_from_cache
from quantkit.caches.reuse import check_table
from quantkit.calibration.methods import cache_algorithm
from quantkit.errors import CalibrationError, StaleTableError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import join_names
from quantkit.storage import write_bytes, write_text
from quantkit.types import CalibrationTable
from quantkit.types.calibration import NOT_LISTED, TensorRange, bits_from_amax

CacheTarget = Literal["tensorrt", "table", "qdq", "ort", "ort-json", "ort-text", "json"]


@dataclass(frozen=True)
class Conversion:
    """A file that was written: how many tensors, and what it does not carry, one sentence each."""

    path: Path
    target: CacheTarget
    num_tensors: int
    remarks: tuple[str, ...]


def table_for_model(cache: RangeCache, model: FloatModel, remarks: list[str]) -> CalibrationTable:
    """The calibration table of a float model from the ranges of a file; what is lost is added to `remarks`."""
    model.check_float()
    fit = match_to_model(cache, model.prepared())
    if not any(fit.ranges[name].is_valid for name in fit.needed if name in fit.ranges):
        raise StaleTableError(
            f"{cache.name} has a range for none of the tensors of {model.name} that INT8 needs, such as "
            f"{fit.needed[0]!r}: `quantkit cache verify` proposes new names, to apply with --map"
        )
    if fit.foreign:
        remarks.append(f"{len(fit.foreign)} tensors are unknown to the model: {join_names(fit.foreign)}")
    if fit.inherited:
        remarks.append(
            f"{len(fit.inherited)} take the range of the tensor they copy or pool: {join_names(fit.inherited)}"
        )
    if fit.float_operators:
        names = [f"{node} (no range for {tensor})" for node, tensor in fit.float_operators.items()]
        remarks.append(f"{len(names)} operators stay in float: {join_names(names)}")
    return table_from_cache(
        cache,
        fit.ranges,
        missing=dict.fromkeys(fit.missing, NOT_LISTED),
        model_hash=model.hash,
        model_name=model.name,
        versions={"quantkit": __version__},
    )


def write_as_tensorrt_cache(
    cache: RangeCache, output: Path, model: FloatModel | None, version: str | None, remarks: list[str]
) -> Conversion:
    """Writes the ranges as TensorRT's calibration cache, which lists every activation.

    TensorRT's own cache gets the header of another version and nothing else.

    Raises:
        IncompleteCacheError: activations have no range.
    """
    if cache.version is not None and cache.algorithm is not None:
        number = cache.version if version is None else library_version(version)
        bits = {name: r.scale_bits for name, r in cache.tensors.items()}
        algorithm = cache.algorithm
    else:
        number = library_version(version_of_caches(version))
        algorithm = cache_algorithm(cache.method)
        _usable(cache, remarks)
        remarks.append(f"a TensorRT cache stores scales only, not {_beyond_scales(cache)}")
        if model is None:
            raise CalibrationError(
                f"--to tensorrt lists every activation of the network, which {cache.name} does not: pass --model"
            )
        model.check_float()
        graph = model.prepared()
        if cache.table is not None:
            check_table(cache.table, model)
        known = {n: r.amax for n, r in cache.tensors.items() if r.is_valid}
        zeros = () if cache.table is None else cache.table.always_zero
        amax = ranges_for_cache(graph, known, version=number, always_zero=zeros)
        check_complete(graph, amax, {} if cache.table is None else cache.table.skipped)
        bits = {name: bits_from_amax(value) for name, value in amax.items()}
    _check_names(bits, "TensorRT's cache")
    write_text(output, TensorRTCache(number, algorithm, bits).text())
    return Conversion(output, "tensorrt", len(bits), tuple(remarks))


def write_ort_table(
    cache: RangeCache, output: Path, target: Literal["ort", "ort-json", "ort-text"], remarks: list[str]
) -> Conversion:
    """Writes the ranges as ONNX Runtime's calibration table, in one of its three forms."""
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
    remarks.append(f"an ONNX Runtime table stores ranges only, not {_beyond_scales(cache)}")
    remarks.append("it sorts tensors by name: the network order is lost")
    write_bytes(output, content)
    return Conversion(output, target, len(ranges), tuple(remarks))


def _usable(cache: RangeCache, remarks: list[str]) -> dict[str, TensorRange]:
    unusable = [name for name, r in cache.tensors.items() if not r.is_valid]
    if unusable:
        remarks.append(f"{len(unusable)} tensors without a range are omitted: {join_names(unusable)}")
    usable = {name: r for name, r in cache.tensors.items() if r.is_valid}
    if not usable:
        raise CalibrationError(f"{cache.name} has no usable range")
    return usable


def _beyond_scales(cache: RangeCache) -> str:
    if cache.table is not None:
        return "observed values, fingerprints of model and data, preprocessing and settings"
    if any(r.minimum is not None for r in cache.tensors.values()):
        return "minimum and maximum"
    return f"where they came from ({cache.title})"


def _check_names(names: Sequence[str] | Mapping[str, int], what: str) -> None:
    for name in names:
        if "\n" in name or "\r" in name:
            raise CalibrationError(f"tensor name {name!r} contains a line break, which {what} cannot store")
