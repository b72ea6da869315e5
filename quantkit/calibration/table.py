"""The calibration table on disk: JSON that names everything it depends on, with a checksum.

The format is versioned by `format_version`; this module reads version 1. `docs/reference/table_format.md` specifies it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from quantkit.calibration.json_text import check_format, decode_json
from quantkit.calibration.refinement_file import load_refinement, refinement_path, why_unusable
from quantkit.calibration.statistics_file import is_statistics_file
from quantkit.errors import CalibrationError, DatasetError
from quantkit.machine import read_input
from quantkit.storage import write_text
from quantkit.types import SCHEMES, CalibrationTable, PathLike, Preprocessing, Refinement, TensorRange
from quantkit.types.calibration import Setting

TABLE_KEY = "quantkit.calibration_table"
"""Metadata of an INT8 model: the checksum of the table that it was made from."""

FORMAT = "quantkit calibration table"
FORMAT_VERSION = 1

_UNCHECKED = ("checksum", "digests")
_LISTED_CHANGES = 3
_OPTIONAL = ("float_tensors", "quality")
"""Members that are left out where they are empty."""


def table_json(table: CalibrationTable) -> str:
    """The table as JSON text: one line for each tensor, so that two tables can be compared with diff."""
    head, tensors = _head(table), _entries(table.tensors)
    head["checksum"] = _checksum({**head, "tensors": tensors})
    digests = _digests({**head, "tensors": tensors})
    listed = digests.pop("tensors")
    text = json.dumps(head, indent=2, ensure_ascii=False)
    sections = [
        text[: text.rindex("\n}")],
        '  "tensors": {\n' + _lines(tensors, 4) + "\n  }",
        '  "digests": {\n' + _lines(digests, 4) + ',\n    "tensors": {\n' + _lines(listed, 6) + "\n    }\n  }",
    ]
    return ",\n".join(sections) + "\n}\n"


def table_checksum(table: CalibrationTable) -> str:
    """The checksum in the table's file, which identifies the table in files made from it."""
    return _checksum({**_head(table), "tensors": _entries(table.tensors)})


def table_sha256(table: CalibrationTable) -> str:
    """SHA-256 of the table's file, which names it in the manifests of engines."""
    return hashlib.sha256(table_json(table).encode()).hexdigest()


def save_table(table: CalibrationTable, path: str | os.PathLike[str]) -> Path:
    """Writes the table atomically. Returns its path.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, table_json(table))
    return Path(path)


def load_table(path: str | os.PathLike[str]) -> CalibrationTable:
    """Reads and verifies a table, and what was rounded and found beside it, for each format, if it is of this table.

    Raises:
        CalibrationError: the file is missing, not a table, truncated, of a newer format, or was edited by hand.
    """
    file = Path(path)
    content = read_input(file, CalibrationError, "calibration table")
    if content.removeprefix(b"\xef\xbb\xbf").startswith(b"TRT-"):
        raise CalibrationError(f"{file} is a TensorRT calibration cache, not a table: pass the .calib.json next to it")
    if is_statistics_file(file):
        raise CalibrationError(
            f"{file} contains statistics, not a calibration table: pass the .calib.json next to it, or create one with "
            "quantkit cache merge"
        )
    kind, fix = "a calibration table", "calibrate again"
    data = decode_json(content, name=str(file), kind=kind, fix=fix)
    data = check_format(data, name=str(file), kind=kind, written=(FORMAT, FORMAT_VERSION), fix=fix)
    stated = data.get("checksum")
    checked = {name: value for name, value in data.items() if name not in _UNCHECKED}
    if stated != _checksum(checked):
        where = _changed_places(checked, data.get("digests"))
        raise CalibrationError(f"{file} was changed after it was written: {where}: calibrate again")
    table = _decode(file, checked)
    checksum = table_checksum(table)
    found: dict[str, Refinement] = {}
    unusable: dict[str, str] = {}
    for form in SCHEMES:
        path = refinement_path(file, form)
        try:
            found |= {form: load_refinement(path, table=checksum)} if os.path.lexists(path) else {}
        except CalibrationError as error:  # reported where it is needed
            unusable[form] = f"{path.name} {why_unusable(error)}"
    return replace(table, refinement=found.pop("int8", None), roundings=found, unusable=unusable, path=file)


def _head(table: CalibrationTable) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": table.format_version,
        "model": {"name": table.model_name, "hash": table.model_hash},
        "dataset": {"fingerprint": table.dataset_fingerprint, "num_samples": table.num_samples},
        "preprocessing": None if table.preprocessing is None else table.preprocessing.declared(),
        "settings": dict(table.settings),
        "versions": dict(table.versions),
        "skipped": dict(table.skipped),
        **{name: dict(value) for name in _OPTIONAL if (value := getattr(table, name))},
    }


def _lines(members: Mapping[str, Any], indent: int) -> str:
    """Members of a JSON object, one a line."""
    return ",\n".join(
        f"{' ' * indent}{json.dumps(name, ensure_ascii=False)}: {json.dumps(value)}" for name, value in members.items()
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(members: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical form of everything but the checksum itself and the digests."""
    return hashlib.sha256(_canonical(members)).hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()[:8]


