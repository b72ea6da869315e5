"""Files of ranges, told apart by their content. Models with Q/DQ are left to `quantkit.graph.qdq_scales`."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.caches.formats.ort_tables import parse_flatbuffers_table, parse_json_table, parse_text_table
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.caches.range_cache import RangeCache, amax_from_bits
from quantkit.calibration.json_text import decode_json, wrong_version
from quantkit.calibration.refinement_file import is_refinement_file
from quantkit.calibration.statistics_file import is_statistics_file
from quantkit.calibration.table import FORMAT, load_table
from quantkit.errors import CalibrationError
from quantkit.machine import read_input
from quantkit.types import CalibrationTable
from quantkit.types.calibration import TensorRange, bits_from_amax

RANGES_FORMAT = "quantkit ranges"
RANGES_VERSION = 1

_HEAD = 200
"""Bytes in which a calibration table says what it is."""

_TEXT_ENTRY = re.compile(r". \S*\d\S*$")
"""The end of a line that may be one of ONNX Runtime's text: what is wrong with it is then said line by line."""

_METHODS = {
    "EntropyCalibration2": "entropy",
    "EntropyCalibration": "entropy",
    "MinMaxCalibration": "minmax",
    "LegacyCalibration": "percentile",
}


def read_ranges(path: Path) -> RangeCache:
    """Reads a calibration table, TensorRT's cache, a table of ONNX Runtime, or `ranges_json`.

    Raises:
        CalibrationError: it is none of them, or is broken; the message names the file.
    """
    cache = _read(path)
    try:
        "".join(cache.tensors).encode()
    except UnicodeEncodeError as error:
        raise CalibrationError(f"{path}: a tensor name is not Unicode text ({error.reason})") from error
    return cache


def ranges_from_bits(scale_bits: Mapping[str, int]) -> dict[str, TensorRange]:
    """Ranges from the scales of TensorRT's cache."""
    found = {}
    for tensor, bits in scale_bits.items():
        amax = amax_from_bits(bits)
        flag = "zero" if amax == 0 else "" if math.isfinite(amax) and amax > 0 else "no range"
        found[tensor] = TensorRange(amax, note=flag)
    return found


def _read(path: Path) -> RangeCache:
    content = read_input(path, CalibrationError, most_bytes=None)
    if is_statistics_file(path):
        raise CalibrationError(
            f"{path} contains statistics, not ranges: 'quantkit cache merge {path.name} -o "
            f"{path.with_suffix('.json').name}' creates a table"
        )
    if is_refinement_file(content):
        raise CalibrationError(f"{path} contains rounded weights, not ranges: name the table that it lies beside")
    if not content.strip():
        raise CalibrationError(f"{path} contains no ranges: it is empty")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CalibrationError(f"{path} is UTF-16 text, as written by > in PowerShell: save it as UTF-8")
    if content.removeprefix(b"\xef\xbb\xbf").startswith(b"TRT-"):
        return _from_tensorrt(_decoded(content, path), path)
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _from_json(content, path)
    if b"\x00" in content:
        return RangeCache(path.name, "ort-flatbuffers", parse_flatbuffers_table(content, name=str(path)))
    text = _decoded(content, path)
    first = text.partition("\n")[0]
    if not _TEXT_ENTRY.search(first):
        raise CalibrationError(
            f"{path} contains no ranges: its first line, {first[:60]!r}, is neither that of a TensorRT cache (TRT-...) "
            "nor a tensor and its range"
        )
    return RangeCache(path.name, "ort-text", parse_text_table(text, name=str(path)))


def cache_from_table(table: CalibrationTable, *, name: str) -> RangeCache:
    """A calibration table in the common form; what it skipped is listed with the reason."""
    tensors = {}
    for tensor, r in table.tensors.items():
        if table.num_samples == 0 and (r.minimum, r.maximum) == (-r.amax, r.amax):  # filled in: nobody saw that
            tensors[tensor] = TensorRange(r.amax)
            continue
        seen = r.seen or 0.0
        note = f"seen to {seen:.6g}" if seen > r.amax * 1.0005 else ""
        tensors[tensor] = TensorRange(r.amax, r.minimum, r.maximum, note)
    tensors |= {tensor: TensorRange(0.0, note=reason) for tensor, reason in table.skipped.items()}
    return RangeCache(name, "table", tensors, method=table.method, table=table)


