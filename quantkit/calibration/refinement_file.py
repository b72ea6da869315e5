"""A refinement on disk: rounded weights, biases, channel scales and tensors in float beside the table they belong to.

One file, MODEL.calib.weights: a line with its length and checksum, a line of JSON that names the table and lists the
arrays, the arrays. `docs/reference/table_format.md` specifies it; this module reads version 1. Nothing in a file is
executed or decompressed, and every length is checked before use.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from quantkit.calibration.sealed_file import Seal
from quantkit.errors import CalibrationError, NewerFormatError, StaleTableError
from quantkit.machine import read_input
from quantkit.numerics import code_type, value_bounds
from quantkit.provenance import TABLE_CHECKSUM, why_stale
from quantkit.storage import write_bytes
from quantkit.types import Array, CalibrationTable, QuantFormat, Refinement, RoundedWeight, weight_format

_SEAL = Seal(b"quantkit weights ", 1, "a file of rounded weights")

_POSITIVE = ("scale", "channel_scale", "amax")

_Kind = Literal["codes", "scale", "bias", "shift", "channel_scale", "amax", "float"]


class _Entry(msgspec.Struct):
    kind: _Kind
    name: str
    shape: tuple[int, ...]
    axis: int | None = None
    format: QuantFormat | msgspec.UnsetType = msgspec.UNSET


class _Header(msgspec.Struct):
    table: str
    arrays: list[_Entry]


def refinement_path(table_path: str | os.PathLike[str], form: str = "int8") -> Path:
    """Where the refinement of a table lies: MODEL.calib.weights beside MODEL.calib.json, MODEL.calib.fp8.weights."""
    return Path(table_path).with_suffix(".weights" if form == "int8" else f".{form}.weights")


def is_refinement_file(content: bytes) -> bool:
    """Whether a file begins as one of rounded weights does; it may be damaged after that."""
    return content.startswith(_SEAL.magic)


def save_refinement(refinement: Refinement, path: str | os.PathLike[str], *, table: str) -> Path:
    """Writes the file atomically. Returns its path.

    Args:
        refinement: what to keep.
        path: where to.
        table: checksum of the table that it belongs to.

    Raises:
        OutputError: the file cannot be written.
    """
    entries, body = [], []
    for entry, array in _arrays(refinement):
        entries.append(entry)
        body.append(np.ascontiguousarray(array).astype(_dtype(entry), copy=False).tobytes())
    content = b"".join([msgspec.json.encode(_Header(table, entries)), b"\n", *body])
    write_bytes(path, _SEAL.put(content))
    return Path(path)


def refinement_digest(refinement: Refinement | None) -> str:
    """Hash of everything in it; empty without one."""
    if refinement is None:
        return ""
    found = hashlib.sha256()
    for entry, array in _arrays(refinement):
        found.update(msgspec.json.encode(entry))
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def roundings_digests(table: CalibrationTable, name: str) -> dict[str, str]:
    """Hashes of the weights that a model of the format `name` takes beside those of INT8, by format."""
    found = {each: refinement_digest(table.roundings.get(each)) for each in sorted({name, *table.formats.values()})}
    return {each: digest for each, digest in found.items() if digest}


def load_refinement(path: str | os.PathLike[str], *, table: str) -> Refinement:
    """Reads and verifies the refinement of a table.

    Args:
        path: of the file.
        table: checksum of the table.

    Raises:
        CalibrationError: one line: the file is missing, none of ours, cut short, of a newer format, changed after it
            was written; `StaleTableError` where it belongs to another table.
    """
    file = Path(path)
    stored = read_input(file, CalibrationError, "rounded weights", most_bytes=None)
    text, _, body = _SEAL.check(file, stored).partition(b"\n")
    try:
        header = msgspec.json.decode(text, type=_Header)
        refinement = _decode(header, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, CalibrationError) as error:
        raise CalibrationError(f"the rounded weights in {file} cannot be used: {error}: calibrate again") from error
    if reason := why_stale(str(file), {TABLE_CHECKSUM: header.table}, {TABLE_CHECKSUM: table}):
        raise StaleTableError(f"{reason}: calibrate again")
    return refinement


def why_unusable(error: CalibrationError) -> str:
    """What to say of a file that `load_refinement` refused, to follow its name."""
    if isinstance(error, StaleTableError):
        return "is of another table"
    if isinstance(error, NewerFormatError):
        return "was written by a newer quantkit (upgrade to use it)"
    cause = error.__cause__
    return f"cannot be read ({cause.strerror or cause})" if isinstance(cause, OSError) else "is damaged"


def _arrays(refinement: Refinement) -> Iterator[tuple[_Entry, Array]]:
    for name, weight in refinement.weights.items():
        fmt = weight.format or msgspec.UNSET
        yield _Entry("codes", name, weight.codes.shape, weight.axis, fmt), weight.codes
        yield _Entry("scale", name, np.shape(weight.scale), weight.axis), weight.scale
    for name, bias in refinement.biases.items():
        yield _Entry("bias", name, bias.shape), bias
    for name, shift in refinement.shifts.items():
        yield _Entry("shift", name, shift.shape), shift
    for name, scale in refinement.channel_scales.items():
        yield _Entry("channel_scale", name, scale.shape), scale
    for name, amax in refinement.amax.items():
        yield _Entry("amax", name, ()), np.asarray(amax, np.float32)
    for name, reason in refinement.float_tensors.items():
        text = np.frombuffer(reason.encode(), np.uint8)
        yield _Entry("float", name, text.shape), text


def _dtype(entry: _Entry) -> np.dtype:
    if entry.kind == "float":
        return np.dtype(np.uint8)
    if entry.kind != "codes":
        return np.dtype("<f4")
    return code_type(entry.format or weight_format(0))


def _decode(header: _Header, body: bytes) -> Refinement:
    found: dict[_Kind, dict[str, tuple[Any, _Entry]]] = {kind: {} for kind in get_args(_Kind)}
    offset = 0
    for entry in header.arrays:
        dtype = _dtype(entry)
        if any(size < 0 for size in entry.shape) or entry.name in found[entry.kind]:
            raise CalibrationError(f"{entry.kind} of {entry.name!r} contradicts itself")
        size = math.prod(entry.shape) * dtype.itemsize
        if offset + size > len(body):
            raise CalibrationError(f"{entry.kind} of {entry.name!r} is not there")
        array = np.frombuffer(body, dtype, math.prod(entry.shape), offset).reshape(entry.shape)
        if not np.isfinite(array).all():
            raise CalibrationError(f"{entry.kind} of {entry.name!r} is not finite")
        if entry.kind in _POSITIVE and not (array > 0).all():
            raise CalibrationError(f"{entry.kind} of {entry.name!r} is not positive")
        if entry.kind == "amax" and entry.shape:
            raise CalibrationError(f"amax of {entry.name!r} is not one number")
        found[entry.kind][entry.name] = array.astype(dtype.newbyteorder("=")), entry
        offset += size
    transformed = found["shift"].keys() | found["channel_scale"].keys()
    if offset != len(body) or found["codes"].keys() != found["scale"].keys() or transformed != found["amax"].keys():
        raise CalibrationError("it lists other arrays than follow")
    weights = {}
    for name, (codes, entry) in found["codes"].items():
        scale, axis, fmt = found["scale"][name][0], entry.axis, entry.format or None
        if (axis is not None and not 0 <= axis < codes.ndim) or scale.shape != _scale_shape(codes.shape, axis, fmt):
            raise CalibrationError(f"scale of {name!r} does not fit its codes")
        if fmt is not None and fmt.kind != "float" and np.any(codes != np.clip(codes, *value_bounds(fmt))):
            raise CalibrationError(f"codes of {name!r} are none of {fmt.name}")
        weights[name] = RoundedWeight(codes, scale, axis, fmt)
    return Refinement(
        weights=weights,
        biases={name: array for name, (array, _) in found["bias"].items()},
        shifts={name: array for name, (array, _) in found["shift"].items()},
        channel_scales={name: array for name, (array, _) in found["channel_scale"].items()},
        amax={name: float(array) for name, (array, _) in found["amax"].items()},
        float_tensors={name: array.tobytes().decode() for name, (array, _) in found["float"].items()},
    )


def _scale_shape(shape: tuple[int, ...], axis: int | None, fmt: QuantFormat | None) -> tuple[int, ...]:
    if axis is None or fmt is None or fmt.block is None:
        return () if axis is None else shape[axis : axis + 1]
    return (*shape[:axis], -(-shape[axis] // fmt.block), *shape[axis + 1 :])
