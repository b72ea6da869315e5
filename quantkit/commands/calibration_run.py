"""One calibration: the table that is there if it fits, else statistics that were kept, else a pass over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit._version import __version__
from quantkit.backends.tensorrt.build.manifest import write_engine
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import Stored, check_replaced, find_statistics, find_table, stored_table
from quantkit.calibration.choose_ranges import choose_ranges
from quantkit.calibration.refinement_file import save_refinement
from quantkit.calibration.statistics_file import save_statistics
from quantkit.calibration.table import save_table, table_checksum
from quantkit.commands.build import describe_engine
from quantkit.commands.cluster import collect_on_cluster
from quantkit.commands.collect import collect_statistics, find_interrupted, warn_of_samples
from quantkit.commands.extensions import unobserved_tensors
from quantkit.commands.native_calibration import NativeCalibration, build_of_table, calibrate_natively
from quantkit.commands.on_device import Member, open_members
from quantkit.commands.refine_table import refine_table
from quantkit.errors import StaleTableError
from quantkit.evaluation.conversion import tell_conversion
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import ObservedTensors
from quantkit.graph.passes.expose import expose
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.notices import Notice, Notify
from quantkit.refinement.quality import warn_if_low
from quantkit.storage import write_bytes
from quantkit.types import CalibrationTable, Dataset, PathLike, TensorRange
from quantkit.types.calibration import Setting
from quantkit.types.options import CalibrationOptions

if TYPE_CHECKING:
    from quantkit.backends.devices import Devices
    from quantkit.backends.tensorrt.library import Library
    from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin


@dataclass(frozen=True)
class CalibrationRun:
    """What a calibration was asked for, checked and opened; the arguments of `calibrate` have their names.

    Attributes:
        runnable: the part of the model that ONNX Runtime can run: all of it, or what lies before plugins.
    """

    model: FloatModel
    runnable: FloatModel
    data: PathLike
    dataset: Dataset
    origin: StatisticsOrigin
    settings: Mapping[str, Setting]
    observed: ObservedTensors
    native: Library | None
    devices: Devices
    files: CalibrationFiles | None
    options: CalibrationOptions
    notify: Notify

    def make(self) -> CalibrationTable:
        """The table that is there if it fits, else a new one."""
        kept = self._find_kept()
        if self.options.reuse_only and (self.options.force or self.files is None):
            raise StaleTableError("--reuse-only needs a table to reuse, and excludes --force")
        if self.files is not None and not self.options.force:
            path, stored = self.files.table, stored_table(self.files.table)
            if (reused := self._reuse(path, stored, kept)) is not None:
                warn_if_low(reused.quality, self.notify, effort=self.options.effort)
                return reused
            check_replaced(path, stored, self.model.hash, len(self.dataset), asked=self.options.num_samples)
        if self.native is not None and self.options.method != "auto":
            return self._calibrate_natively(self.native)
        return self._calibrate(kept)

    def _find_kept(self) -> KeptStatistics | None:
        """Statistics next to the table that this run would collect again."""
        if self.files is None or self.native is not None or self.options.force or self.options.reuse_only:
            return None
        return find_statistics(
            self.files.statistics,
            self.origin,
            self.observed.names,
            self.dataset,
            strict=self.options.strict,
            notify=self.notify,
        )

    def _reuse(self, path: Path, stored: Stored, kept: KeptStatistics | None) -> CalibrationTable | None:
        if self.options.keep_statistics and kept is None and not self.options.reuse_only:
            return None
        return find_table(path, stored, self.origin, self.settings, self.dataset, self.options, notify=self.notify)

    def _calibrate_natively(self, native: Library) -> CalibrationTable:
        made = self._ask_tensorrt(native)
        versions = {"quantkit": __version__, native.name: ".".join(map(str, native.version))}
        table = self._table(made.ranges, made.skipped, made.num_samples, versions)
        if self.options.engine_path is not None:
            manifest = describe_engine(native, self.model, table, made.options, self.options.exclude)
            write_engine(self.options.engine_path, made.engine, manifest)
            self.notify(Notice("info", "engine", f"engine: {self.options.engine_path}"))
        return self._finish(table)

    def _ask_tensorrt(self, native: Library) -> NativeCalibration:
        """A pass over the data by TensorRT's own calibrator, whose cache is kept as it was written."""
        made = calibrate_natively(native, self.model, self.dataset, self.options, notify=self.notify)
        self.model.check_unchanged()
        if self.options.cache_path is not None:
            write_bytes(self.options.cache_path, made.cache)
        return made

    def _calibrate(self, kept: KeptStatistics | None) -> CalibrationTable:
        made = None if self.native is None else self._ask_tensorrt(self.native)
        if kept is not None:
            self.notify(Notice("info", "reuse", "Using the statistics that were kept; the model does not have to run."))
        else:
            kept = self._collect()
        ranges, skipped = choose_ranges(
            kept,
            str(self.settings["method"]),
            self.options.method_options,
            judged=self.observed.needed,
            progress=self.options.progress,
            notify=self.notify,
        )
        if kept.rule == "tensorrt":
            amax = propagate_to_copies(self.model.prepared(), {tensor: r.amax for tensor, r in ranges.items()})
            ranges = {tensor: replace(r, amax=amax[tensor]) for tensor, r in ranges.items()}
        versions, others = dict(kept.origin.versions), dict[str, Mapping[str, float]]()
        if self.native is not None and made is not None:
            versions[self.native.name] = ".".join(map(str, self.native.version))
            others = {self.native.name: {tensor: r.amax for tensor, r in made.ranges.items()}}
        table = self._table(ranges, skipped, kept.num_samples, versions)
        table = refine_table(table, kept, self.runnable, self.dataset, self.options, others=others, notify=self.notify)
        self._finish(table)
        if self.files is not None:
            self.files.checkpoint.unlink(missing_ok=True)
        if made is not None and self.options.engine_path is not None:
            build_of_table(self.model, table, made.options, self.options, notify=self.notify)
        return table

    def _collect(self) -> KeptStatistics:
        tell_conversion(self.runnable, self.dataset, self.notify)
        if self.options.ray is None:
            kept = self._collect_here()
        else:
            known = (self.model, self.data, self.dataset, self.origin, self.options)
            kept = collect_on_cluster(self._members(), *known, notify=self.notify)
        self.model.check_unchanged()
        if self.options.keep_statistics and self.files is not None:
            save_statistics(kept, self.files.statistics)
        return kept

    def _collect_here(self) -> KeptStatistics:
        checkpoint = None if self.files is None else self.files.checkpoint
        known = (self.dataset, self.observed, self.origin, self.options)
        resumed = find_interrupted(checkpoint, *known, notify=self.notify)
        with self._members(resumed) as members:
            data = (self.dataset, self.origin, self.options, resumed)
            return collect_statistics(members, *data, checkpoint=checkpoint, notify=self.notify)

    def _members(self, resumed: KeptStatistics | None = None) -> AbstractContextManager[Sequence[Member]]:
        graph = expose(self.runnable.prepared(), self.observed.names)
        known, here = (self.observed, self.options, self.devices, resumed), 0 if self.options.ray else len(self.dataset)
        return open_members(graph, *known, name=self.model.name, num_samples=here)

    def _table(
        self,
        ranges: Mapping[str, TensorRange],
        skipped: Mapping[str, str],
        num_samples: int,
        versions: Mapping[str, str],
    ) -> CalibrationTable:
        return CalibrationTable(
            tensors=ranges,
            skipped={**unobserved_tensors(self.model, self.runnable), **skipped},
            model_hash=self.model.hash,
            model_name=self.model.name,
            dataset_fingerprint=self.dataset.fingerprint,
            num_samples=num_samples,
            preprocessing=self.dataset.preprocessing,
            settings=self.settings,
            versions=versions,
        )

    def _finish(self, table: CalibrationTable) -> CalibrationTable:
        """Says what a user should know of a new table, and writes it."""
        warn_of_samples(table, self.observed.needed, self.notify)
        if self.files is not None:
            if table.refinement is not None:
                save_refinement(table.refinement, self.files.refinement, table=table_checksum(table))
            save_table(table, self.files.table)
            if table.refinement is None:
                self.files.refinement.unlink(missing_ok=True)
        return table
