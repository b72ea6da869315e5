"""From a model, and a table for INT8, to an engine of TensorRT or TensorRT-RTX with its manifest: reuse, or build."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.backends.tensorrt.build.build_options import BuildOptions, Mode, Precision
from quantkit.backends.tensorrt.build.builder import ImplicitQuantization, OnnxInput, build_engine
from quantkit.backends.tensorrt.build.configuration import check_options, default_targets
from quantkit.backends.tensorrt.build.manifest import (
    Manifest,
    find_reusable,
    manifest_path,
    write_engine,
)
from quantkit.backends.tensorrt.build.precision import choose_typing
from quantkit.backends.tensorrt.build.profiles import image_sizes, resolve_profiles
from quantkit.backends.tensorrt.calibrators.cached import make_cache_calibrator
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import EngineLibrary, Library, choose_library
from quantkit.commands.build_inputs import BuildInputs, check_source, expected_manifest, load_build_inputs
from quantkit.commands.engine_graph import EngineGraph, make_graph
from quantkit.commands.quantize import HighPrecision
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.storage import check_no_source, check_writable
from quantkit.types import CalibrationTable, PathLike

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.gpu import Gpu

__all__ = ["BuiltEngine", "build", "describe_engine"]


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on disk.

    Attributes:
        path: the engine.
        manifest_path: what it was made of, as JSON.
        manifest: the same.
        reused: it was there already and up to date.
        num_quantized: operators planned in INT8; None where the engine was reused or the planning is not ours.
    """

    path: Path
    manifest_path: Path
    manifest: Manifest
    reused: bool
    num_quantized: int | None = None


@accepts_tell
def build(
    model: PathLike | FloatModel,
    *,
    precision: Precision = "fp32",
    table: CalibrationTable | PathLike | None = None,
    calibration_cache: PathLike | None = None,
    output: PathLike | None = None,
    library: EngineLibrary = "auto",
    mode: Mode | Literal["auto"] = "auto",
    high_precision: HighPrecision | None = None,
    exclude: Sequence[str] = (),
    options: BuildOptions | None = None,
    force: bool = False,
    verbose: bool = False,
    progress: bool = True,
    notify: Notify | None = None,
) -> BuiltEngine:
    """Builds an engine, or reuses the one that is there if it would come out the same.

    Args:
        model: an ONNX model: in float, or for INT8 also one that holds Q/DQ.
        precision: "fp32", "fp16" or "int8".
        table: for INT8 of a float model: its calibration table, or the path of one.
        calibration_cache: instead of a table: TensorRT's own cache, for implicit INT8 with the version that wrote it.
        output: the engine; None writes MODEL.PRECISION.engine next to the model.
        library: "tensorrt", "rtx", or "auto": TensorRT-RTX if targets are given or TensorRT is not installed.
        mode: how INT8 comes about: "explicit" puts Q/DQ into the model; "implicit" (TensorRT up to 10) gives
            TensorRT the ranges and lets it choose; "auto" is explicit except for a DLA.
        high_precision: of what stays in float beside INT8; None is FP16, or what a model with Q/DQ says.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        options: everything else.
        force: build even if the engine that is there is up to date.
        verbose: tell every message of TensorRT.
        progress: show a progress bar on a terminal.
        notify: called with each `Notice`; without it, notices are only logged.

    Raises:
        QuantKitError: one line that names the file, node or option, and the fix.
    """
    notify = announcing(notify)
    options = options or BuildOptions()
    source = load_build_inputs(
        model, precision, table=table, cache=calibration_cache, exclude=exclude, high_precision=high_precision
    )
    found = choose_library(library, targets=options.targets)
    half: HighPrecision = high_precision or "fp16"
    if mode == "auto" and source.cache is not None:
        mode = "implicit"
    typing = choose_typing(found, precision, mode=mode, high_precision=half, dla=options.dla_core is not None)
    is_implicit = precision == "int8" and typing.mode == "implicit"
    check_source(source, found, typing)
    gpu = find_gpu()
    check_options(found, options, gpu=gpu)
    options = _completed(options, found, source, gpu, notify)
    path = Path(output) if output is not None else _default_path(source.model.path, precision)
    check_writable(path.parent)
    given = [p for p in (table, calibration_cache, options.timing_cache) if isinstance(p, str | os.PathLike)]
    for written in (path, manifest_path(path)):
        check_no_source(written, (*source.model.source_files, *given))
    wanted = expected_manifest(source, found, typing, options, gpu)
    if not force and (stored := find_reusable(path, wanted, notify)) is not None:
        return BuiltEngine(path, manifest_path(path), stored, reused=True)
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        made = make_graph(source, typing, Path(folder))
        notify(
            Notice(
                "info", "engine", ": ".join(filter(None, (f"building {path.name} with {found.title}", wanted.summary)))
            )
        )
        with show_progress(None, "building", 100, progress) as bar:
            engine = build_engine(
                found,
                OnnxInput(made.content, source.name, made.node_titles),
                typing=typing,
                implicit=_implicit(source, made, found, options) if is_implicit else None,
                options=options,
                on_progress=lambda share, phase: bar.update(int(100 * share) - bar.n) and None,
                notify=notify,
                verbose=verbose,
            )
    source.model.check_unchanged(also_itself=made.content == source.model.path)
    manifest = write_engine(path, engine, wanted)
    return BuiltEngine(path, manifest_path(path), manifest, reused=False, num_quantized=made.num_quantized)


def describe_engine(
    library: Library,
    model: PathLike | FloatModel,
    table: CalibrationTable,
    options: BuildOptions,
    exclude: Sequence[str],
) -> Manifest:
    """The manifest, but for engine and time, of an engine that TensorRT built while it calibrated `table`."""
    source = load_build_inputs(model, "int8", table=table, cache=None, exclude=exclude, high_precision=None)
    typing = choose_typing(library, "int8", mode="implicit", high_precision="fp16", dla=False)
    return expected_manifest(source, library, typing, options, find_gpu())


def _completed(
    options: BuildOptions, library: Library, source: BuildInputs, gpu: Gpu | None, notify: Notify
) -> BuildOptions:
    """The options with targets and profiles as they will be used; a profile that nobody gave is told."""
    shapes = {spec.name: spec.shape for spec in source.model.inputs}
    size_of = None if source.table is None else source.table.preprocessing
    profiles = resolve_profiles(shapes, options.profiles, known=image_sizes(size_of, shapes))
    if profiles and not options.profiles:
        listed = ", ".join(f"{name} {shape}" for name, shape in profiles[0].shapes.items())
        text = f"shapes (min / opt / max): {listed}; --min-shapes, --opt-shapes and --max-shapes choose others"
        notify(Notice("info", "engine", text))
    return replace(options, profiles=profiles, targets=options.targets or default_targets(library, gpu))


def _implicit(source: BuildInputs, made: EngineGraph, library: Library, options: BuildOptions) -> ImplicitQuantization:
    """The ranges of the table, or a calibrator that reads the given cache."""
    cache = source.cache
    return ImplicitQuantization(
        ranges=made.ranges,
        calibrator=None if cache is None else make_cache_calibrator(library, cache, name=source.cache_name),
        # Nothing is fed, but TensorRT wants a calibration profile for a dynamic input.
        calibration_shapes={n: s.optimum for p in options.profiles[:1] for n, s in p.shapes.items()},
        float_nodes=made.float_nodes,
    )


def _default_path(model: Path, precision: Precision) -> Path:
    """model.int8.engine next to the model; model.int8.onnx does not become model.int8.int8.engine."""
    return model.with_name(f"{model.stem.removesuffix(f'.{precision}')}.{precision}.engine")
