"""What an earlier calibration left that can be used again, and what decides that it is stale.

A table, kept statistics or a checkpoint belongs to a run where `calibration_facts` and the data of both are the same;
`strict` asks in addition that every sample could be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.methods import method_settings
from quantkit.calibration.refinement_file import refinement_path
from quantkit.calibration.statistics_file import load_statistics
from quantkit.calibration.table import load_table
from quantkit.datasets.batching import count_readable
from quantkit.datasets.fingerprint import fingerprint_of
from quantkit.datasets.placement import PLACEMENT
from quantkit.errors import CalibrationError, StaleTableError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, plural
from quantkit.provenance import MODEL_HASH, differences, why_stale
from quantkit.types import CalibrationTable, PathLike

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin
    from quantkit.types import Dataset
    from quantkit.types.calibration import Setting
    from quantkit.types.options import CalibrationOptions

_OF_ORDER = ("order", "seed", "batch_size")
"""Settings that decide numbers only where the histogram depends on the order of the samples: TensorRT's rule."""

_DECIDING = ("accuracy", "rounding", "histogram", "observed", "ort_extension", *PLACEMENT)
"""Settings that decide the numbers of every table, beside calibrator and method."""

Stored = CalibrationTable | CalibrationError | None
"""A table; why it cannot be read; or nothing there."""

_FAR_FEWER = 10
"""A table made from so many times as many samples is not replaced unasked."""

_WITH_FORCE = "check --data, write elsewhere (calibrate -o), or replace it with calibrate --force"


def calibration_facts(
    made_from: CalibrationTable | StatisticsOrigin, settings: Mapping[str, Setting], deciding: Iterable[str]
) -> dict[str, object]:
    """What decides the numbers of a table or of statistics, but for the data, by name.

    Args:
        made_from: the table, or what statistics belong to.
        settings: of that file, or of the run.
        deciding: names of the settings that decide.
    """
    return {
        MODEL_HASH: made_from.model_hash,
        "preprocessing": made_from.preprocessing,
        **{name.replace("_", " "): settings.get(name) for name in deciding},
    }


def why_not_of_model(table: CalibrationTable, model: FloatModel) -> str:
    """Why a table is stale for a float model, and the fix; "" where it was made from this model."""
    reason = why_stale(
        f"the calibration table of {table.model_name!r}", {MODEL_HASH: table.model_hash}, {MODEL_HASH: model.hash}
    )
    return reason and f"{reason}: calibrate {model.name!r} again"


def check_table(table: CalibrationTable, model: FloatModel) -> None:
    """Raises `StaleTableError`, naming both hashes, unless the table was made from this model."""
    if reason := why_not_of_model(table, model):
        raise StaleTableError(reason)


def stored_table(path: Path) -> Stored:
    """What there is at the path of a table."""
    if not path.exists():
        return None
    try:
        return load_table(path)
    except CalibrationError as error:
        return error


