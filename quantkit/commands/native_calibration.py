"""Calibration by TensorRT itself (8.6 to 10, with a GPU): its calibrator is fed our batches, and builds the engine.

What comes out is read into the same table as quantkit's own calibration, so that everything behind it is the same.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.memory import DeviceFeed
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.builder import build_engine
from quantkit.backends.tensorrt.build.manifest import manifest_path, save_manifest
from quantkit.backends.tensorrt.build.profiles import resolve_profiles
from quantkit.backends.tensorrt.calibrators.padded_batches import PaddedBatches
from quantkit.backends.tensorrt.calibrators.streaming import make_calibrator
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import load_library
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.commands.build import describe_engine
from quantkit.datasets.batching import make_batches
from quantkit.datasets.description import describe_skipped
from quantkit.errors import BackendError, BackendUnavailableError, CalibrationError
from quantkit.graph.model import input_specs, load_model, serialize_model
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import float_activations, match_nodes
from quantkit.notices import Notice, Notify
from quantkit.progress import show_progress
from quantkit.storage import write_bytes
from quantkit.types import CalibrationTable, Dataset, PathLike, TensorRange, TensorSpec

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.library import Library

__all__ = ["CalibratorName", "NativeCalibration", "calibrate_natively", "choose_calibrator", "write_engine"]

CalibratorName = Literal["auto", "quantkit", "tensorrt"]

_BATCH_SIZE = 32
_METHODS = ("entropy", "minmax")


@dataclass(frozen=True)
class NativeCalibration:
    """What TensorRT made.

    Attributes:
        ranges: by tensor name, of the tensors that the ONNX model knows.
        skipped: tensors that were zero on every sample → reason.
        cache: its calibration cache, byte for byte.
        engine: the serialized engine.
        options: that it was built with.
        num_samples: samples that it saw.
    """

    ranges: Mapping[str, TensorRange]
    skipped: Mapping[str, str]
    cache: bytes
    engine: bytes
    options: BuildOptions
    num_samples: int


def choose_calibrator(wanted: CalibratorName, *, method: str, histogram: str) -> tuple[Library | None, str]:
    """Which calibrator to take, and why.

    Args:
        wanted: "auto" takes TensorRT's where it can run, else quantkit's.
        method: TensorRT has entropy and minmax.
        histogram: "tensorrt" asks quantkit to reproduce TensorRT's rule.

    Returns:
        TensorRT, or None for quantkit's own, and the reason in a few words.

    Raises:
        CalibrationError: an unknown name, or TensorRT is wanted and does not know the method.
        BackendUnavailableError: TensorRT is wanted and cannot run here.
    """
    if wanted not in get_args(CalibratorName):
        raise CalibrationError(f"there is no calibrator {wanted!r}: choose {', '.join(get_args(CalibratorName))}")
    if wanted == "quantkit":
        return None, "as asked"
    if method not in _METHODS:
        if wanted == "tensorrt":
            raise CalibrationError(f"TensorRT has no method {method!r}: choose {' or '.join(_METHODS)}")
        return None, f"{method} is no method of TensorRT's"
    if histogram == "tensorrt":
        if wanted == "tensorrt":
            raise CalibrationError("--histogram is for quantkit's calibrator: leave it out with --calibrator tensorrt")
        return None, "it reproduces TensorRT's histogram"
    library, obstacle = _find_library()
    if library is not None:
        return library, "as asked" if wanted == "tensorrt" else "it is installed, and there is a GPU"
    if wanted == "tensorrt":
        raise BackendUnavailableError(f"--calibrator tensorrt: {obstacle}: --calibrator quantkit needs none of it")
    return None, obstacle


def calibrate_natively(
    library: Library,
    model: PathLike,
    dataset: Dataset,
    *,
    method: str,
    batch_size: int | None,
    exclude: Sequence[str] = (),
    strict: bool,
    workers: int | None,
    progress: bool,
    notify: Notify,
) -> NativeCalibration:
    """Streams `dataset` through TensorRT's calibrator while TensorRT builds an engine.

    The build allows INT8 and FP16. Every input gets a calibration profile of the data's shape; the last batch is
    completed with samples of the first.

    Raises:
        QuantKitError: what went wrong in a callback, or TensorRT's own words.
    """
    name = Path(model).name
    graph = prepare(load_model(model), name=name)
    specs = _fixed_specs(input_specs(graph), dataset, batch_size or min(_BATCH_SIZE, len(dataset)))
    skipped: dict[str, str] = {}
    batches = PaddedBatches(
        partial(make_batches, dataset, int(str(specs[0].shape[0])), strict=strict, workers=workers, skipped=skipped),
        specs,
        num_samples=len(dataset),
        skipped=skipped,
        notify=notify,
    )
    shapes = {spec.name: [int(str(d)) for d in spec.shape] for spec in specs}
    float_nodes = tuple(match_nodes(graph, exclude))
    # The engine runs on what it was calibrated with, in any batch: other sizes are for `quantkit build`.
    dynamic = {spec.name: spec.shape for spec in input_specs(graph)}
    sizes: dict[str, list[int | None]] = {name: [None, *shape[1:]] for name, shape in shapes.items()}
    options = BuildOptions(profiles=resolve_profiles(dynamic, (), known=sizes))
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder, PrimaryContext() as context:
        feed = DeviceFeed(batches.inputs, context=context)
        try:
            calibrator = make_calibrator(
                library,
                batches,
                feed,
                batch_size=batches.batch_size,
                algorithm="minmax" if method == "minmax" else "entropy",
            )
            with show_progress(None, f"calibrating with {library.title}", 100, progress) as bar:
                engine = build_engine(
                    library,
                    serialize_model(graph, folder),
                    options=options,
                    precision="int8",
                    mode="implicit",
                    calibrator=calibrator,
                    calibration_shapes=shapes,
                    float_nodes=float_nodes,
                    name=name,
                    node_titles=[str(node.name) for node in graph.graph],
                    on_progress=lambda share, phase: bar.update(int(100 * share) - bar.n) and None,
                    notify=notify,
                )
        finally:
            feed.free()
    if skipped:
        notify(Notice("warning", "unreadable", describe_skipped(skipped, dataset)))
    if calibrator.cache is None:
        raise CalibrationError(f"{library.title} built an engine, but wrote no calibration cache: nothing to keep")
    amax = parse_cache(calibrator.cache.decode(), name="TensorRT's calibration cache").amax
    known = set(float_activations(graph))
    return NativeCalibration(
        ranges={t: TensorRange(amax=a, minimum=-a, maximum=a) for t, a in amax.items() if a > 0 and t in known},
        skipped={t: "zero on every sample" for t, a in amax.items() if a == 0 and t in known},
        cache=calibrator.cache,
        engine=engine,
        options=options,
        num_samples=len(dataset) - len(skipped),
    )


def write_engine(
    library: Library,
    model: PathLike,
    table: CalibrationTable,
    made: NativeCalibration,
    output: PathLike,
    *,
    exclude: Sequence[str] = (),
) -> Path:
    """Writes the engine of a native calibration, and its manifest, so that `quantkit build` knows it."""
    manifest = replace(
        describe_engine(library, model, table, made.options, exclude),
        engine_sha256=hashlib.sha256(made.engine).hexdigest(),
        engine_size_bytes=len(made.engine),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    write_bytes(output, made.engine)
    save_manifest(manifest, manifest_path(Path(output)))
    return Path(output)


def _find_library() -> tuple[Library | None, str]:
    """TensorRT with everything that its calibrator needs, or None and what is missing."""
    try:
        library = load_library("tensorrt")
    except BackendUnavailableError as error:
        return None, str(error)
    if not library.has_calibrators:
        return None, f"{library.title} has no calibrators any more"
    if find_gpu() is None:
        return None, "there is no GPU"
    try:
        PrimaryContext()
    except BackendError as error:
        return None, str(error)
    return library, ""


def _fixed_specs(specs: tuple[TensorSpec, ...], dataset: Dataset, batch_size: int) -> tuple[TensorSpec, ...]:
    """The inputs with the shape that the data have; a model's own batch size goes first."""
    sample = next(iter(make_batches(dataset, 1, strict=False, workers=1, skipped={})))
    leading = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    size = leading.pop() if leading else batch_size
    return tuple(TensorSpec(s.name, s.dtype, (size, *sample.inputs[s.name].shape[1:])) for s in specs)
