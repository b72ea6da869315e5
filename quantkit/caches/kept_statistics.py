"""Statistics kept from earlier runs: where they are, and whether they belong to a model, data or table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.calibration.statistics_file import load_statistics
from quantkit.datasets.fingerprint import fingerprint_of
from quantkit.errors import CalibrationError
from quantkit.notices import Notice, Notify, join_names
from quantkit.types import PathLike

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin
    from quantkit.types import CalibrationTable

__all__ = [
    "checkpoint_path",
    "find_checkpoint",
    "find_statistics",
    "lock_path",
    "not_of_table",
    "statistics_beside",
    "statistics_path",
]


def statistics_path(table_path: PathLike) -> Path:
    """Where statistics are kept: MODEL.calib.stats next to MODEL.calib.json."""
    return Path(table_path).with_suffix(".stats")


def checkpoint_path(table_path: PathLike) -> Path:
    """Where an unfinished run leaves its statistics: MODEL.calib.partial next to MODEL.calib.json."""
    return Path(table_path).with_suffix(".partial")


def lock_path(table_path: PathLike) -> Path:
    """Held while the files of one calibration are written: .MODEL.calib.lock next to MODEL.calib.json."""
    path = Path(table_path)
    return path.with_name(f".{path.name.removesuffix('.json').removesuffix('.calib')}.calib.lock")


def find_statistics(
    path: Path, origin: StatisticsOrigin, tensors: tuple[str, ...], *, strict: bool, notify: Notify
) -> KeptStatistics | None:
    """The kept statistics at `path`, if collecting would give the same ones; says why not otherwise."""
    if not path.exists():
        return None
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        notify(Notice("warning", "unreadable", str(error)))
        return None
    differences = _differences(kept, origin, tensors)
    if not kept.is_complete:
        differences.append("unfinished")
    if strict and kept.unreadable:
        differences.append(f"strict: {len(kept.unreadable)} samples could not be read")
    if differences:
        notify(Notice("info", "reuse", f"not using {path.name}, kept of other inputs: {'; '.join(differences)}"))
        return None
    return kept


def find_checkpoint(
    path: Path,
    origin: StatisticsOrigin,
    tensors: tuple[str, ...],
    *,
    batch_size: int | None,
    strict: bool,
    notify: Notify,
) -> KeptStatistics | None:
    """The statistics of an interrupted run, if continuing gives what an uninterrupted one would; else says why not."""
    if not path.exists():
        notify(Notice("info", "reuse", f"nothing to resume: there is no {path}; starting anew"))
        return None
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        notify(Notice("warning", "unreadable", f"{error}; starting anew"))
        return None
    differences = _differences(kept, origin, tensors)
    if not differences and kept.origin.contents != origin.contents:
        differences.append("order of the samples")
    if kept.origin.versions != origin.versions:
        differences.append(f"versions: {_versions_text(kept.origin)} → {_versions_text(origin)}")
    if batch_size not in (None, kept.batch_size):
        differences.append(f"batch size: {kept.batch_size} → {batch_size}")
    if strict and kept.unreadable:
        differences.append(f"strict: {len(kept.unreadable)} samples could not be read")
    if differences:
        notify(
            Notice(
                "info",
                "reuse",
                f"starting anew, since {path.name} was left by a run with other inputs: {'; '.join(differences)}",
            )
        )
        return None
    notify(Notice("info", "reuse", f"resuming after {kept.num_read} of {len(origin.contents)} samples ({path.name})"))
    return kept


def _differences(kept: KeptStatistics, origin: StatisticsOrigin, tensors: tuple[str, ...]) -> list[str]:
    """Names of what differs between stored statistics and those that a run would collect, in a user's words."""
    old = kept.origin
    differences = []
    if old.model_hash != origin.model_hash:
        differences.append(f"model hash: {old.model_hash[:12]} → {origin.model_hash[:12]}")
    elif tuple(kept.tensors) != tensors:
        differences.append(f"observed tensors: {len(kept.tensors)} → {len(tensors)}")
    changed = dict(old.contents).items() ^ dict(origin.contents).items()
    if changed:
        differences.append(f"samples: {join_names(sorted({name for name, _ in changed}))}")
    if old.preprocessing != origin.preprocessing:
        differences.append("preprocessing")
    deciding = ["histogram"]
    if origin.settings["histogram"] == "tensorrt":
        deciding += ["order", "seed", "batch_size"]
    for name in deciding:
        if old.settings.get(name) != origin.settings[name]:
            differences.append(f"{name.replace('_', ' ')}: {old.settings.get(name)} → {origin.settings[name]}")
    return differences


def _versions_text(origin: StatisticsOrigin) -> str:
    return ", ".join(f"{name} {version}" for name, version in origin.versions.items())


def statistics_beside(table_path: PathLike, table: CalibrationTable) -> tuple[KeptStatistics | None, str]:
    """The statistics next to a table, or why they are not used; (None, "") where there are none."""
    path = statistics_path(table_path)
    if not path.is_file():
        return None, ""
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        return None, str(error)
    if differing := not_of_table(kept, table):
        return None, f"{path.name} beside it is not of this table ({differing}): it is not used"
    return kept, ""


def not_of_table(kept: KeptStatistics, table: CalibrationTable) -> str:
    """What shows that a table was not made of statistics; "" where nothing does."""
    origin = kept.origin
    if not kept.is_complete:
        return f"unfinished: {kept.num_read} of {len(origin.contents)} samples"
    if origin.model_hash != table.model_hash:
        return f"model hash {origin.model_hash[:12]}, not {table.model_hash[:12]}"
    fingerprint = fingerprint_of(origin.contents)
    if fingerprint != table.dataset_fingerprint:
        return f"data fingerprint {fingerprint[:12]}, not {table.dataset_fingerprint[:12]}"
    if origin.preprocessing != table.preprocessing:
        return "other preprocessing"
    for name, tensor in kept.tensors.items():
        stated = table.tensors.get(name)
        if stated is None and name not in table.skipped:
            return f"the table does not have tensor {name!r}"
        if stated is not None and (stated.minimum, stated.maximum) != (tensor.minimum, tensor.maximum):
            return f"tensor {name!r} was seen from {tensor.minimum:.6g} to {tensor.maximum:.6g} in it"
    if missing := [name for name in table.tensors if name not in kept.tensors]:
        return f"it does not have tensor {missing[0]!r}"
    return ""
