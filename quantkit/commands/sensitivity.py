"""Which tensors and operators hurt the output of the quantized model."""

from __future__ import annotations

from functools import partial
from typing import Any

from quantkit.backends.devices import choose_devices
from quantkit.backends.onnxruntime import LEAST_WORK_FOR_GPU, using_gpu
from quantkit.backends.ray_cluster import check_cluster
from quantkit.caches.files import CalibrationFiles
from quantkit.caches.reuse import check_table, why_not_of_model
from quantkit.calibration.table import open_table
from quantkit.commands.calibrate import calibrate
from quantkit.commands.chosen_samples import choose_sensitivity_samples, open_sensitivity_data
from quantkit.commands.cluster_trials import trying_on_cluster
from quantkit.commands.extensions import with_extensions
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.commands.on_device import or_on_cpu
from quantkit.datasets.description import describe_choice
from quantkit.datasets.fingerprint import contents_of
from quantkit.datasets.open import prepared_as, warn_of_batch_axes
from quantkit.graph.float_model import FloatModel
from quantkit.graph.share import estimated_total_work
from quantkit.notices import Notice, Notify, announcing
from quantkit.refinement.sensitivity_analysis import FIRST_SAMPLES, analyze_sensitivity
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.option import make_options
from quantkit.types.options import Effort, SensitivityOptions
from quantkit.types.sensitivity import Sensitivity


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
    check_cluster(options.ray)
    if options.device != "auto":
        choose_devices(options.device)  # before anything runs, though a table may leave nothing to do on it
    model = FloatModel.open(model)
    model.check_float()
    with with_extensions(options):
        table = find_fitting_table(model, options, notify) or make_table(model, data, options, notify=notify)
        model = fix_as_calibrated(model, table)
        found = rank_units(model, data, table, options, notify=notify)
    model.check_unchanged()
    return found


def rank_units(
    model: FloatModel,
    data: PathLike,
    table: CalibrationTable,
    options: SensitivityOptions,
    *,
    operators: bool = True,
    notify: Notify,
) -> Sensitivity:
    """The ranking of a model whose table is there, by this machine or by the tasks of a Ray cluster."""
    dataset = open_sensitivity_data(model, data, table, options)
    describe_choice(dataset, data, options.seed, notify)
    warn_of_batch_axes(model.inputs, dataset, prepared_as(table, options.preprocess, data), notify)
    samples = choose_sensitivity_samples(model, dataset, options)
    analyze = partial(analyze_sensitivity, model, table, samples, operators=operators, progress=options.progress)
    if options.ray is None:
        work = FIRST_SAMPLES * estimated_total_work(model.prepared())
        with using_gpu(choose_devices(options.device).first_gpu if work >= LEAST_WORK_FOR_GPU else None):
            return or_on_cpu(analyze, notify)
    with trying_on_cluster(model, data, table, contents_of(dataset), options, notify=notify) as elsewhere:
        return analyze(elsewhere=elsewhere)


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
    kept = "" if table_path is None else f" and writing {table_path}"
    text = f"Calibrating with --accuracy {accuracy}{kept}; run `quantkit calibrate` first to analyze what you deploy."
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
        ray=options.ray,
        plugins=options.plugins,
        ort_extension=options.ort_extension,
        progress=options.progress,
        notify=notify,
    )
