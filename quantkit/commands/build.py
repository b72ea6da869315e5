"""From a model, and a table for INT8, to an engine of TensorRT or TensorRT-RTX with its manifest: reuse, or build."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantkit._version import __version__
from quantkit.backends.tensorrt.build.build_options import BuildOptions, Mode, Precision
from quantkit.backends.tensorrt.build.builder import build_engine
from quantkit.backends.tensorrt.build.configuration import check_options, default_targets
from quantkit.backends.tensorrt.build.manifest import (
    Manifest,
    differing_facts,
    is_engine_of,
    load_manifest,
    manifest_path,
    save_manifest,
)
from quantkit.backends.tensorrt.build.precision import choose_typing
from quantkit.backends.tensorrt.build.profiles import resolve_profiles
from quantkit.backends.tensorrt.calibrators.cached import make_cache_calibrator
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.commands.build_inputs import BuildInputs, check_source, load_build_inputs, make_graph
from quantkit.commands.quantize import HighPrecision
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.graph.model import input_specs, load_model, source_files
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import match_nodes
from quantkit.notices import Notice, Notify, accepts_tell, announcing, join_names
from quantkit.progress import show_progress
from quantkit.storage import check_no_source, check_writable, write_bytes
from quantkit.types import CalibrationTable, PathLike

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.precision import Typing
    from quantkit.backends.tensorrt.calibrators.streaming import Calibrator

__all__ = ["BuiltEngine", "EngineLibrary", "build", "describe_engine"]

EngineLibrary = Literal["auto", "tensorrt", "rtx"]


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
    model: PathLike,
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
    found = _open_library(library, options)
    half: HighPrecision = high_precision or "fp16"
    if mode == "auto" and source.cache is not None:
        mode = "implicit"
    typing = choose_typing(found, precision, mode=mode, high_precision=half, dla=options.dla_core is not None)
    check_source(source, found, typing)
    gpu = find_gpu()
    check_options(found, options, gpu=gpu)
    options = _completed(options, found, source, gpu, notify)
    path = Path(output) if output is not None else _default_path(Path(model), precision)
    check_writable(path.parent)
    given = [p for p in (table, calibration_cache, options.timing_cache) if isinstance(p, str | os.PathLike)]
    for written in (path, manifest_path(path)):
        check_no_source(written, (*source_files(source.graph, model), *given))
    wanted = _wanted_manifest(source, found, typing, options, gpu)
    if not force and (reused := _reuse(path, wanted, notify)) is not None:
        return reused
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        made = make_graph(source, typing, Path(folder))
        notify(Notice("info", "engine", f"building {path.name} with {found.title}{_described(wanted)}"))
        with show_progress(None, "building", 100, progress) as bar:
            engine = build_engine(
                found,
                made.content,
                options=options,
                precision=precision,
                mode=typing.mode,
                high_precision=half,
                ranges=made.ranges,
                calibrator=_cache_calibrator(source, found),
                # Nothing is fed, but TensorRT wants a calibration profile for a dynamic input.
                calibration_shapes={n: s.optimum for p in options.profiles[:1] for n, s in p.shapes.items()},
                float_nodes=made.float_nodes,
                name=source.name,
                node_titles=made.node_titles,
                on_progress=lambda share, phase: bar.update(int(100 * share) - bar.n) and None,
                notify=notify,
                verbose=verbose,
            )
    manifest = replace(
        wanted,
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        engine_size_bytes=len(engine),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    # The engine first: a manifest without its engine, after a crash between the two, does not match and is replaced.
    write_bytes(path, engine)
    save_manifest(manifest, manifest_path(path))
    return BuiltEngine(path, manifest_path(path), manifest, reused=False, num_quantized=made.num_quantized)


def describe_engine(
    library: Library, model: PathLike, table: CalibrationTable, options: BuildOptions, exclude: Sequence[str]
) -> Manifest:
    """The manifest, but for engine and time, of an engine that TensorRT built while it calibrated `table`."""
    source = load_build_inputs(model, "int8", table=table, cache=None, exclude=exclude, high_precision=None)
    typing = choose_typing(library, "int8", mode="implicit", high_precision="fp16", dla=False)
    return _wanted_manifest(source, library, typing, options, find_gpu())


def _open_library(name: EngineLibrary, options: BuildOptions) -> Library:
    if name not in ("auto", "tensorrt", "rtx"):
        raise BackendError(f"there is no library {name!r}: choose auto, tensorrt or rtx")
    if name == "rtx" or (name == "auto" and options.targets):
        return load_library("tensorrt-rtx")
    try:
        return load_library("tensorrt")
    except BackendUnavailableError as error:
        if name == "tensorrt" or "not installed" not in str(error):
            raise
    try:
        return load_library("tensorrt-rtx")
    except BackendUnavailableError as error:
        if "not installed" not in str(error):
            raise
        raise BackendUnavailableError(
            "neither TensorRT nor TensorRT-RTX is installed: pip install tensorrt pycuda for the GPU of this "
            "machine, or pip install tensorrt-rtx, which builds without one"
        ) from error


def _completed(options: BuildOptions, library: Library, source: BuildInputs, gpu: Any, notify: Notify) -> BuildOptions:
    """The options with targets and profiles as they will be used; a profile that nobody gave is told."""
    shapes = {spec.name: spec.shape for spec in input_specs(source.graph)}
    profiles = resolve_profiles(shapes, options.profiles, known=_known_sizes(source.table, shapes))
    if profiles and not options.profiles:
        listed = ", ".join(f"{name} {shape}" for name, shape in profiles[0].shapes.items())
        notify(
            Notice(
                "info",
                "engine",
                f"shapes (min / opt / max): {listed}; --min-shapes, --opt-shapes and --max-shapes choose others",
            )
        )
    return replace(options, profiles=profiles, targets=options.targets or default_targets(library, gpu))


def _known_sizes(table: CalibrationTable | None, shapes: Mapping[str, Sequence[Any]]) -> dict[str, list[int | None]]:
    """Height and width of the calibrated images, for the one image input of a model."""
    if table is None or table.preprocessing is None or len(shapes) != 1:
        return {}
    name, shape = next(iter(shapes.items()))
    height, width = table.preprocessing.size
    sizes = [None, None, height, width] if table.preprocessing.layout == "NCHW" else [None, height, width, None]
    return {name: sizes} if len(shape) == len(sizes) else {}


def _wanted_manifest(
    source: BuildInputs,
    library: Library,
    typing: Typing,
    options: BuildOptions,
    gpu: Any,
) -> Manifest:
    facts = options.facts()
    if source.exclude:
        # Patterns match names of nodes, which the model's hash leaves out: what they hit has to be the same too.
        facts["excluded"] = _hit(source)
    if typing.mode == "implicit" and source.exclude:
        facts["precision_constraints"] = options.precision_constraints
    return Manifest(
        model_name=source.path.name,
        model_hash=source.model_hash,
        precision=source.precision,
        mode=typing.mode,
        high_precision=_beside(source, typing),
        exclude=source.exclude,
        library=library.name,
        library_version=".".join(map(str, library.version)),
        gpu=None if library.is_rtx or gpu is None else str(gpu),
        table=source.calibration,
        options=facts,
        quantkit_version=__version__,
    )


def _hit(source: BuildInputs) -> str:
    """Hash of the tensors that the excluded nodes make."""
    graph = prepare(load_model(source.path), name=source.name)
    names = match_nodes(graph, source.exclude)
    outputs = sorted(str(v.name) for node in graph.graph if node.name in names for v in node.outputs)
    return hashlib.sha256("\n".join(outputs).encode()).hexdigest()[:16]


def _beside(source: BuildInputs, typing: Typing) -> HighPrecision | None:
    """Precision of what stays in float beside INT8, where it is our choice and not the model's."""
    if source.precision != "int8" or (source.has_qdq and typing.strong):
        return None
    return source.high_precision or "fp16"


