"""The checks of `selftest`, over one model and one library; each returns what it found in a few words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.backends.tensorrt.build.build_options import BuildOptions, HardwareCompatibility
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.inspection.engine_reader import read_engine
from quantkit.backends.tensorrt.library import Library
from quantkit.backends.tensorrt.logger import make_logger
from quantkit.backends.tensorrt.plugins import init_standard_plugins
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.commands.build import BuiltEngine, build
from quantkit.commands.build_best import build_best
from quantkit.commands.calibrate import calibrate
from quantkit.commands.evaluate import evaluate
from quantkit.errors import BackendError, QuantKitError
from quantkit.notices import Notify
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.options import EngineOptions, SelftestOptions, TimedBuildOptions
from quantkit.types.quantization import Precision


class SkippedError(QuantKitError):
    """A check has no sense here."""


@dataclass
class TensorRTChecks:
    """What the checks share."""

    model: Path
    data: PathLike
    library: Library
    options: SelftestOptions
    folder: Path
    notify: Notify
    table: CalibrationTable | None = None
    engines: dict[str, BuiltEngine] = field(default_factory=dict)

    def calibrate(self) -> str:
        """Calibrates with quantkit."""
        size = self.options.num_samples
        self.table = calibrate(
            self.model, self.data, accuracy="fast", calibrator="quantkit", num_samples=size, progress=False
        )
        return f"{len(self.table.tensors)} tensors"

    def calibrate_natively(self) -> str:
        """Lets TensorRT calibrate: it takes every batch, and writes a cache and an engine."""
        self._need_calibrators()
        cache = self._cache()
        calibrate(
            self.model, self.data, method="entropy", calibrator="tensorrt", num_samples=self.options.num_samples,
            progress=False, table_path=self.folder / "native.calib.json", cache_path=cache,
            engine_path=self.folder / "native.engine",
        )  # fmt: skip
        return f"cache of {len(parse_cache(cache.read_text()).scale_bits)} tensors"

    def read_cache_back(self) -> str:
        """Builds a second engine from the cache alone."""
        self._need_calibrators()
        if not self._cache().is_file():
            raise SkippedError("TensorRT wrote no cache")
        return self._build("cache", "int8", mode="implicit", calibration_cache=self._cache())

    def build_precision(self, precision: Precision) -> str:
        """Builds an engine, INT8 with Q/DQ."""
        table = self.table if precision == "int8" else None
        return self._build(precision, precision, table=table, mode="explicit" if precision == "int8" else "auto")

    def build_implicit(self) -> str:
        """Builds INT8 from ranges."""
        if not self.library.has_precision_flags:
            raise SkippedError(f"{self.library.title} has no implicit INT8")
        return self._build("implicit", "int8", table=self.table, mode="implicit")

    def inspect(self) -> str:
        """Compares what runs in INT8 with what was quantized."""
        self._need_gpu_unless_rtx()
        if "int8" not in self.engines:
            raise SkippedError("there is no INT8 engine")
        built = self.engines["int8"]
        found = read_engine(built.path.read_bytes(), name=built.path.name).weighted_coverage
        text = f"{found.quantized:g} of {found.total:g} weighted layers; {built.num_quantized} operators are quantized"
        if found.quantized != found.total:
            raise BackendError(f"{text}: some run in float")
        return text

    def run(self) -> str:
        """Runs and times the engines beside FP32 on ONNX Runtime."""
        self._need_gpu()
        names = [name for name in ("fp32", "fp16", "int8", "implicit") if name in self.engines]
        engines = {f"engine-{name}": self.engines[name].path for name in names}
        report = evaluate(
            self.model, self.data, engines=engines, variants=["fp32"], latency_s=self.options.latency_s, progress=False
        )
        shown = []
        for found in (e for e in report.evaluations if e.name in engines):
            score = ", ".join(f"{name} {value:.4g}" for name, value in list(found.metrics.items())[:1])
            time = "" if found.latency is None else f", {found.latency.median_ms:.3g} ms"
            shown.append(f"{found.name.removeprefix('engine-')}: {score}{time}")
        return "; ".join(shown)

    def choose_fastest(self) -> str:
        """Lets FP16 and INT8 take turns, and keeps the faster one."""
        self._need_gpu()
        if self.table is None:
            raise SkippedError("there is no table")
        if not self.options.latency_s:
            raise SkippedError("--latency-s 0")
        found = build_best(
            self.model, table=self.table, library="rtx" if self.library.is_rtx else "tensorrt", progress=False,
            search=TimedBuildOptions(max_builds=2, latency_s=self.options.latency_s),
            output=self.folder / "best.engine", notify=self.notify,
        )  # fmt: skip
        return f"{found.chosen}: {found.reason}"

    def build_portable(self, level: HardwareCompatibility, *, version: bool) -> str:
        """Builds an engine for other versions or GPUs, and loads it here."""
        if self.library.is_rtx:
            raise SkippedError(f"{self.library.title} builds no such engines")
        name = "version" if version else level
        options = BuildOptions(hardware_compatibility=level, version_compatible=version)
        made = self._build(name, "fp16", options=options)
        if find_gpu() is None:
            return f"{made}; not loaded: there is no GPU"
        evaluate(
            self.model, self.data, engines={"it": self.engines[name].path}, variants=["fp32"], latency_s=0,
            progress=False,
        )  # fmt: skip
        return f"{made}; loads and runs"

    def register_plugins(self) -> str:
        """Registers NVIDIA's plugins."""
        if self.library.is_rtx:
            raise SkippedError(f"{self.library.title} has no plugins")
        init_standard_plugins(self.library, make_logger(self.library))
        return "NVIDIA's plugins are registered"

    def _build(self, name: str, precision: Precision, *, options: BuildOptions | None = None, **words: Any) -> str:
        engine = EngineOptions(
            precision=precision, library="rtx" if self.library.is_rtx else "tensorrt", progress=False, **words
        )
        path = self.folder / f"{name}.engine"
        self.engines[name] = build(self.model, options, engine=engine, output=path, notify=self.notify)
        return f"{path.stat().st_size:,} bytes"

    def _cache(self) -> Path:
        return self.folder / "native.calib"

    def _need_gpu(self) -> None:
        if find_gpu() is None:
            raise SkippedError("there is no NVIDIA GPU")

    def _need_gpu_unless_rtx(self) -> None:
        if not self.library.is_rtx:  # whose plans are read as text
            self._need_gpu()

    def _need_calibrators(self) -> None:
        if not self.library.has_calibrators:
            raise SkippedError(f"{self.library.title} has no calibrators")
        self._need_gpu()
