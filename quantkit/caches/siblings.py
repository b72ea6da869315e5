"""Files that one calibration writes together: whether those beside each other are of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.tensorrt.build.manifest import load_manifest
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.open import open_cache
from quantkit.caches.reuse import statistics_beside, why_not_of_model
from quantkit.calibration.refinement_file import load_refinement
from quantkit.calibration.table import TABLE_KEY, load_table, table_checksum, table_sha256
from quantkit.errors import CalibrationError, QuantKitError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.notices import join_names
from quantkit.provenance import TABLE_CHECKSUM, why_stale
from quantkit.types import CalibrationTable
from quantkit.types.calibration import bits_from_amax

if TYPE_CHECKING:
    from quantkit.caches.range_cache import RangeCache
    from quantkit.types import CalibrationTable

_NATIVE = "TensorRT"
"""First name in the calibrator of a table that TensorRT itself calibrated, or that came from its cache."""

_ORIGIN = "tensorrt"
"""Method of a range in a table with the method `auto` that is TensorRT's own."""


def describe_provenance(path: Path, made_of: str, used: CalibrationTable | None = None) -> tuple[str, ...]:
    """Says of which table an INT8 model was made, and whether that is the one in use, or else the one beside it.

    Args:
        path: of the model.
        made_of: checksum of a table, from the model's metadata (`TABLE_KEY`); "" where it names none.
        used: table that other models are made of in the same run.

    Returns:
        One sentence each; () if the model names no table, or that of the run.
    """
    if not made_of:
        return ()
    if used is not None:
        reason = _other_table("it", made_of, used)
        return (reason,) if reason else ()
    made = f"made of calibration table {made_of[:12]}"
    files = CalibrationFiles.of_member(path)
    if files is None or not files.table.is_file():
        return (f"{made}, which is not beside it",)
    try:
        reason = _other_table("it", made_of, load_table(files.table))
    except QuantKitError as error:
        return (made, f"the table next to it cannot be used: {error}")
    return (f"{reason} ({files.table.name} beside it)" if reason else f"{made}, which is {files.table.name} beside it",)


def find_stale_siblings(path: Path, cache: RangeCache, model: FloatModel) -> tuple[list[str], list[str]]:
    """Compares a file with the others of its set.

    Args:
        path: of the file.
        cache: its ranges.
        model: the float model.

    Returns:
        What makes the set stale, and what is worth knowing; one sentence each.
    """
    files = CalibrationFiles.of_member(path)
    if files is None:
        return [], list(describe_provenance(path, cache.made_of))
    if cache.table is not None:
        return _beside_table(files, cache.table, model) if path == files.table else ([], [])
    if cache.form not in ("tensorrt", "qdq"):
        return [], []
    return _against_table(path, files, cache, model)


def _beside_table(files: CalibrationFiles, table: CalibrationTable, model: FloatModel) -> tuple[list[str], list[str]]:
    problems, notes = [], []
    for quantized in files.models:
        if not quantized.is_file():
            continue
        try:
            made_of = FloatModel(quantized).graph.metadata_props.get(TABLE_KEY, "")
        except QuantKitError as error:
            notes.append(str(error))
            continue
        if reason := _other_table(quantized.name, made_of, table):
            problems.append(f"{reason}: recreate it with quantkit quantize")
    # What inherits a range, only the model that the table is of can say.
    if files.tensorrt_cache.is_file() and not why_not_of_model(table, model):
        try:
            differing = _other_scales(open_cache(files.tensorrt_cache), table, model)
        except QuantKitError as error:
            notes.append(str(error))
        else:
            if differing:
                problems.append(
                    f"{files.tensorrt_cache.name} next to it has other scales ({differing}): recreate it with "
                    "quantkit calibrate, or cache convert --to tensorrt --model"
                )
    if reason := _weights_beside(files, table):
        problems.append(reason)
    return problems, [*notes, *_others_beside(files, table)]