def find_table(
    path: Path,
    stored: Stored,
    origin: StatisticsOrigin,
    settings: Mapping[str, Setting],
    dataset: Dataset,
    options: CalibrationOptions,
    *,
    notify: Notify,
) -> CalibrationTable | None:
    """The stored table, if calibrating would give the same one; says why not otherwise.

    Args:
        path: of the table.
        stored: what `stored_table` found there.
        origin: what the run calibrates on.
        settings: of the run, as its table would have them.
        dataset: the samples of `origin`. Those that a table left out make it stale as soon as they can be read.
        options: of the run.
        notify: called with the reason.

    Raises:
        StaleTableError: with `reuse_only` among the options, naming what differs.
    """
    reuse_only = options.reuse_only
    if stored is None:
        if reuse_only:
            raise StaleTableError(f"there is no calibration table {path} to reuse: omit --reuse-only")
        return None
    if isinstance(stored, CalibrationError):
        if reuse_only:
            raise StaleTableError(str(stored)) from stored
        notify(Notice("warning", "unreadable", str(stored)))
        return None
    of_method = method_settings(str(settings["method"]), {})
    of_order = _OF_ORDER if settings["histogram"] == "tensorrt" or settings["calibrator"] != "quantkit" else ()
    deciding = ("calibrator", *of_method, *_DECIDING, *of_order)
    fingerprint = fingerprint_of(origin.contents)
    before = calibration_facts(stored, stored.settings, deciding)
    after = calibration_facts(origin, settings, deciding)
    if stored.dataset_fingerprint != fingerprint:  # and how the samples were chosen, which explains it
        before |= {"dataset fingerprint": stored.dataset_fingerprint, **_choice(stored.settings)}
        after |= {"dataset fingerprint": fingerprint, **_choice(settings)}
        asked = settings["num_samples"]
        if asked not in (None, stored.settings.get("num_samples")):  # whoever takes all changes by what there is
            before["num samples"], after["num samples"] = stored.num_samples, asked
    found = differences(before, after)
    num_chosen = len(origin.contents)
    unreadable = num_chosen - stored.num_samples if stored.dataset_fingerprint == fingerprint else 0
    if options.strict and unreadable:
        found.append(f"strict: {unreadable} of {num_chosen} samples could not be read")
    elif unreadable and stored.num_samples < options.min_readable * num_chosen:
        found.append(f"--min-readable {options.min_readable:g}: {unreadable} of {num_chosen} samples were not readable")
    if not found and unreadable and (now := count_readable(dataset)) != stored.num_samples:
        found.append(f"readable samples: {stored.num_samples} → {now}")
    if found and reuse_only:
        raise StaleTableError(f"{path} does not fit: {'; '.join(found)}: run without --reuse-only")
    if found:
        text = f"Recalibrating: {path.name} was made from different inputs: {'; '.join(found)}"
        notify(Notice("info", "reuse", text))
        return None
    if unreadable:
        text = f"the table leaves out {unreadable} of {num_chosen} samples, which could not be read"
        notify(Notice("warning", "unreadable", text))
    if "rounding" in settings and stored.refinement is None:
        reason = f"{refinement_path(path).name} is not beside {path.name}, or damaged, or of another run"
        if reuse_only:
            raise StaleTableError(f"{reason}: run without --reuse-only")
        notify(Notice("info", "reuse", f"Recalibrating: {reason}"))
        return None
    text = f"Reusing {path}: same model, data, preprocessing and settings. Pass --force to recalibrate."
    notify(Notice("info", "reuse", text))
    return stored


def check_replaced(
    path: Path, stored: Stored, model_hash: str, count: int, *, asked: int | None = None, fix: str = _WITH_FORCE
) -> None:
    """Keeps a table of the same model that was made from many more samples: the data are probably not those meant.

    Args:
        path: of the table that would be replaced.
        stored: what `stored_table` found there.
        model_hash: of the model of the new one.
        count: of the samples of the new one.
        asked: how many were asked for. Where the data have so many, they are those meant.
        fix: what to do about it, to end the message.

    Raises:
        CalibrationError: naming both numbers, and how to replace the table nevertheless.
    """
    if not isinstance(stored, CalibrationTable) or (asked is not None and count >= asked):
        return
    if stored.model_hash == model_hash and count * _FAR_FEWER <= stored.num_samples:
        raise CalibrationError(
            f"{path} was made from {stored.num_samples:,} samples and would be replaced by one from "
            f"{plural(count, 'sample')}: {fix}"
        )


def find_statistics(
    path: Path,
    origin: StatisticsOrigin,
    tensors: tuple[str, ...],
    dataset: Dataset,
    *,
    strict: bool,
    notify: Notify,
) -> KeptStatistics | None:
    """The kept statistics at `path`, if collecting would give the same ones; says why not otherwise."""
    if not path.exists():
        return None
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        notify(Notice("warning", "unreadable", str(error)))
        return None
    found = _differences(kept, origin, tensors, strict=strict, dataset=dataset)
    if not kept.is_complete:
        found.append("unfinished")
    if found:
        text = f"Not using {path.name}, which was collected from different inputs: {'; '.join(found)}"
        notify(Notice("info", "reuse", text))
        return None
    return kept