def _cache_calibrator(source: BuildInputs, library: Library) -> Calibrator | None:
    return None if source.cache is None else make_cache_calibrator(library, source.cache, name=source.cache_name)


def _reuse(path: Path, wanted: Manifest, notify: Notify) -> BuiltEngine | None:
    beside = manifest_path(path)
    if not path.exists() or not beside.exists():
        return None
    try:
        stored = load_manifest(beside)
    except BackendError as error:
        notify(Notice("info", "reuse", f"building again: {error}"))
        return None
    differences = differing_facts(stored, wanted)
    if not differences and not is_engine_of(stored, path):
        differences = [f"{path.name} is not the file that its manifest describes"]
    if differences:
        notify(
            Notice(
                "info",
                "reuse",
                f"building again, since {path.name} was made with other inputs: {'; '.join(differences)}",
            )
        )
        return None
    notify(
        Notice("info", "reuse", f"reusing {path}: same model, table, library, GPU and options (--force builds again)")
    )
    return BuiltEngine(path, beside, stored, reused=True)


def _described(manifest: Manifest) -> str:
    """What the engine is for and how its precisions come about, after the name of the library."""
    words = []
    if manifest.precision == "int8":
        words.append(
            f"{manifest.mode} INT8"
            + (f", {manifest.high_precision.upper()} beside it" if manifest.high_precision else "")
        )
    if manifest.library == "tensorrt-rtx":
        words.append(
            f"for {join_names(manifest.options['targets'])}" if "targets" in manifest.options else "for sm80 and newer"
        )
    elif manifest.gpu is not None:
        words.append(f"for {manifest.gpu}")
    return ": " + ", ".join(words) if words else ""


def _default_path(model: Path, precision: Precision) -> Path:
    """model.int8.engine next to the model; model.int8.onnx does not become model.int8.int8.engine."""
    return model.with_name(f"{model.stem.removesuffix(f'.{precision}')}.{precision}.engine")