def _against_table(
    path: Path, files: CalibrationFiles, cache: RangeCache, model: FloatModel
) -> tuple[list[str], list[str]]:
    provenance = list(describe_provenance(path, cache.made_of))
    if not files.table.is_file():
        return [], provenance
    try:
        table = load_table(files.table)
    except QuantKitError as error:
        return [], [f"the table next to it cannot be used: {error}"]
    of_other_model = why_not_of_model(table, model)
    if cache.form == "qdq":
        if reason := _other_table(path.name, cache.made_of, table):
            return [f"{reason}: recreate it with quantkit quantize"], []
        if cache.made_of and of_other_model:
            return [f"it was made of {files.table.name}: {of_other_model}"], []
        return [], provenance
    if of_other_model:
        return [], [f"{files.table.name} next to it is not compared: {of_other_model}"]
    if differing := _other_scales(cache, table, model):
        other = f"it has other scales than {files.table.name} beside it"
        return [f"{other} ({differing}): one of them is of another run"], []
    return [], [f"its scales are those of {files.table.name} beside it"]


def _other_table(name: str, made_of: str, table: CalibrationTable) -> str:
    """Why what names a table by its checksum was not made of this one; "" where it was, or names none."""
    own = table_checksum(table)
    return why_stale(name, {TABLE_CHECKSUM: made_of or own}, {TABLE_CHECKSUM: own})


def _other_scales(cache: RangeCache, table: CalibrationTable, model: FloatModel) -> str:
    """Tensors for which a TensorRT cache does not say what a table says; "" if there are none."""
    own: Mapping[str, float] = {name: r.amax for name, r in table.tensors.items()}
    # What TensorRT inherits, and what it lists at all, it decides by itself. Some tables hold 127 * scale as float32.
    by_tensorrt = str(table.settings.get("calibrator", "")).partition(" ")[0] == _NATIVE
    if by_tensorrt and table.method == "auto":  # its ranges were candidates: those that were chosen have to be there
        listed_bits = {r.scale_bits for r in cache.tensors.values()}
        chosen = [name for name, r in table.tensors.items() if r.method == _ORIGIN]
        return join_names([name for name in chosen if table.tensors[name].scale_bits not in listed_bits])
    inherited = {} if by_tensorrt else propagate_to_copies(model.prepared(), own)
    differing = []
    for name in {**own, **inherited}:
        allowed = {bits_from_amax(ranges[name]) for ranges in (own, inherited) if name in ranges}
        listed = cache.tensors.get(name)
        if listed is not None and all(abs(listed.scale_bits - bits) > by_tensorrt for bits in allowed):
            differing.append(name)
        elif listed is None and not by_tensorrt:
            differing.append(f"{name} is not listed")
    return join_names(differing)


def _others_beside(files: CalibrationFiles, table: CalibrationTable) -> list[str]:
    """What else lies beside a table: nothing of it makes the table stale."""
    notes = []
    if reason := statistics_beside(files.table, table)[1]:
        notes.append(reason)
    if files.checkpoint.is_file():
        notes.append(f"an interrupted run left {files.checkpoint.name}: calibrate --resume continues it")
    others = {form: reason for form, reason in table.unusable.items() if form != "int8"}
    notes += [f"{reason}: recreate it with --format {form}" for form, reason in others.items()]
    if reason := _engine_beside(files, table):
        notes.append(f"{reason}: build it again")
    return notes


def _weights_beside(files: CalibrationFiles, table: CalibrationTable) -> str:
    """What is wrong with the rounded weights next to a table; "" where nothing is."""
    if "rounding" not in table.settings:
        return ""
    try:
        load_refinement(files.refinement, table=table_checksum(table))
    except CalibrationError as error:
        return str(error)
    return ""


def _engine_beside(files: CalibrationFiles, table: CalibrationTable) -> str:
    """Why the engine next to a table was not built from it; "" where it was, or its manifest names no table."""
    try:
        stated = load_manifest(files.engine_manifest).table.get("sha256") if files.engine.is_file() else None
    except QuantKitError:
        return ""
    own = table_sha256(table)
    return why_stale(files.engine.name, {"table sha256": stated or own}, {"table sha256": own})