def ranges_json(cache: RangeCache) -> str:
    """Everything that is known of each tensor as JSON, one tensor a line."""
    head = {
        "format": RANGES_FORMAT,
        "format_version": RANGES_VERSION,
        "source": cache.name,
        "made_by": cache.title,
        "method": cache.method,
    }
    lines = []
    for tensor, r in cache.tensors.items():
        entry = {
            "amax": r.amax if math.isfinite(r.amax) else None,
            "scale": r.scale if math.isfinite(r.scale) else None,
            "hex": f"{r.scale_bits:x}",
            "minimum": r.minimum,
            "maximum": r.maximum,
            "flag": r.note,
        }
        lines.append(f"    {json.dumps(tensor, ensure_ascii=False)}: {json.dumps(entry)}")
    text = json.dumps(head, indent=2, ensure_ascii=False)
    return text[: text.rindex("\n}")] + ',\n  "tensors": {\n' + ",\n".join(lines) + "\n  }\n}\n"


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is not UTF-8 text or any known cache format") from error


def _from_tensorrt(text: str, path: Path) -> RangeCache:
    cache = parse_cache(text, name=str(path))
    return RangeCache(
        name=path.name,
        form="tensorrt",
        tensors=ranges_from_bits(cache.scale_bits),
        method=_METHODS.get(cache.algorithm, "unknown"),
        version=cache.version,
        algorithm=cache.algorithm,
    )


def _from_json(content: bytes, path: Path) -> RangeCache:
    if path.name.endswith(".calib.json") or FORMAT.encode() in content[:_HEAD]:
        kind, fix = "a calibration table", "calibrate again"
    else:
        kind, fix = "a file of ranges", ""
    data = decode_json(content, name=str(path), kind=kind, fix=fix)
    if not isinstance(data, dict):
        raise CalibrationError(f"{path} contains no ranges: its JSON is a list")
    if data.get("format") == FORMAT:
        return cache_from_table(load_table(path), name=path.name)
    if data.get("format") == RANGES_FORMAT:
        return _from_ranges_json(data, path)
    if data.get("CLS") == "TensorsData":
        tensors, method, notes = parse_json_table(data, name=str(path))
        return RangeCache(path.name, "ort-json", tensors, method=method, notes=notes)
    raise CalibrationError(f"{path} contains no ranges: it is neither a calibration table nor an ONNX Runtime table")


def _from_ranges_json(data: Mapping[str, Any], path: Path) -> RangeCache:
    version = data.get("format_version", RANGES_VERSION)
    if version != RANGES_VERSION:
        raise wrong_version(str(path), version, RANGES_VERSION, fix="recreate it")
    tensors = {}
    listed = data.get("tensors")
    for tensor, entry in listed.items() if isinstance(listed, dict) else ():
        try:
            bits = int(entry["hex"], 16)
            amax = amax_from_bits(bits) if entry["amax"] is None else float(entry["amax"])
            low, high = (None if entry[k] is None else float(entry[k]) for k in ("minimum", "maximum"))
            seen = [value for value in (low, high) if value is not None]
            if seen != sorted(seen) or not all(map(math.isfinite, seen)):
                raise ValueError("minimum and maximum are not finite and in order")
            same = entry["amax"] is None or bits == bits_from_amax(amax)
            tensors[tensor] = TensorRange(amax, low, high, str(entry["flag"]))
        except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise CalibrationError(f"{path}: $.tensors[{tensor!r}] is incomplete or no range ({error})") from error
        if not same:
            raise CalibrationError(f"{path}: tensor {tensor!r}: amax {amax} and hex {bits:x} differ: repair one")
    if not tensors:
        raise CalibrationError(f"{path} lists no tensor")
    return RangeCache(path.name, "json", tensors, method=str(data.get("method", "unknown")))
