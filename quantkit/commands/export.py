"""The command `export`: what Triton, DeepStream and trtexec need of a model, its table and its engine."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.configuration import check_scheme
from quantkit.backends.tensorrt.build.manifest import Manifest, find_manifest
from quantkit.backends.tensorrt.build.profiles import DEFAULT_BATCHES, image_sizes, resolve_profiles
from quantkit.backends.tensorrt.library import Library, parse_version, version_of_caches
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import check_table
from quantkit.calibration.table import load_table
from quantkit.commands.planned_build import default_engine_path
from quantkit.datasets.batch_axes import find_batch_axes
from quantkit.errors import BackendError, CalibrationError, ModelError
from quantkit.export.deepstream import preprocessing_properties, properties_text
from quantkit.export.triton import is_batched, model_config
from quantkit.export.trtexec import command_line, io_format_flags, precision_flags
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision, output_specs
from quantkit.graph.passes.prepare import scheme_of
from quantkit.machine import read_input
from quantkit.notices import Notice, Notify
from quantkit.storage import check_no_source, write_bytes, write_text
from quantkit.types import SCHEMES
from quantkit.types.options import DeepStreamOptions, TritonOptions, TrtexecOptions
from quantkit.types.quantization import Precision

_NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}


@dataclass(frozen=True)
class Repository:
    """A model in a Triton repository: what was written, the configuration first."""

    files: tuple[Path, ...]
    max_batch: int


def export_triton(model: Path, output: Path, options: TritonOptions) -> Repository:
    """Writes OUTPUT/NAME/config.pbtxt and OUTPUT/NAME/1/, with an engine (model.plan) or the ONNX model.

    Raises:
        QuantKitError: one line that names the file or option, and the fix.
    """
    opened = FloatModel(model)
    name = options.name or model.stem
    manifest = None if options.engine is None else find_manifest(Path(options.engine))
    if manifest is not None and manifest.library == "tensorrt-rtx":
        raise BackendError(f"{options.engine} is of TensorRT-RTX, which Triton does not run: build it with TensorRT")
    inputs, outputs = opened.inputs, output_specs(opened.graph)
    batch = options.max_batch or _largest_batch(manifest) or DEFAULT_BATCHES[-1]
    batch = batch if is_batched((*inputs, *outputs)) else 0
    platform = "onnxruntime_onnx" if options.engine is None else "tensorrt_plan"
    folder = output / name
    config, version = folder / "config.pbtxt", folder / "1"
    sources = opened.source_files if options.engine is None else (Path(options.engine),)
    # External data keep their names, by which the model refers to them.
    targets = [version / ("model.onnx" if options.engine is None else "model.plan")]
    targets += [version / path.name for path in sources[1:]]
    for target in targets:
        check_no_source(target, (*opened.source_files, *sources))
    for source, target in zip(sources, targets, strict=True):
        write_bytes(target, read_input(source, BackendError, most_bytes=None))
    write_text(config, model_config(name, platform, inputs, outputs, max_batch=batch))
    return Repository((config, *targets), batch)


def export_deepstream(model: Path, output: Path, options: DeepStreamOptions, notify: Notify) -> Path:
    """Writes the [property] lines of nvinfer; says where its preprocessing differs.

    Raises:
        QuantKitError: there is no table, or its preprocessing cannot be said so.
    """
    files = CalibrationFiles.of_model(model) if options.table is None else CalibrationFiles(Path(options.table))
    table = load_table(files.table)
    if table.preprocessing is None:
        raise CalibrationError(f"the table of {model.name} was calibrated on arrays: nvinfer prepares images")
    precision = options.precision
    opened = FloatModel(model)
    explicit = opened.is_quantized
    if not explicit:
        check_table(table, opened)
    if precision == "int8" and not explicit and not files.tensorrt_cache.is_file():
        text = f"there is no calibration cache {files.tensorrt_cache}: run "
        raise CalibrationError(f"{text}`quantkit calibrate {shlex.quote(str(model))} --data DATA` first")
    check_no_source(output, (*opened.source_files, files.tensorrt_cache))
    found = preprocessing_properties(table.preprocessing)
    # nvinfer looks for files from the folder of its configuration.
    model_file, cache_file = (os.path.relpath(path, output.parent) for path in (model, files.tensorrt_cache))
    values = {
        "gpu-id": "0",
        "onnx-file": model_file,
        "model-engine-file": f"{model_file}_b{options.batch_size}_gpu0_{precision}.engine",
        "batch-size": str(options.batch_size),
        "network-mode": str(_NETWORK_MODES[precision]),
        **({"int8-calib-file": cache_file} if precision == "int8" and not explicit else {}),
        **found.values,
    }
    for text in found.differences:
        notify(Notice("warning", "preprocessing", text))
    write_text(output, properties_text(values, found.differences))
    return output


def trtexec_command(model: Path, options: TrtexecOptions, build: BuildOptions) -> str:
    """The trtexec command that builds what `quantkit build` would, from the files that it would take.

    Raises:
        QuantKitError: this version of TensorRT takes no such build.
    """
    opened = FloatModel(model)
    version = parse_version(version_of_caches(options.tensorrt_version))
    own: Precision = scheme_of(opened.graph) if opened.is_quantized else float_precision(opened.graph)
    precision = options.precision or own
    typed = opened.is_quantized or own == "fp16"
    if typed and precision != own:
        raise ModelError(f"{model.name} is in {own.upper()} already: use --precision {own}, or pass the float model")
    if precision in SCHEMES:
        check_scheme(Library(module=None, name="tensorrt", version=version), precision, (), None)
    cache = Path(options.calibration_cache or CalibrationFiles.of_model(model).tensorrt_cache)
    wants_cache = precision == "int8" and not typed
    flags = precision_flags(precision, version[0], typed=typed, cache=str(cache) if wants_cache else None)
    if wants_cache and not cache.is_file():
        raise CalibrationError(f"there is no calibration cache {cache}: pass --calib, or the INT8 model with Q/DQ")
    shapes = {spec.name: spec.shape for spec in opened.inputs}
    beside = CalibrationFiles.of_model(model).table
    how = load_table(beside).preprocessing if beside.is_file() else None
    axes = find_batch_axes(opened.inputs, {})
    profiles = resolve_profiles(shapes, build.profiles, known=image_sizes(how, shapes), axes=axes)
    flags += io_format_flags(build, opened.inputs, output_specs(opened.graph))
    engine = default_engine_path(model, precision)
    return command_line(str(model), str(engine), flags, replace(build, profiles=profiles))


def _largest_batch(manifest: Manifest | None) -> int | None:
    """Largest first dimension of an engine's first profile, as the manifest has it: "1x3 / 8x3 / 32x3"."""
    profiles = [] if manifest is None else manifest.options.get("profiles", [])
    sizes = [int(str(shape).rsplit("/", 1)[-1].split("x")[0]) for shape in (profiles[0] if profiles else {}).values()]
    return min(sizes, default=None)
