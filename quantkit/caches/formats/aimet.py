"""AIMET's encodings (.encodings), formats 0.6.1, 1.0.0, 2.0.0 and 2.1.0: scale and offset of activations. Read only.

To 1.0.0 the value of code q, from 0 to 255, is (q + offset) * scale; offset -128 is symmetric. From 2.0.0 on entries
are those of QuantizeLinear: type, scale, zero point; activations and weights in one list. What has an axis or 32 bits
is of weights and biases, and left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from quantkit.errors import CalibrationError
from quantkit.types.calibration import TensorRange


def parse_encodings(data: dict[str, Any], *, name: str) -> tuple[dict[str, TensorRange], tuple[str, ...]]:
    """Reads decoded JSON. Returns ranges by tensor, and what is not read, one sentence each.

    Raises:
        CalibrationError: there is no activation of 8 bits in it.
    """
    found: dict[str, TensorRange] = {}
    notes = []
    for tensor, entry in _entries(data.get("encodings")):
        if "axis" in entry or str(entry.get("output_dtype")).endswith("int32"):
            continue
        lowest = {"uint8": 0, "int8": -128}.get(str(entry.get("output_dtype")))
        scale, point = _number(entry.get("y_scale")), _number(entry.get("y_zero_point", 0))
        if lowest is None:
            notes.append(f"{tensor!r} is skipped: not an 8-bit integer")
        elif scale is None or point is None or scale <= 0:
            notes.append(f"{tensor!r} is not read: it has not one positive scale and one zero point")
        else:
            found[tensor] = _range(scale, lowest - point)
    for tensor, entry in _entries(data.get("activation_encodings")):
        bits = entry.get("bitwidth", entry.get("bw"))
        scale, offset = _number(entry.get("scale")), _number(entry.get("offset"))
        if bits != 8 or str(entry.get("dtype", "int")).lower() != "int":
            notes.append(f"{tensor!r} is skipped: not an 8-bit integer")
        elif scale is None or offset is None or scale <= 0:
            notes.append(f"{tensor!r} is not read: it has not one positive scale and one offset")
        else:
            found[tensor] = _range(scale, offset)
    if not found:
        raise CalibrationError(f"{name} has no 8-bit activation with a single scale")
    return found, tuple(notes)


def _entries(group: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and entry: 0.6.1 has a dictionary of lists of one entry, 1.0.0 a list of entries with names."""
    if isinstance(group, dict):
        pairs = list(group.items())
    elif isinstance(group, list):
        pairs = [(entry.get("name"), entry) for entry in group if isinstance(entry, dict)]
    else:
        pairs = []
    for name, entry in pairs:
        single = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
        if isinstance(name, str):
            yield name, single if isinstance(single, dict) else {}


def _range(scale: float, offset: float) -> TensorRange:
    if offset == -128:
        return TensorRange(127 * scale)
    low, high = offset * scale, (offset + 255) * scale
    amax = max(-low, high)
    return TensorRange(amax, low, high, f"asymmetric: {low:.6g} to {high:.6g}", is_asymmetric=True)


def _number(value: Any) -> float | None:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) < 1e30 else None
