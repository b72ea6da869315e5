"""From a model, and a table for INT8, to an engine of TensorRT or TensorRT-RTX with its manifest: reuse, or build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.backends.cuda.context import using_device
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.builder import ImplicitQuantization, OnnxInput, build_engine
from quantkit.backends.tensorrt.build.manifest import (
    Manifest,
    find_reusable,
    manifest_path,
    write_engine,
)
from quantkit.backends.tensorrt.build.precision import choose_typing
from quantkit.backends.tensorrt.calibrators.cached import make_cache_calibrator
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import Library
from quantkit.commands.build_inputs import BuildInputs, load_build_inputs
from quantkit.commands.engine_graph import EngineGraph, make_graph
from quantkit.commands.expected_manifest import expected_manifest
from quantkit.commands.planned_build import plan_build
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.storage import temporary_folder
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.option import make_options
from quantkit.types.options import EngineOptions


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on disk.

    Attributes:
        path: the engine.
        manifest: what it was made of.
        reused: it was there already and up to date.
        num_quantized: operators planned in INT8; None where the engine was reused or the planning is not ours.
    """

    path: Path
    manifest: Manifest
    reused: bool
    num_quantized: int | None = None

    @property
    def manifest_path(self) -> Path:
        """Where the manifest lies, as JSON."""
        return manifest_path(self.path)


@accepts_tell
def build(
    model: PathLike | FloatModel,
    options: BuildOptions | None = None,
    *,
    engine: EngineOptions | None = None,
    output: PathLike | None = None,
    notify: Notify | None = None,
    **keywords: Any,
) -> BuiltEngine:
    """Builds an engine, or reuses the one that is there if it would come out the same.

    Args:
        model: an ONNX model: in float, or for INT8 also one that holds Q/DQ.
        options: how TensorRT builds.
        engine: what from, and in which precision; without it the defaults of `EngineOptions`.
        output: the engine; None writes MODEL.PRECISION.engine next to the model.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `EngineOptions`, instead of those in `engine`.

    Raises:
        QuantKitError: one line that names the file, node or option, and the fix.
    """
    notify = announcing(notify)
    engine = make_options(EngineOptions, engine, keywords)
    with using_device(engine.gpu):
        return _build(model, options, engine, output, notify)


def _build(
    model: PathLike | FloatModel,
    options: BuildOptions | None,
    engine: EngineOptions,
    output: PathLike | None,
    notify: Notify,
) -> BuiltEngine:
    planned = plan_build(model, options, engine, output=output, notify=notify)
    source, found, typing = planned.source, planned.library, planned.typing
    path, wanted, options = planned.path, planned.wanted, planned.options
    is_implicit = source.precision == "int8" and typing.mode == "implicit"
    if not engine.force and (stored := find_reusable(path, wanted, notify)) is not None:
        return BuiltEngine(path, stored, reused=True)
    with temporary_folder() as folder:
        made = make_graph(source, typing, Path(folder), notify)
        notify(
            Notice(
                "info", "engine", ": ".join(filter(None, (f"building {path.name} with {found.title}", wanted.summary)))
            )
        )
        with show_progress(None, "building", 100, engine.progress) as bar:
            built = build_engine(
                found,
                OnnxInput(made.content, source.name, made.node_titles, made.fp32_nodes),
                typing=typing,
                implicit=_implicit(source, made, found, options) if is_implicit else None,
                options=options,
                on_progress=lambda share, phase: bar.update(int(100 * share) - bar.n) and None,
                notify=notify,
                verbose=engine.verbose,
            )
    source.model.check_unchanged(also_itself=made.content == source.model.path)
    manifest = write_engine(path, built, wanted)
    return BuiltEngine(path, manifest, reused=False, num_quantized=made.num_quantized)


def describe_engine(
    library: Library,
    model: PathLike | FloatModel,
    table: CalibrationTable,
    options: BuildOptions,
    exclude: Sequence[str],
) -> Manifest:
    """The manifest, but for engine and time, of an engine that TensorRT built while it calibrated `table`."""
    source = load_build_inputs(model, EngineOptions(precision="int8", table=table, exclude=exclude))
    typing = choose_typing(library, "int8", mode="implicit", high_precision="fp16", dla=False)
    return expected_manifest(source, library, typing, options, find_gpu())


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
