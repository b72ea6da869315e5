"""ONNX Runtime's calibration tables, as `onnxruntime.quantization.write_calibration_table` writes them.

Three files with the same content: JSON with the lowest and highest value of each tensor; flatbuffers (`TrtTable`: a
vector of key and value, both text), which the TensorRT execution provider reads; and text, `name value` a line. In the
last two the value is max(lowest, highest), which is not the largest magnitude where that is negative.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers

from quantkit.errors import CalibrationError
from quantkit.types.calibration import TensorRange

_OTHER_FORMATS = ("TRT-", "{", "[", "quantkit statistics")


def parse_text_table(text: str, *, name: str) -> dict[str, TensorRange]:
    """Reads `tensor amax` lines.

    Raises:
        CalibrationError: naming the line.
    """
    found: dict[str, TensorRange] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        tensor, separator, value = line.rpartition(" ")
        _add(found, tensor if separator else "", value, f"{name}, line {number}")
    if not found:
        raise CalibrationError(f"{name} is empty: no line of 'tensor value'")
    return found


def text_table(ranges: Mapping[str, TensorRange]) -> str:
    """`tensor amax` lines, in the order of `ranges`."""
    return "".join(f"{_one_line(tensor)} {r.amax!r}\n" for tensor, r in ranges.items())


def check_names(names: Sequence[str], *, as_text: bool) -> None:
    """Refuses what could not be read back.

    Args:
        names: of the tensors, in the order in which they are written.
        as_text: to `text_table`, which has no first line of its own to be known by; else to `flatbuffers_table`.

    Raises:
        CalibrationError: naming the tensor.
    """
    for place, name in enumerate(names):
        problem = "" if name else "is empty"
        if as_text and "\0" in name:
            problem = "has a zero byte"
        elif as_text and place == 0 and name.lstrip("\ufeff \t").startswith(_OTHER_FORMATS):
            problem = "comes first, and begins like another file of ranges"
        if problem:
            what = "a text table" if as_text else "ONNX Runtime's table"
            raise CalibrationError(f"tensor name {name!r} {problem}: {what} cannot hold it")


def parse_flatbuffers_table(content: bytes, *, name: str) -> dict[str, TensorRange]:
    """Reads a `TrtTable`, in the order in which ONNX Runtime adds to it (its vector is written backwards).

    Raises:
        CalibrationError: it is none, or an offset leaves the file.
    """
    try:
        pairs = _read_pairs(content)
    except (struct.error, ValueError) as error:
        raise CalibrationError(
            f"{name} contains no ranges or is truncated: as an ONNX Runtime calibration table (flatbuffers) {error}"
        ) from error
    found: dict[str, TensorRange] = {}
    for tensor, value in reversed(pairs):
        _add(found, tensor, value, name)
    return found


def flatbuffers_table(ranges: Mapping[str, TensorRange]) -> bytes:
    """The flatbuffers, byte for byte as ONNX Runtime writes it for the same tensors in the same order."""
    builder = flatbuffers.Builder(1024)
    entries = []
    for tensor, value in ranges.items():
        key, text = builder.CreateString(tensor), builder.CreateString(repr(value.amax))
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, key, 0)
        builder.PrependUOffsetTRelativeSlot(1, text, 0)
        entries.append(builder.EndObject())
    builder.StartVector(4, len(entries), 4)
    for entry in entries:
        builder.PrependUOffsetTRelative(entry)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def parse_json_table(data: Any, *, name: str) -> tuple[dict[str, TensorRange], str, tuple[str, ...]]:
    """Reads the decoded JSON of a `TensorsData`: `calibration.json`, or what quantize_static leaves in its
    `calibration_cache_path`.

    Returns:
        Ranges, over all channels where there is one for each; the name of the calibration method; what a user should
        know, one sentence each.

    Raises:
        CalibrationError: naming the tensor.
    """
    tensors = data.get("data") if isinstance(data, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise CalibrationError(f"{name} is not an ONNX Runtime calibration table: it has no 'data'")
    found, channels = {}, 0
    for tensor, entry in tensors.items():
        values = entry if isinstance(entry, dict) else {}
        lows, highs = (_numbers(values.get(key)) for key in ("lowest", "highest"))
        if not lows or not highs or not min(lows) <= max(highs):
            raise CalibrationError(f"{name}: $.data[{tensor!r}] has no finite lowest and highest value in order")
        low, high = min(lows), max(highs)
        amax = max(-low, high, 0.0)
        found[tensor] = TensorRange(amax, low, high, "" if amax else "zero")
        channels += max(len(lows), len(highs)) > 1
    method = data.get("calibration_method")
    value = method.get("value") if isinstance(method, dict) else None
    title = str(value).rpartition(".")[2].lower() if value else "unknown"
    notes = []
    if channels:
        notes.append(f"{channels} tensors have a range for each channel: the one over all channels is read")
    if data.get("smooth_quant") is True:
        notes.append("it was made with SmoothQuant, which changes the model: its ranges are not of the original one")
    if title == "distribution":
        notes.append("method Distribution is for FP8: lowest and highest value are the ends of its histogram")
    return found, title, tuple(notes)


def json_table(ranges: Mapping[str, TensorRange], *, method: str) -> str:
    """JSON with lowest and highest value; [-amax, amax] where they are not known, or the range is narrower."""
    title = {"entropy": "Entropy", "percentile": "Percentile"}.get(method, "MinMax")
    return json.dumps(
        {
            "CLS": "TensorsData",
            "data": {
                tensor: {
                    "lowest": -r.amax if r.minimum is None else min(max(r.minimum, -r.amax), r.amax),
                    "highest": r.amax if r.maximum is None else max(min(r.maximum, r.amax), -r.amax),
                    "CLS": "TensorData",
                }
                for tensor, r in ranges.items()
            },
            "calibration_method": {"CLS": "CalibrationMethod", "value": f"CalibrationMethod.{title}"},
        }
    )


def _add(found: dict[str, TensorRange], tensor: str, value: str, where: str) -> None:
    try:
        amax = float(value)
    except ValueError:
        amax = math.nan
    if not tensor or not math.isfinite(amax):
        raise CalibrationError(f"{where}: {f'{tensor} {value}'[:60]!r} is not a tensor and its range")
    if tensor in found:
        raise CalibrationError(f"{where}: tensor {tensor!r} is listed twice")
    flag = "" if amax > 0 else "zero" if amax == 0 else "no range: negative"
    found[tensor] = TensorRange(amax, note=flag)


def _numbers(value: Any) -> list[float]:
    """A number, or the elements of an array as ONNX Runtime encodes it; [] if one of them is no finite number."""
    value = value.get("data") if isinstance(value, dict) else value
    found: list[float] = []
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, list):
            rest += item
        elif (number := _number(item)) is None:
            return []
        else:
            found.append(number)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _one_line(tensor: str) -> str:
    if "\n" in tensor or "\r" in tensor:
        raise CalibrationError(f"tensor name {tensor!r} contains a line break, which a text table cannot store")
    return tensor


def _read_pairs(content: bytes) -> list[tuple[str, str]]:
    root = _offset(content, 0)
    slot = _slot(content, root, 4)
    if slot is None:
        raise ValueError("no entry")
    vector = slot + _offset(content, slot)
    count = _offset(content, vector)
    if not 0 < count <= len(content) // 4:
        raise ValueError("no entries, or more than fit into the file")
    pairs = []
    for i in range(count):
        position = vector + 4 + 4 * i
        entry = position + _offset(content, position)
        pairs.append((_string(content, _slot(content, entry, 4)), _string(content, _slot(content, entry, 6))))
    return pairs


def _offset(content: bytes, position: int) -> int:
    return _unpacked("<I", content, position)


def _slot(content: bytes, table: int, field: int) -> int | None:
    """Position of a field of a flatbuffers table, None where it has none."""
    layout = table - _unpacked("<i", content, table)
    size = _unpacked("<H", content, layout)
    relative = _unpacked("<H", content, layout + field) if field + 2 <= size else 0
    return table + relative if relative else None


def _unpacked(form: str, content: bytes, position: int) -> int:
    if not 0 <= position <= len(content) - struct.calcsize(form):
        raise ValueError(f"an offset leads to byte {position} of {len(content)}")
    return int(struct.unpack_from(form, content, position)[0])


def _string(content: bytes, slot: int | None) -> str:
    if slot is None:
        raise ValueError("an entry has no name or no value")
    start = slot + _offset(content, slot)
    length = _offset(content, start)
    if start + 4 + length > len(content):
        raise ValueError(f"a text from byte {start + 4} of {length} bytes leaves the file of {len(content)}")
    return content[start + 4 : start + 4 + length].decode()
