"""One calibration: the table that is there if it fits, else statistics that were kept, else a pass over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit._version import __version__
from quantkit.backends.tensorrt.build.manifest import write_engine
from quantkit.caches.kept_statistics import checkpoint_path, find_checkpoint, find_statistics, statistics_path
from quantkit.calibration.choose_ranges import choose_ranges
from quantkit.calibration.methods import method_settings
from quantkit.calibration.statistics_file import save_statistics
from quantkit.calibration.table import differing_fields, load_table, save_table
from quantkit.commands.build import describe_engine
from quantkit.commands.collect import collect_statistics
from quantkit.commands.native_calibration import calibrate_natively
from quantkit.errors import CalibrationError, StaleTableError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.expose import expose
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.notices import Notice, Notify
from quantkit.storage import write_bytes
from quantkit.types import CalibrationTable, Dataset, PathLike, TensorRange

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.library import Library
    from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin

__all__ = ["CalibrationRun"]

_FEW_SAMPLES = 100


@dataclass(frozen=True)
class CalibrationRun:
    """What a calibration was asked for, checked and opened; the arguments of `calibrate` have their names."""

    model: FloatModel
    dataset: Dataset
    origin: StatisticsOrigin
    settings: Mapping[str, str | int | float | bool | None]
    tensors: tuple[str, ...]
    native: Library | None
    table_path: Path | None
    method_options: Mapping[str, float | None]
    batch_size: int | None
    strict: bool
    force: bool
    reuse_only: bool
    keep_statistics: bool
    resume: bool
    cache_path: PathLike | None
    engine_path: PathLike | None
    exclude: Sequence[str]
    workers: int | None
    progress: bool
    notify: Notify

    @property
    def method(self) -> str:
        """Name of the calibration method."""
        return str(self.settings["method"])

    def make(self) -> CalibrationTable:
        """The table that is there if it fits, else a new one."""
        kept = self._find_kept()
        reused = self._reuse(kept)
        if reused is not None:
            return reused
        if self.native is not None:
            return self._calibrate_natively(self.native)
        return self._calibrate(kept)

    def _find_kept(self) -> KeptStatistics | None:
        """Statistics next to the table that this run would collect again."""
        if self.table_path is None or self.native is not None or self.force or self.reuse_only:
            return None
        path = statistics_path(self.table_path)
        return find_statistics(path, self.origin, self.tensors, strict=self.strict, notify=self.notify)

    def _reuse(self, kept: KeptStatistics | None) -> CalibrationTable | None:
        if self.reuse_only and (self.force or self.table_path is None):
            raise StaleTableError("--reuse-only needs a table to reuse, and excludes --force")
        if self.table_path is None or self.force:
            return None
        if self.keep_statistics and kept is None and not self.reuse_only:
            return None
        wanted = {
            "model_hash": self.model.hash,
            "dataset_fingerprint": self.dataset.fingerprint,
            "preprocessing": self.dataset.preprocessing,
        }
        return _reuse(
            self.table_path,
            wanted,
            self.settings,
            num_chosen=len(self.dataset),
            strict=self.strict,
            reuse_only=self.reuse_only,
            notify=self.notify,
        )

    def _calibrate_natively(self, native: Library) -> CalibrationTable:
        made = calibrate_natively(
            native,
            self.model,
            self.dataset,
            method=self.method,
            batch_size=self.batch_size,
            exclude=self.exclude,
            strict=self.strict,
            workers=self.workers,
            progress=self.progress,
            notify=self.notify,
        )
        self.model.check_unchanged()
        versions = {"quantkit": __version__, native.name: ".".join(map(str, native.version))}
        table = self._table(made.ranges, made.skipped, made.num_samples, versions)
        if self.cache_path is not None:
            write_bytes(self.cache_path, made.cache)
        if self.engine_path is not None:
            manifest = describe_engine(native, self.model, table, made.options, self.exclude)
            write_engine(self.engine_path, made.engine, manifest)
            self.notify(Notice("info", "engine", f"engine: {self.engine_path}"))
        return _finish(table, self.table_path, self.notify)

    def _calibrate(self, kept: KeptStatistics | None) -> CalibrationTable:
        checkpoint = None if self.table_path is None else checkpoint_path(self.table_path)
        if kept is not None:
            text = f"using the statistics kept in {statistics_path(self.table_path or '')}: the model need not run"
            self.notify(Notice("info", "reuse", text))
        else:
            kept = self._collect(checkpoint)
        ranges, skipped = choose_ranges(
            kept, self.method, self.method_options, progress=self.progress, notify=self.notify
        )
        if kept.rule == "tensorrt":
            amax = propagate_to_copies(self.model.prepared(), {tensor: r.amax for tensor, r in ranges.items()})
            ranges = {tensor: replace(r, amax=amax[tensor]) for tensor, r in ranges.items()}
        table = self._table(ranges, skipped, kept.num_samples, kept.origin.versions)
        _finish(table, self.table_path, self.notify)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return table

    def _collect(self, checkpoint: Path | None) -> KeptStatistics:
        resumed = None
        if self.resume and checkpoint is not None:
            resumed = find_checkpoint(
                checkpoint,
                self.origin,
                self.tensors,
                batch_size=self.batch_size,
                strict=self.strict,
                notify=self.notify,
            )
        elif checkpoint is not None and checkpoint.exists():
            self.notify(
                Notice(
                    "info",
                    "reuse",
                    f"an interrupted run left {checkpoint}: --resume continues it, this run starts anew",
                )
            )
        kept = collect_statistics(
            expose(self.model.prepared(), self.tensors),
            self.dataset,
            self.tensors,
            self.origin,
            rule="tensorrt" if self.settings["histogram"] == "tensorrt" else "exact",
            batch_size=self.batch_size,
            resumed=resumed,
            checkpoint=checkpoint,
            strict=self.strict,
            workers=self.workers,
            progress=self.progress,
            notify=self.notify,
        )
        self.model.check_unchanged()
        if self.keep_statistics and self.table_path is not None:
            save_statistics(kept, statistics_path(self.table_path))
        return kept

    def _table(
        self,
        ranges: Mapping[str, TensorRange],
        skipped: Mapping[str, str],
        num_samples: int,
        versions: Mapping[str, str],
    ) -> CalibrationTable:
        return CalibrationTable(
            tensors=ranges,
            skipped=skipped,
            model_hash=self.model.hash,
            model_name=self.model.name,
            dataset_fingerprint=self.dataset.fingerprint,
            num_samples=num_samples,
            preprocessing=self.dataset.preprocessing,
            settings=self.settings,
            versions=versions,
        )


def _finish(table: CalibrationTable, path: PathLike | None, notify: Notify) -> CalibrationTable:
    """Says what a user should know of a new table, and writes it."""
    if table.num_samples < _FEW_SAMPLES:
        count = "1 sample is" if table.num_samples == 1 else f"{table.num_samples} samples are"
        notify(Notice("warning", "samples", f"{count} few to calibrate with: {_FEW_SAMPLES} to 500 are usual"))
    for tensor in table.skipped:
        notify(Notice("warning", "constant", f"tensor {tensor!r} was zero on every sample: it stays in float"))
    if path is not None:
        save_table(table, path)
    return table


def _reuse(
    path: Path,
    wanted: Mapping[str, object],
    settings: Mapping[str, str | int | float | bool | None],
    *,
    num_chosen: int,
    strict: bool,
    reuse_only: bool,
    notify: Notify,
) -> CalibrationTable | None:
    """The table at `path` if a new calibration would give the same one."""
    if not path.exists():
        if reuse_only:
            raise StaleTableError(f"there is no calibration table {path} to reuse: run without --reuse-only")
        return None
    try:
        stored = load_table(path)
    except CalibrationError as error:
        if reuse_only:
            raise StaleTableError(str(error)) from error
        notify(Notice("warning", "unreadable", str(error)))
        return None
    deciding = ["calibrator", *method_settings(str(settings["method"]), {}), "histogram", "observed"]
    if settings["histogram"] == "tensorrt":
        deciding += ["order", "seed", "batch_size"]
    differences = differing_fields(stored, {**wanted, **{name: settings[name] for name in deciding}})
    if "dataset_fingerprint" in differences:
        differences |= differing_fields(stored, {name: settings[name] for name in ("seed", "order")})
        asked = [stored.settings.get("num_samples"), settings["num_samples"]]
        if asked[0] != asked[1] and asked[1] is not None:  # whoever takes all changes by what there is
            differences["num_samples"] = f"num samples: {stored.num_samples} → {asked[1]}"
    unreadable = num_chosen - stored.num_samples
    if strict and unreadable:
        differences["strict"] = f"strict: {unreadable} of {num_chosen} samples could not be read"
    if not differences:
        if unreadable:
            notify(
                Notice(
                    "warning",
                    "unreadable",
                    f"the table leaves out {unreadable} of {num_chosen} samples, which could not be read",
                )
            )
        notify(
            Notice(
                "info",
                "reuse",
                f"reusing {path}: same model, data, preprocessing and settings (--force calibrates again)",
            )
        )
        return stored
    if reuse_only:
        raise StaleTableError(f"{path} does not fit: {'; '.join(differences.values())}: run without --reuse-only")
    notify(
        Notice(
            "info",
            "reuse",
            f"calibrating again, since {path.name} was made with other inputs: {'; '.join(differences.values())}",
        )
    )
    return None
