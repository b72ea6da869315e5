"""From the statistics of parts of the data to the calibration table of the whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import calibration_facts, check_replaced, stored_table
from quantkit.calibration.choose_ranges import choose_ranges
from quantkit.calibration.methods import bind_method, method_settings
from quantkit.calibration.statistics import merge_tensors
from quantkit.calibration.statistics_file import KeptStatistics, load_statistics, save_statistics
from quantkit.calibration.table import save_table
from quantkit.datasets.fingerprint import fingerprint_of
from quantkit.datasets.placement import PLACEMENT
from quantkit.errors import CalibrationError
from quantkit.notices import Notice, Notify, accepts_tell, announcing, join_names
from quantkit.provenance import differences
from quantkit.storage import check_no_source
from quantkit.types import CalibrationTable, PathLike

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import StatisticsOrigin
    from quantkit.types.calibration import Setting


@accepts_tell
def merge_statistics(
    paths: Sequence[PathLike],
    table_path: PathLike | None = None,
    *,
    method: str = "auto",
    keep_statistics: bool = False,
    progress: bool = True,
    notify: Notify | None = None,
    **method_options: float | None,
) -> CalibrationTable:
    """The table that one run over all parts would give with `--accuracy fast`: a merge has no model to try ranges on.

    The merge is exact. Whether the activations of a sample were the same bits as in one run is up to the runtime: it
    adds up in another order for another batch size and on another kind of processor.

    Args:
        paths: statistics files (MODEL.calib.stats) of disjoint parts of the data, in any order; of arrays in the order
            of their rows.
        table_path: where the table goes.
        method: a name in `quantkit.calibration.methods.METHODS`.
        keep_statistics: leave the merged statistics next to the table: they merge again.
        progress: show a progress bar on a terminal.
        notify: called with each `Notice`; without it, notices are only logged.
        method_options: of the method, such as `percentile`.

    Returns:
        The table; written to `table_path` if that is given.

    Raises:
        OutputError: a part would be replaced by the table or the merged statistics.
        CalibrationError: a file that cannot be used, parts of another model, preprocessing, set of tensors or histogram
            rule, samples that are in two parts, or a table of many more samples that would be replaced.
    """
    notify = announcing(notify)
    bind_method(method, method_options)
    parts = _load_parts(paths, table_path, keep_statistics=keep_statistics)
    _check_alike(parts)
    parts = _numbered_on(parts, notify)
    _check_disjoint(parts, notify)
    _report_inexact(parts, notify)
    whole = _merged(list(parts.values()))
    if table_path is not None:
        fix = "pass all parts, write elsewhere (-o), or delete it first"
        there = Path(table_path)
        check_replaced(there, stored_table(there), whole.origin.model_hash, whole.num_samples, fix=fix)
    ranges, skipped = choose_ranges(whole, method, method_options, progress=progress, notify=notify)
    table = CalibrationTable(
        tensors=ranges,
        skipped=skipped,
        model_hash=whole.origin.model_hash,
        model_name=whole.origin.model_name,
        dataset_fingerprint=fingerprint_of(whole.origin.contents),
        num_samples=whole.num_samples,
        preprocessing=whole.origin.preprocessing,
        settings=_settings(whole.origin.settings, method_settings(method, method_options)),
        versions=whole.origin.versions,
    )
    if table_path is not None:
        if keep_statistics:
            save_statistics(whole, CalibrationFiles(Path(table_path)).statistics)
        save_table(table, table_path)
    return table


def _load_parts(
    paths: Sequence[PathLike], table_path: PathLike | None, *, keep_statistics: bool
) -> dict[str, KeptStatistics]:
    """Statistics by path, none of which the table or the merged statistics would replace."""
    if not paths:
        raise CalibrationError("nothing to merge: pass statistics files (from calibrate --keep-statistics)")
    if table_path is not None:
        if not os.fspath(table_path).endswith(".json"):
            raise CalibrationError(f"{table_path} is not a valid name of a calibration table, which ends in .json")
        check_no_source(table_path, paths)
    if keep_statistics:
        if table_path is None:
            raise CalibrationError("statistics are saved next to the table: pass table_path")
        check_no_source(CalibrationFiles(Path(table_path)).statistics, paths)
    parts: dict[str, KeptStatistics] = {}
    for name in [os.fspath(path) for path in paths]:
        if name in parts:
            raise CalibrationError(f"{name} is given twice: each part may count only once")
        parts[name] = load_statistics(name)
    return parts


def _check_alike(parts: Mapping[str, KeptStatistics]) -> None:
    """Refuses what cannot be parts of one run."""
    (first_name, first), *others = parts.items()
    for name, part in parts.items():
        if not part.is_complete:
            raise CalibrationError(f"{name} is incomplete: finish its calibration with --resume first")
        if part.rule != "exact":
            raise CalibrationError(f"{name} has TensorRT's histogram, which cannot be merged: use --histogram exact")
    for name, part in others:
        if differing := differences(_shared_facts(first), _shared_facts(part)):
            raise CalibrationError(f"{first_name} and {name} cannot be merged: {'; '.join(differing)}")


def _shared_facts(part: KeptStatistics) -> dict[str, object]:
    """What all parts of one run have in common."""
    return {
        **calibration_facts(part.origin, part.origin.settings, PLACEMENT),
        "observed tensors": dict.fromkeys(part.tensors),
        "unclipped tensors": dict.fromkeys(part.origin.unclipped),
    }


def _numbered_on(parts: dict[str, KeptStatistics], notify: Notify) -> dict[str, KeptStatistics]:
    """Parts of arrays with the rows numbered as in the array that was split: each file's numbers begin at 0.

    That needs every row of every part. Otherwise it is unknown which rows of the whole the chosen ones were.
    """
    if len(parts) < 2 or any(part.origin.preprocessing is not None for part in parts.values()):
        return parts
    if not all(_holds_every_row(part) for part in parts.values()):
        ids = [name for part in parts.values() for name, _ in part.origin.contents]
        if len(set(ids)) < len(ids):
            notify(
                Notice(
                    "info",
                    "samples",
                    "rows are identified by their number in a file, and these parts do not contain all rows of "
                    "their files: the data fingerprint of the table is not that of the whole array",
                )
            )
        return parts
    owners: dict[frozenset[str], str] = {}
    numbered, start = {}, 0
    for name, part in parts.items():
        rows = frozenset(content for _, content in part.origin.contents)
        if rows in owners:
            raise CalibrationError(f"{name} and {owners[rows]} contain the same rows: each sample may count only once")
        owners[rows] = name
        contents = tuple((str(start + int(row)), content) for row, content in part.origin.contents)
        numbered[name] = replace(part, origin=replace(part.origin, contents=contents))
        start += len(contents)
    text = f"rows are numbered in the order of the files, 0 to {start - 1}: the data fingerprint is that of the joined"
    notify(Notice("info", "samples", f"{text} array"))
    return numbered


def _holds_every_row(part: KeptStatistics) -> bool:
    return {name for name, _ in part.origin.contents} == {str(i) for i in range(len(part.origin.contents))}


def _report_inexact(parts: Mapping[str, KeptStatistics], notify: Notify) -> None:
    """Warns of what makes the table differ from that of a single run."""
    for name, part in parts.items():
        if part.num_repeated:
            text = (
                f"{name} counts {part.num_repeated} padding samples of fixed-size batches: use parts of a multiple of "
                f"{part.batch_size} samples for a table identical to that of a single run"
            )
            notify(Notice("warning", "padding", text))
    sizes = sorted({part.batch_size for part in parts.values()})
    if len(sizes) > 1:
        listed = join_names(list(map(str, sizes)))
        text = f"the parts used batch sizes {listed}: their activations may differ in the last bits"
        notify(Notice("warning", "samples", text))


def _check_disjoint(parts: Mapping[str, KeptStatistics], notify: Notify) -> None:
    """Refuses a sample of the same id and content in two parts; warns of the same content under two ids."""
    owners: dict[tuple[str, str], str] = {}
    names: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for name, part in parts.items():
        if shared := [sample for sample in part.origin.contents if sample in owners]:
            samples = join_names([identity for identity, _ in shared])
            raise CalibrationError(
                f"{name} and {owners[shared[0]]} both contain {samples}: each sample may count only once"
            )
        renamed.update({i: names[content] for i, content in part.origin.contents if content in names})
        owners.update(dict.fromkeys(part.origin.contents, name))
        names.update({content: i for i, content in part.origin.contents if content != "unreadable"})
    if renamed:
        listed = join_names([f"{new} ({old})" for new, old in renamed.items()])
        notify(
            Notice(
                "warning",
                "samples",
                f"the same samples are in two parts under different names and count twice: {listed}",
            )
        )


def _merged(parts: list[KeptStatistics]) -> KeptStatistics:
    """Statistics of all parts. The result does not depend on their order, but for the order of the samples."""
    first = parts[0]
    versions = {
        key: ", ".join(sorted({part.origin.versions.get(key, "unknown") for part in parts}))
        for key in {key: None for part in parts for key in part.origin.versions}
    }
    settings = {
        key: value if all(part.origin.settings.get(key) == value for part in parts) else None
        for key, value in first.origin.settings.items()
    }
    if "num_samples" in settings:
        # Parts that are whole make a whole, of which the number asked for decides nothing.
        is_whole = all(_takes_all(part.origin) for part in parts)
        settings["num_samples"] = None if is_whole else sum(len(part.origin.contents) for part in parts)
    origin = replace(
        first.origin,
        model_name=min(part.origin.model_name for part in parts),
        contents=tuple(sample for part in parts for sample in part.origin.contents),
        settings=settings,
        versions=versions,
    )
    return KeptStatistics(
        origin=origin,
        tensors=reduce(merge_tensors, (part.tensors for part in parts)),
        num_read=sum(part.num_read for part in parts),
        num_samples=sum(part.num_samples for part in parts),
        unreadable={
            f"{name} (part {number})": reason
            for number, part in enumerate(parts, 1)
            for name, reason in part.unreadable.items()
        },
        batch_size=first.batch_size,
        num_repeated=sum(part.num_repeated for part in parts),
    )


def _takes_all(origin: StatisticsOrigin) -> bool:
    """Whether a part holds all of its data, as far as it says so. (Early files have a larger number then.)"""
    asked = origin.settings.get("num_samples")
    return not isinstance(asked, int) or asked > len(origin.contents)


def _settings(collected: Mapping[str, Setting], chosen: Mapping[str, Setting]) -> dict[str, Setting]:
    """Settings of a table, in the order that `calibrate` gives them."""
    settings: dict[str, Setting] = {}
    for name, value in collected.items():
        settings[name] = value
        if name == "calibrator":
            settings |= chosen
    return settings
