"""Which tensors and operators hurt the output of the quantized model."""

from __future__ import annotations

from typing import Any

from quantkit.backends.devices import choose_devices
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import check_table, why_not_of_model
from quantkit.calibration.table import open_table
from quantkit.commands.calibrate import calibrate
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.datasets.batching import batch_axes, leading_size
from quantkit.datasets.description import describe_choice
from quantkit.datasets.fingerprint import contents_of
from quantkit.datasets.open import prepared_as, warn_of_batch_axes
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, announcing
from quantkit.refinement.samples import SampleBatches, affordable_samples, choose_samples
from quantkit.refinement.sensitivity_analysis import analyze_sensitivity
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.option import make_options
from quantkit.types.options import Effort, SensitivityOptions
from quantkit.types.sensitivity import Sensitivity

__all__ = ["find_fitting_table", "make_table", "open_sensitivity_samples", "sensitivity"]


def sensitivity(
    model: PathLike | FloatModel,
    data: PathLike,
    options: SensitivityOptions | None = None,
    *,
    notify: Notify | None = None,
    **keywords: Any,
) -> Sensitivity:
    """Ranks the quantized tensors and the weighted operators of a model by what each costs the output.

    Args:
        model: an ONNX model in FP32.
        data: a folder or list of images, or arrays by input name (.npy, .npz); labels are not needed.
        options: settings; None takes the defaults of `SensitivityOptions`.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `SensitivityOptions`, instead of those in `options`.

    Returns:
        The units, the worst first.

    Raises:
        StaleTableError: the table that was given belongs to another model.
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    options = make_options(SensitivityOptions, options, keywords)
    notify = announcing(notify)
    if options.device != "auto":
        choose_devices(options.device)  # before anything runs, though a table may leave nothing to do on it
    model = FloatModel.open(model)
    model.check_float()
    table = find_fitting_table(model, options, notify) or make_table(model, data, options, notify=notify)
    model = fix_as_calibrated(model, table)
    samples = open_sensitivity_samples(model, data, table, options, notify=notify)
    found = analyze_sensitivity(model, table, samples, progress=options.progress)
    model.check_unchanged()
    return found


def find_fitting_table(model: FloatModel, options: SensitivityOptions, notify: Notify) -> CalibrationTable | None:
    """The table that was given, or the one next to the model if it fits; says which.

    Raises:
        StaleTableError: the table that was given belongs to another model.
    """
    if options.table is not None:
        table = open_table(options.table)
        check_table(table, model)
        return table
    beside = CalibrationFiles.of_model(model.path).table
    if not beside.is_file():
        return None
    table = open_table(beside)
    if reason := why_not_of_model(table, model):
        notify(Notice("warning", "ranges", f"{beside} is not used: {reason}"))
        return None
    notify(Notice("info", "ranges", f"calibration: {beside}"))
    return table


def make_table(
    model: FloatModel,
    data: PathLike,
    options: SensitivityOptions,
    accuracy: Effort = "fast",
    table_path: PathLike | None = None,
    *,
    notify: Notify,
) -> CalibrationTable:
    """A new calibration; its table is kept at `table_path`, if that is given."""
    text = f"Calibrating with --accuracy {accuracy}; run `quantkit calibrate` first to analyze what you deploy."
    notify(Notice("info", "ranges", text))
    return calibrate(
        model,
        data,
        accuracy=accuracy,
        table_path=table_path,
        num_samples=options.num_samples,
        preprocess=options.preprocess,
        classes=options.classes,
        seed=options.seed,
        workers=options.workers,
        device=options.device,
        progress=options.progress,
        notify=notify,
    )


def open_sensitivity_samples(
    model: FloatModel, data: PathLike, table: CalibrationTable, options: SensitivityOptions, *, notify: Notify
) -> SampleBatches:
    """Samples for the analysis, prepared as for the calibration unless options override it."""
    prepared = prepared_as(table, options.preprocess, data)
    dataset = open_calibration_samples(model, data, prepared, options)
    describe_choice(dataset, data, options.seed, notify)
    warn_of_batch_axes(model.inputs, dataset, prepared, notify)
    return choose_samples(
        dataset,
        dict(contents_of(dataset)),
        most=affordable_samples(model, dataset, effort="balanced"),
        batch_size=leading_size(model.inputs, batch_axes(dataset)),
        workers=options.workers,
    )
