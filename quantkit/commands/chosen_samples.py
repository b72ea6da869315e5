"""Opens the samples that commands calibrate and analyze on."""

from __future__ import annotations

from quantkit.commands.on_device import runnable
from quantkit.datasets.open import on_split, open_samples
from quantkit.graph.float_model import FloatModel
from quantkit.types import Dataset, PathLike, Preprocessing
from quantkit.types.options import CalibrationOptions, ImageOptions, Order, SensitivityOptions


def open_calibration_samples(
    model: FloatModel,
    data: PathLike,
    prepared: Preprocessing | ImageOptions | str | None,
    options: CalibrationOptions | SensitivityOptions,
    order: Order = "shuffled",
) -> Dataset:
    """Chooses the samples that `options` ask for, in the split for training where the data have several."""
    return open_samples(
        runnable(model),
        data,
        on_split(prepared, "train"),
        options.classes,
        num_samples=options.num_samples,
        seed=options.seed,
        order=order,
    )
