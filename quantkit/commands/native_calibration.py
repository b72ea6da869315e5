"""Calibration by TensorRT itself (8.6 to 10, with a GPU): its calibrator is fed our batches, and builds the engine.

What comes out is read into the same table as quantkit's own calibration, so that everything behind it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.memory import DeviceFeed
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.builder import ImplicitQuantization, OnnxInput, build_engine
from quantkit.backends.tensorrt.build.precision import choose_typing
from quantkit.backends.tensorrt.build.profiles import resolve_profiles
from quantkit.backends.tensorrt.calibrators.padded_batches import PaddedBatches
from quantkit.backends.tensorrt.calibrators.streaming import make_calibrator
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.commands.build import build
from quantkit.datasets.batching import batch_axes, leading_size, make_batches
from quantkit.datasets.description import describe_skipped
from quantkit.errors import CalibrationError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs, serialize_model
from quantkit.graph.placement.tensorrt import float_activations, match_nodes
from quantkit.notices import Notice, Notify
from quantkit.progress import show_progress
from quantkit.storage import temporary_folder
from quantkit.types import CalibrationTable, Dataset, TensorRange, TensorSpec
from quantkit.types.options import EngineOptions

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.backends.tensorrt.library import Library
    from quantkit.types.options import CalibrationOptions

_BATCH_SIZE = 32


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


def build_of_table(
    model: FloatModel, table: CalibrationTable, built_with: BuildOptions, options: CalibrationOptions, *, notify: Notify
) -> None:
    """Builds the engine of a table; the one that TensorRT calibrated in has ranges of its own only."""
    engine = EngineOptions(
        precision="int8", library="tensorrt", table=table, exclude=options.exclude, progress=options.progress
    )
    built = build(model, built_with, engine=engine, output=options.engine_path, notify=notify)
    notify(Notice("info", "engine", f"engine: {built.path}"))


def calibrate_natively(
    library: Library,
    model: FloatModel,
    dataset: Dataset,
    options: CalibrationOptions,
    *,
    notify: Notify,
) -> NativeCalibration:
    """Streams `dataset` through TensorRT's calibrator while TensorRT builds an engine.

    The build allows INT8 and FP16. Every input gets a calibration profile of the data's shape; the last batch is
    completed with samples of the first.

    Raises:
        QuantKitError: what went wrong in a callback, or TensorRT's own words.
    """
    graph = model.prepared()
    axes = batch_axes(dataset)
    specs = _fixed_specs(input_specs(graph), dataset, options.batch_size or min(_BATCH_SIZE, len(dataset)))
    skipped: dict[str, str] = {}
    batches = PaddedBatches(
        partial(
            make_batches,
            dataset,
            leading_size(specs, axes) or 1,
            strict=options.strict,
            workers=options.workers,
            skipped=skipped,
            min_readable=options.min_readable,
        ),
        specs,
        num_samples=len(dataset),
        skipped=skipped,
        axes=axes,
        notify=notify,
    )
    shapes = {spec.name: [int(str(d)) for d in spec.shape] for spec in specs}
    float_nodes = tuple(match_nodes(graph, options.exclude))
    build_options = _build_options(graph, shapes, dataset, options)
    with temporary_folder() as folder, PrimaryContext() as context:
        feed = DeviceFeed(batches.inputs, context=context)
        try:
            calibrator = make_calibrator(
                library,
                batches,
                feed,
                batch_size=batches.batch_size,
                algorithm="minmax" if options.method == "minmax" else "entropy",
            )
            with show_progress(None, f"calibrating with {library.title}", 100, options.progress) as bar:
                engine = build_engine(
                    library,
                    OnnxInput(serialize_model(graph, folder), model.name, [str(node.name) for node in graph.graph]),
                    typing=choose_typing(library, "int8", mode="implicit"),
                    implicit=ImplicitQuantization(
                        calibrator=calibrator, calibration_shapes=shapes, float_nodes=float_nodes
                    ),
                    options=build_options,
                    on_progress=lambda share, phase: bar.update(int(100 * share) - bar.n) and None,
                    notify=notify,
                )
        finally:
            feed.free()
    if skipped:
        notify(Notice("warning", "unreadable", describe_skipped(skipped, dataset)))
    if calibrator.cache is None:
        raise CalibrationError(f"{library.title} built an engine but wrote no calibration cache")
    amax = parse_cache(calibrator.cache.decode(), name="TensorRT's calibration cache").amax
    known = set(float_activations(graph))
    return NativeCalibration(
        ranges={t: TensorRange(amax=a, minimum=-a, maximum=a) for t, a in amax.items() if a > 0 and t in known},
        skipped={t: "zero on every sample" for t, a in amax.items() if a == 0 and t in known},
        cache=calibrator.cache,
        engine=engine,
        options=build_options,
        num_samples=len(dataset) - len(skipped),
    )


def _build_options(
    graph: ir.Model, shapes: Mapping[str, list[int]], dataset: Dataset, options: CalibrationOptions
) -> BuildOptions:
    """The engine runs on what it was calibrated with, in any batch: other sizes are for `quantkit build`."""
    dynamic = {spec.name: spec.shape for spec in input_specs(graph)}
    profiles = resolve_profiles(dynamic, (), known=shapes, axes=batch_axes(dataset))
    return BuildOptions(profiles=profiles, plugins=tuple(map(Path, options.plugins)))


def _fixed_specs(specs: tuple[TensorSpec, ...], dataset: Dataset, batch_size: int) -> tuple[TensorSpec, ...]:
    """The inputs with the shape that the data have; a model's own batch size goes first."""
    sample = next(iter(make_batches(dataset, 1, strict=False, workers=1, skipped={})))
    axes = batch_axes(dataset)
    size = leading_size(specs, {s.name: axes.get(s.name, 0) for s in specs}) or batch_size
    fixed = []
    for spec in specs:
        shape, axis = list(sample.inputs[spec.name].shape), axes.get(spec.name, 0)
        if axis is not None:
            shape[axis] = size
        fixed.append(TensorSpec(spec.name, spec.dtype, tuple(shape)))
    return tuple(fixed)