def find_checkpoint(
    path: Path,
    origin: StatisticsOrigin,
    tensors: tuple[str, ...],
    dataset: Dataset,
    *,
    batch_size: int | None,
    strict: bool,
    notify: Notify,
) -> KeptStatistics | None:
    """The statistics of an interrupted run, if continuing gives what an uninterrupted one would; else says why not."""
    if not path.exists():
        notify(Notice("info", "reuse", f"Nothing to resume: {path} does not exist. Starting from the first sample."))
        return None
    try:
        kept = load_statistics(path)
    except CalibrationError as error:
        notify(Notice("warning", "unreadable", f"{error}; starting from the first sample"))
        return None
    found = _differences(kept, origin, tensors, strict=strict, dataset=dataset)
    if not found and kept.origin.contents != origin.contents:
        found.append("order of the samples")
    found += differences({"versions": _versions_text(kept.origin)}, {"versions": _versions_text(origin)})
    if batch_size is not None:
        found += differences({"batch size": kept.batch_size}, {"batch size": batch_size})
    if found:
        text = f"Starting from the first sample: {path.name} was left by a run with different inputs: "
        text += "; ".join(found)
        notify(Notice("info", "reuse", text))
        return None
    notify(Notice("info", "reuse", f"Resuming after {kept.num_read} of {len(origin.contents)} samples ({path.name})."))
    return kept


def _differences(
    kept: KeptStatistics, origin: StatisticsOrigin, tensors: tuple[str, ...], *, strict: bool, dataset: Dataset
) -> list[str]:
    """What differs between stored statistics and those that a run would collect."""
    deciding = ("histogram", *PLACEMENT, *(_OF_ORDER if origin.settings["histogram"] == "tensorrt" else ()))
    before = {"samples": dict(kept.origin.contents), **calibration_facts(kept.origin, kept.origin.settings, deciding)}
    after = {"samples": dict(origin.contents), **calibration_facts(origin, origin.settings, deciding)}
    if kept.origin.model_hash == origin.model_hash:
        before["observed tensors"], after["observed tensors"] = dict.fromkeys(kept.tensors), dict.fromkeys(tensors)
    found = differences(before, after)
    if strict and kept.unreadable:
        found.append(f"strict: {len(kept.unreadable)} samples could not be read")
    if not found and kept.unreadable and (now := count_readable(dataset, kept.unreadable)):
        found.append(f"{now} samples that were left out can be read now")
    return found


def _choice(settings: Mapping[str, Setting]) -> dict[str, object]:
    return {name: settings.get(name) for name in ("seed", "order")}


def _versions_text(origin: StatisticsOrigin) -> str:
    return ", ".join(f"{name} {version}" for name, version in origin.versions.items())


def statistics_beside(table_path: PathLike, table: CalibrationTable) -> tuple[KeptStatistics | None, str]:
    """The statistics next to a table, or why they are not used; (None, "") where there are none."""
    path = CalibrationFiles(Path(table_path)).statistics
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
    found = differences(
        {**calibration_facts(origin, {}, ()), "data fingerprint": fingerprint_of(origin.contents)},
        {**calibration_facts(table, {}, ()), "data fingerprint": table.dataset_fingerprint},
    )
    if found:
        return found[0]
    for name, tensor in kept.tensors.items():
        stated = table.tensors.get(name)
        if stated is None and name not in table.skipped:
            return f"the table does not have tensor {name!r}"
        if stated is not None and (stated.minimum, stated.maximum) != (tensor.minimum, tensor.maximum):
            return f"tensor {name!r} was seen from {tensor.minimum:.6g} to {tensor.maximum:.6g} in it"
    if missing := [name for name in table.tensors if name not in kept.tensors]:
        return f"it does not have tensor {missing[0]!r}"
    return ""