def _digests(members: Mapping[str, Any]) -> dict[str, Any]:
    """A short digest of each member, and of each tensor: they find what was changed, they prove nothing."""
    found: dict[str, Any] = {
        name: _digest(value) for name, value in members.items() if name not in ("checksum", "tensors")
    }
    tensors = members.get("tensors")
    found["tensors"] = {n: _digest(v) for n, v in tensors.items()} if isinstance(tensors, dict) else {}
    return found


def _changed_places(members: Mapping[str, Any], digests: object) -> str:
    """Which members do not have the digest that the file says they have, as JSON paths."""
    if not isinstance(digests, dict) or not isinstance(digests.get("tensors"), dict):
        return "its checksum does not match, and it has no digests to locate the change"
    now, then = _digests(members), dict(digests)
    places = _differing(now.pop("tensors"), then.pop("tensors"), _tensor_path)
    places += _differing(now, then, "$.{:.60}".format)
    if not places:
        return "its checksum does not match its content"
    more = f" and {len(places) - _LISTED_CHANGES} more" if len(places) > _LISTED_CHANGES else ""
    return ", ".join(places[:_LISTED_CHANGES]) + more


def _tensor_path(name: str) -> str:
    return f"$.tensors[{name[:60]!r}]"


def _differing(now: Mapping[str, str], then: Mapping[str, object], path: Callable[[str], str]) -> list[str]:
    found = []
    for name in {**then, **now}:
        if now.get(name) != then.get(name):
            what = " is new" if name not in then else " is missing" if name not in now else ""
            found.append(f"{path(name)}{what}")
    return found


def _entries(ranges: Mapping[str, TensorRange]) -> dict[str, dict[str, float | str | None]]:
    """What the file says of each tensor."""
    return {
        name: {
            "amax": r.amax,
            "minimum": r.minimum,
            "maximum": r.maximum,
            **({"method": r.method} if r.method else {}),
        }
        for name, r in ranges.items()
    }


class _Range(msgspec.Struct):
    amax: float
    minimum: float
    maximum: float
    method: str = ""


class _Members(msgspec.Struct):
    """Members of the file that a table has under the same names."""

    settings: dict[str, Setting]
    preprocessing: Preprocessing | None = None
    skipped: dict[str, str] = {}
    float_tensors: dict[str, str] = {}
    versions: dict[str, str] = {}
    quality: dict[str, float] = {}
    format_version: int = FORMAT_VERSION


class _Model(msgspec.Struct):
    name: str
    hash: str


class _Dataset(msgspec.Struct):
    fingerprint: str
    num_samples: int


def _decode(file: Path, members: Mapping[str, Any]) -> CalibrationTable:
    where = "$"
    try:
        where = "$.model"
        model = msgspec.convert(members.get("model"), _Model)
        where = "$.dataset"
        dataset = msgspec.convert(members.get("dataset"), _Dataset)
        tensors, where = {}, "$.tensors"
        for name, value in msgspec.convert(members.get("tensors"), dict[str, Any]).items():
            where = _tensor_path(name)
            entry = msgspec.convert(value, _Range)
            tensors[name] = TensorRange(entry.amax, entry.minimum, entry.maximum, method=entry.method)
            tensors[name].check_calibrated()
        where = "$"
        rest = {key: value for key, value in members.items() if key not in ("format", "model", "dataset", "tensors")}
        head: dict[str, Any] = {
            "model_hash": model.hash,
            "model_name": model.name,
            "dataset_fingerprint": dataset.fingerprint,
            "num_samples": dataset.num_samples,
        }
        members = msgspec.structs.asdict(msgspec.convert(rest, _Members))
        return CalibrationTable(tensors=tensors, **head, **members)
    except (msgspec.ValidationError, CalibrationError, DatasetError) as error:
        said, _, inner = str(error).partition(" - at `$")
        raise CalibrationError(
            f"{file} is not a valid calibration table: {where}{inner.removesuffix('`')}: {said}"
        ) from error


def open_table(table: CalibrationTable | PathLike) -> CalibrationTable:
    """The table itself, read first where a path is given."""
    return table if isinstance(table, CalibrationTable) else load_table(table)
