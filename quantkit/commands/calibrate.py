"""Calibration: reuses an up-to-date table, or observes the activations of a model in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.backends.onnxruntime import collecting_versions
from quantkit.backends.ray_cluster import check_cluster
from quantkit.backends.tensorrt.calibrators.choice import choose_calibrator
from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.methods import bind_method, method_settings
from quantkit.calibration.statistics_file import StatisticsOrigin
from quantkit.commands.calibration_run import CalibrationRun
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.commands.extensions import cut_to_runnable, extension_identity, with_extensions
from quantkit.commands.fixed_inputs import fix_inputs
from quantkit.commands.on_device import on_device
from quantkit.datasets.batch_axes import PlacedSamples
from quantkit.datasets.description import describe_choice
from quantkit.datasets.fingerprint import contents_of
from quantkit.datasets.open import warn_of_batch_axes
from quantkit.datasets.placement import PLACEMENT, placement_settings
from quantkit.datasets.rolled_states import RolledSteps
from quantkit.datasets.user_samples import LoadedSamples
from quantkit.errors import CalibrationError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.randomness import warn_of_randomness
from quantkit.notices import Notice, Notify, accepts_tell, announcing
from quantkit.storage import exclusive
from quantkit.types import CalibrationTable, Dataset, PathLike
from quantkit.types.option import make_options
from quantkit.types.options import CalibrationOptions, ImageOptions

if TYPE_CHECKING:
    from quantkit.backends.devices import Devices
    from quantkit.backends.tensorrt.library import Library
    from quantkit.types.calibration import Setting

_OF_STATISTICS = frozenset(
    {"calibrator", "histogram", "observed", "order", "seed", "num_samples", "batch_size", "ort_extension", *PLACEMENT}
)
"""Settings that decide what is collected; the others choose from it."""


@accepts_tell
def calibrate(
    model: PathLike | FloatModel,
    data: PathLike,
    options: CalibrationOptions | None = None,
    *,
    notify: Notify | None = None,
    **keywords: Any,
) -> CalibrationTable:
    """Calibrates a model: returns the range of every tensor that INT8 quantization needs.

    Args:
        model: an ONNX model in FP32, opset 7 or newer.
        data: a folder or list of images, or arrays by input name (.npy, .npz).
        options: settings; None takes the defaults of `CalibrationOptions`.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `CalibrationOptions`, instead of those in `options`, and options of the method.

    Returns:
        The table; written to `table_path` if that is given.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    options = make_options(CalibrationOptions, options, keywords)
    notify = announcing(notify)
    bind_method(options.method, options.method_options)
    model = fix_inputs(FloatModel.open(model), options.preprocess, notify)
    model.check_float()
    with with_extensions(options), on_device(options, notify) as devices:
        options, native, reason = settle_calibrator(options)
        return _calibrate(model, data, options, (native, reason, devices), notify)


def _calibrate(
    model: FloatModel,
    data: PathLike,
    options: CalibrationOptions,
    chosen: tuple[Library | None, str, Devices],
    notify: Notify,
) -> CalibrationTable:
    native, reason, devices = chosen
    warn_of_randomness(model.graph, notify)
    part = cut_to_runnable(model, notify)
    observed = observed_tensors(part.prepared(), all_tensors=options.all_tensors)
    dataset = _open_dataset(model, data, options, notify)
    settings = _settings(options, dataset, native)
    notify(Notice("info", "calibrator", f"calibrator: {settings['calibrator']} ({reason})"))
    run = CalibrationRun(
        model=model,
        runnable=part,
        data=data,
        dataset=dataset,
        origin=_origin(model, dataset, settings, observed.probabilities),
        settings=settings,
        observed=observed,
        native=native,
        devices=devices,
        files=None if options.table_path is None else CalibrationFiles(Path(options.table_path)),
        options=options,
        notify=notify,
    )
    if run.files is None:
        return run.make()
    waiting = Notice("info", "lock", f"Waiting for another run that writes {options.table_path}.")
    with exclusive(run.files.lock, on_wait=lambda: notify(waiting)):
        return run.make()


