"""What an engine will be: everything that is asked for read, checked and completed, before anything is built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.configuration import check_options, check_scheme
from quantkit.backends.tensorrt.build.manifest import Manifest, manifest_path
from quantkit.backends.tensorrt.build.precision import Typing, choose_typing
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import Library, choose_library
from quantkit.caches.complete import check_coverage
from quantkit.commands.build_defaults import complete_options
from quantkit.commands.build_inputs import BuildInputs, check_source, load_build_inputs
from quantkit.commands.expected_manifest import expected_manifest
from quantkit.errors import BackendError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.prepare import quantized_formats
from quantkit.notices import Notice, Notify
from quantkit.storage import check_no_source, check_writable
from quantkit.types import SCHEMES, PathLike
from quantkit.types.options import EngineOptions, EnginePrecision, HighPrecision


@dataclass(frozen=True)
class PlannedBuild:
    """An engine that can be built: what is asked for was checked.

    Attributes:
        source: model, and table or cache.
        library: that builds.
        typing: how it decides precisions.
        options: with profiles and targets as they will be used.
        path: of the engine.
        wanted: its manifest, but for the engine itself.
    """

    source: BuildInputs
    library: Library
    typing: Typing
    options: BuildOptions
    path: Path
    wanted: Manifest


def plan_build(
    model: PathLike | FloatModel,
    options: BuildOptions | None,
    engine: EngineOptions,
    *,
    output: PathLike | None = None,
    notify: Notify,
) -> PlannedBuild:
    """Reads and checks what an engine is built from; see `build`."""
    options, model = options or BuildOptions(), FloatModel.open(model)
    path = Path(output) if output is not None else default_engine_path(model.path, engine.single_precision)
    check_writable(path, manifest_path(path), *([Path(options.timing_cache)] if options.timing_cache else []))
    source = load_build_inputs(model, engine)
    precision, mode = source.precision, engine.mode
    gpu = find_gpu()
    found = choose_library(engine.library, targets=options.targets, has_gpu=gpu is not None)
    _tell_inputs(source, engine, notify)
    half: HighPrecision = engine.high_precision or "fp16"
    if mode == "auto" and source.cache is not None:
        if not found.has_precision_flags:
            raise BackendError(
                f"--calib: {found.title} takes no calibration cache; its scales can be kept: quantkit cache convert "
                f"{source.cache_name} --to table --model {source.name} -o kept.calib.json, and --table kept.calib.json"
            )
        mode = "implicit"
    typing = choose_typing(found, precision, mode=mode, high_precision=half, dla=options.dla_core is not None)
    check_source(source, found, typing)
    check_options(found, options, gpu=gpu)
    for name in _formats(source):
        formats = source.table.formats if source.table is not None and name != precision else {}
        check_scheme(found, name, options.targets, gpu, planned=[t for t, form in formats.items() if form == name])
        if typing.mode == "implicit" and name != "int8":
            raise ModelError(f"a plan with {name} is for explicit quantization (Q/DQ): omit --mode and --dla-core")
    options = complete_options(options, engine, found, source, gpu, notify)
    given = [
        p for p in (engine.table, engine.calibration_cache, options.timing_cache) if isinstance(p, str | os.PathLike)
    ]
    for written in (path, manifest_path(path)):
        check_no_source(written, (*source.model.source_files, *given))
    wanted = expected_manifest(source, found, typing, options, gpu)
    return PlannedBuild(source, found, typing, options, path, wanted)


def _formats(source: BuildInputs) -> tuple[str, ...]:
    """What operators are quantized to: as the model has it, or by the table and its plan."""
    if source.precision not in SCHEMES:
        return ()
    if source.model.is_quantized:
        return quantized_formats(source.model.graph)
    return tuple(dict.fromkeys([source.precision, *(source.table.formats.values() if source.table else ())]))


def _tell_inputs(source: BuildInputs, engine: EngineOptions, notify: Notify) -> None:
    """What a cache lacks, and whether it is known where FP16 overflows."""
    if source.cache is not None:
        named = (source.cache, source.cache_name)
        check_coverage(source.model.prepared(), *named, least=engine.min_coverage, notify=notify)
    if engine.precision == "fp16" and not source.magnitudes:
        text = "where FP16 overflows is not known: --table or --data shows it, and what overflows stays in FP32"
        notify(Notice("info", "model", text))


def default_engine_path(model: Path, precision: EnginePrecision) -> Path:
    """model.int8.engine next to the model; model.int8.onnx does not become model.int8.int8.engine."""
    return model.with_name(f"{model.stem.removesuffix(f'.{precision}')}.{precision}.engine")
