"""Opens the samples that commands calibrate and analyze on."""

from __future__ import annotations

from quantkit.commands.on_device import runnable
from quantkit.datasets.fingerprint import contents_of
from quantkit.datasets.open import on_split, open_samples, prepared_as
from quantkit.datasets.tar_samples import index_ahead
from quantkit.graph.float_model import FloatModel
from quantkit.refinement.samples import SampleBatches, affordable_samples, choose_samples
from quantkit.types import CalibrationTable, Dataset, PathLike, Preprocessing
from quantkit.types.options import CalibrationOptions, ImageOptions, Order, SensitivityOptions


def open_calibration_samples(
    model: FloatModel,
    data: PathLike,
    prepared: Preprocessing | ImageOptions | str | None,
    options: CalibrationOptions | SensitivityOptions,
    order: Order = "shuffled",
) -> Dataset:
    """Chooses the samples that `options` ask for, in the split for training where the data have several."""
    index_ahead(data, prepared, show=options.progress)
    return open_samples(
        runnable(model),
        data,
        on_split(prepared, "train", data),
        options.classes,
        num_samples=options.num_samples,
        seed=options.seed,
        order=order,
    )


def open_sensitivity_data(
    model: FloatModel, data: PathLike, table: CalibrationTable, options: SensitivityOptions
) -> Dataset:
    """Samples for the analysis, prepared as for the calibration unless options override it."""
    return open_calibration_samples(model, data, prepared_as(table, options.preprocess, data), options)


def choose_sensitivity_samples(model: FloatModel, dataset: Dataset, options: SensitivityOptions) -> SampleBatches:
    """Reads them, in an order that the order of the data does not change."""
    most = affordable_samples(model, dataset, effort="balanced")
    return choose_samples(model.inputs, dataset, contents_of(dataset), most=most, workers=options.workers)