def settle_calibrator(options: CalibrationOptions) -> tuple[CalibrationOptions, Library | None, str]:
    """The options with a method that the calibrator has, TensorRT or None for quantkit's own, and why it calibrates."""
    wanted = options.calibrator
    check_cluster(options.ray)
    if options.ray is not None:
        wanted = "quantkit"  # TensorRT's own takes one sample after another
    if options.keep_statistics or options.resume:
        if wanted == "tensorrt":
            raise CalibrationError("TensorRT's calibrator saves no statistics: omit --keep-statistics and --resume")
        if options.table_path is None:
            raise CalibrationError("statistics are saved next to the table: pass table_path")
        wanted = "quantkit"
    method = options.method
    if method == "auto" and (options.histogram == "tensorrt" or wanted != "quantkit"):
        method = "entropy"
    native, reason = choose_calibrator(wanted, method=method, histogram=options.histogram)
    if wanted != options.calibrator:
        reason = "TensorRT's own does not run on a cluster" if options.ray else "TensorRT's own saves no statistics"
    # Where nothing is tried on the model, TensorRT's ranges stand alone; else they are candidates of "auto".
    if options.histogram == "tensorrt" or (native is not None and options.effort == "fast"):
        options = replace(options, method=method)
    return options, native, reason


def _open_dataset(model: FloatModel, data: PathLike, options: CalibrationOptions, notify: Notify) -> Dataset:
    """The chosen samples, hashed."""
    dataset = open_calibration_samples(model, data, options.preprocess, options, options.order)
    describe_choice(dataset, data, options.seed, notify)
    warn_of_batch_axes(model.inputs, dataset, options.preprocess, notify)
    contents_of(dataset, show=options.progress)  # hashed once, here where a bar shows it
    return dataset


def _settings(options: CalibrationOptions, dataset: Dataset, native: Library | None) -> dict[str, Setting]:
    """What decides a table beside model, data and preprocessing, as the table stores it."""
    order_decides = options.histogram == "tensorrt" or native is not None
    own = native is None or options.method == "auto"
    # Nothing was left to choose: any larger number of samples gives the same ones.
    takes_all = len(dataset) == len(getattr(dataset, "dataset", dataset))
    settings: dict[str, Setting] = {
        "calibrator": " and ".join([*([native.title] if native is not None else []), *(["quantkit"] if own else [])]),
        **method_settings(options.method, options.method_options),
        "histogram": options.histogram if own else "tensorrt",
        "observed": "all" if options.all_tensors or not own else "quantized",
        "order": options.order,
        "seed": options.seed,
        "num_samples": None if takes_all else options.num_samples,
        "batch_size": options.batch_size if order_decides else None,
    }
    if own and options.effort != "fast":
        settings |= {"accuracy": options.effort, "rounding": options.rounding}
    if isinstance(options.preprocess, ImageOptions):
        settings |= placement_settings(options.preprocess)
    if identity := extension_identity(options):
        settings["ort_extension"] = identity
    source = getattr(dataset, "dataset", dataset)
    while isinstance(source, PlacedSamples | RolledSteps):
        source = source.dataset
    if isinstance(source, LoadedSamples):
        settings["loader"] = source.loader
    return settings


def _origin(
    model: FloatModel, dataset: Dataset, settings: Mapping[str, Setting], unclipped: frozenset[str]
) -> StatisticsOrigin:
    """What the statistics of a run belong to."""
    return StatisticsOrigin(
        model_hash=model.hash,
        model_name=model.name,
        contents=contents_of(dataset),
        preprocessing=dataset.preprocessing,
        settings={name: value for name, value in settings.items() if name in _OF_STATISTICS},
        versions=collecting_versions(),
        unclipped=unclipped,
    )
