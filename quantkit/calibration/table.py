"""The calibration table on disk: JSON that names everything it depends on, with a checksum.

The format is versioned by `format_version`; this module reads version 1.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import CalibrationError, DatasetError
from quantkit.storage import write_text
from quantkit.types import CalibrationTable, Preprocessing

__all__ = ["FORMAT", "FORMAT_VERSION", "differing_fields", "load_table", "save_table", "table_checksum", "table_json"]

FORMAT = "quantkit calibration table"
FORMAT_VERSION = 1


def table_json(table: CalibrationTable) -> str:
    """The table as JSON text: one line for each tensor, so that two tables can be compared with diff."""
    head, tensors = _head(table), {name: asdict(r) for name, r in table.tensors.items()}
    head["checksum"] = _checksum(head, tensors)
    lines = [f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(value)}" for name, value in tensors.items()]
    text = json.dumps(head, indent=2, ensure_ascii=False)
    return text[: text.rindex("\n}")] + ',\n  "tensors": {\n' + ",\n".join(lines) + "\n  }\n}\n"


def table_checksum(table: CalibrationTable) -> str:
    """The checksum that the table's file holds: names the table in what is made from it."""
    return _checksum(_head(table), {name: asdict(r) for name, r in table.tensors.items()})


def save_table(table: CalibrationTable, path: str | os.PathLike[str]) -> Path:
    """Writes the table atomically. Returns its path.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, table_json(table))
    return Path(path)


def load_table(path: str | os.PathLike[str]) -> CalibrationTable:
    """Reads and verifies a table.

    Raises:
        CalibrationError: the file is missing, no table, truncated, of a newer format, or was edited by hand.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CalibrationError(f"cannot read calibration table {file}: {error.strerror or error}") from error
    if content.startswith(b"TRT-"):
        raise CalibrationError(f"{file} is TensorRT's cache, not the calibration table: give the .calib.json beside it")
    try:
        data = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CalibrationError(f"{file} is not a calibration table: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CalibrationError(f"{file} is not a calibration table: it does not say format {FORMAT!r}")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise CalibrationError(
            f"{file} has format version {version!r}, this quantkit reads version {FORMAT_VERSION}: upgrade quantkit"
        )
    stated, tensors = data.pop("checksum", None), data.pop("tensors", None)
    if stated != _checksum(data, tensors):
        raise CalibrationError(f"{file} was changed after it was written (checksum): calibrate again")
    return _decode(file, data, tensors)


def differing_fields(stored: CalibrationTable, wanted: Mapping[str, object]) -> list[str]:
    """Names of what differs between a stored table and what a run would produce, each with both values.

    Args:
        stored: a table from disk.
        wanted: values for "model_hash", "dataset_fingerprint", "preprocessing" and every setting that decides.
    """
    differences = []
    for name, value in wanted.items():
        old = getattr(stored, name) if name in _TABLE_FIELDS else stored.settings.get(name)
        if old == value:
            continue
        if isinstance(old, Preprocessing) and isinstance(value, Preprocessing):
            differences += [
                f"preprocessing {f.name}: {getattr(old, f.name)} → {getattr(value, f.name)}"
                for f in fields(Preprocessing)
                if getattr(old, f.name) != getattr(value, f.name)
            ]
        else:
            differences.append(f"{name.replace('_', ' ')}: {_short(old)} → {_short(value)}")
    return differences


_TABLE_FIELDS = frozenset(f.name for f in fields(CalibrationTable))


def _head(table: CalibrationTable) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": table.format_version,
        "model": {"name": table.model_name, "hash": table.model_hash},
        "dataset": {"fingerprint": table.dataset_fingerprint, "num_samples": table.num_samples},
        "preprocessing": None if table.preprocessing is None else asdict(table.preprocessing),
        "settings": dict(table.settings),
        "versions": dict(table.versions),
        "skipped": dict(table.skipped),
    }


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _checksum(head: Mapping[str, Any], tensors: object) -> str:
    """SHA-256 over the canonical form of everything but the checksum itself."""
    canonical = json.dumps({**head, "tensors": tensors}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class _Model(msgspec.Struct):
    name: str
    hash: str


class _Dataset(msgspec.Struct):
    fingerprint: str
    num_samples: int


def _decode(file: Path, data: dict[str, Any], tensors: object) -> CalibrationTable:
    try:
        model = msgspec.convert(data.pop("model", None), _Model)
        dataset = msgspec.convert(data.pop("dataset", None), _Dataset)
        data.pop("format")
        return msgspec.convert(
            {
                **data,
                "tensors": tensors,
                "model_hash": model.hash,
                "model_name": model.name,
                "dataset_fingerprint": dataset.fingerprint,
                "num_samples": dataset.num_samples,
            },
            CalibrationTable,
        )
    except (msgspec.ValidationError, CalibrationError, DatasetError) as error:
        raise CalibrationError(f"{file} is not a valid calibration table: {error}") from error
