"""From images and a model to a calibration table: reuse what fits, else one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit._version import __version__
from quantkit.backends.onnxruntime import runtime_version
from quantkit.backends.tensorrt.calibrators.choice import CalibratorName, choose_calibrator
from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.methods import bind_method, method_settings
from quantkit.calibration.statistics_file import StatisticsOrigin
from quantkit.commands.calibration_run import CalibrationRun
from quantkit.datasets.description import describe_choice
from quantkit.datasets.fingerprint import content_hash
from quantkit.datasets.open import Order, open_samples
from quantkit.errors import CalibrationError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.notices import Notice, Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.storage import exclusive
from quantkit.types import CalibrationTable, Dataset, HistogramRule, PathLike, Preprocessing
from quantkit.types.options import ImageOptions

__all__ = ["calibrate"]


@accepts_tell
def calibrate(
    model: PathLike | FloatModel,
    data: PathLike,
    *,
    table_path: PathLike | None = None,
    method: str = "entropy",
    histogram: HistogramRule = "exact",
    num_samples: int = 512,
    seed: int = 0,
    order: Order = "shuffled",
    batch_size: int | None = None,
    preprocessing: Preprocessing | ImageOptions | str | None = None,
    classes: Sequence[str] | None = None,
    all_tensors: bool = False,
    strict: bool = False,
    force: bool = False,
    reuse_only: bool = False,
    keep_statistics: bool = False,
    resume: bool = False,
    calibrator: CalibratorName = "auto",
    cache_path: PathLike | None = None,
    engine_path: PathLike | None = None,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    progress: bool = True,
    notify: Notify | None = None,
    **method_options: float | None,
) -> CalibrationTable:
    """Runs data through a model once and returns the range of every tensor that INT8 needs.

    Args:
        model: an ONNX model in FP32, opset 11 to 24.
        data: a folder or list of images, or arrays by input name (.npy, .npz).
        table_path: where the table is kept: one that is there is reused if it fits, else replaced.
        method: a name in `quantkit.calibration.methods.METHODS`.
        histogram: "exact", or "tensorrt" to reproduce TensorRT's order-dependent numbers.
        num_samples: how many samples are chosen, evenly over the classes where there are labels.
        seed: of the choice.
        order: "shuffled", or "given" as the data lies.
        batch_size: samples run at once; None chooses by memory. Decides numbers only with histogram "tensorrt".
        preprocessing: of images; a preset's name will do. None takes the default for the model's input.
        classes: class names by index, where folder names do not say it.
        all_tensors: observe every activation, not only those that Q/DQ need (for TensorRT's own INT8 fusions).
        strict: fail on the first image that cannot be read, instead of leaving it out.
        force: calibrate again even if the table at `table_path` fits.
        reuse_only: raise `StaleTableError` instead of calibrating.
        keep_statistics: leave the statistics next to the table (MODEL.calib.stats): another method on the same data
            needs no run of the model then, and statistics of parts of the data merge.
        resume: continue from the last checkpoint of an interrupted run (MODEL.calib.partial), if it fits.
        calibrator: "quantkit", "tensorrt" (8.6 to 10, with a GPU), or "auto": TensorRT's where it can run.
        cache_path: where TensorRT's calibration cache goes, if TensorRT calibrates.
        engine_path: where the engine goes that TensorRT builds while it calibrates.
        exclude: what that engine leaves in float, as in `quantize`; the table does not depend on it.
        workers: decoding threads.
        progress: show progress bars on a terminal.
        notify: called with each `Notice`; without it, notices are only logged.
        method_options: of the method, such as `percentile`.

    Returns:
        The table; written to `table_path` if that is given.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    notify = announcing(notify)
    for option, count in (("--batch-size", batch_size), ("--workers", workers)):
        if count is not None and count < 1:
            raise CalibrationError(f"{option} {count} must be at least 1")
    bind_method(method, method_options)
    chosen = method_settings(method, method_options)
    if histogram not in ("exact", "tensorrt"):
        raise CalibrationError(f"there is no histogram {histogram!r}: choose exact or tensorrt")
    if keep_statistics or resume:
        calibrator = _check_keeping(calibrator, table_path)
    model = FloatModel.open(model)
    native, reason = choose_calibrator(calibrator, method=method, histogram=histogram)
    model.check_float()
    tensors, unclipped = observed_tensors(model.prepared(), all_tensors=all_tensors)
    dataset = open_samples(model.inputs, data, preprocessing, classes, num_samples=num_samples, seed=seed, order=order)
    describe_choice(dataset, data, seed, notify)
    notify(Notice("info", "calibrator", f"calibrator: {'quantkit' if native is None else native.title} ({reason})"))
    order_decides = histogram == "tensorrt" or native is not None
    settings: dict[str, str | int | float | bool | None] = {
        "calibrator": "quantkit" if native is None else native.title,
        **chosen,
        "histogram": "tensorrt" if order_decides else histogram,
        "observed": "all" if all_tensors or native is not None else "quantized",
        "order": order,
        "seed": seed,
        "num_samples": None if _takes_all(dataset) else num_samples,
        "batch_size": batch_size if order_decides else None,
    }
    with show_progress(None, "hashing", len(dataset), progress and len(dataset) > 2000):
        dataset.fingerprint  # noqa: B018 - computed once, here where a bar shows it
    origin = StatisticsOrigin(
        model_hash=model.hash,
        model_name=model.name,
        contents=tuple((sample, content_hash(dataset, i)) for i, sample in enumerate(dataset.ids)),
        preprocessing=dataset.preprocessing,
        settings={key: value for key, value in settings.items() if key not in chosen},
        versions=_versions(),
        unclipped=unclipped & set(tensors),
    )
    run = CalibrationRun(
        model=model,
        dataset=dataset,
        origin=origin,
        settings=settings,
        tensors=tensors,
        native=native,
        files=None if table_path is None else CalibrationFiles(Path(table_path)),
        method_options=method_options,
        batch_size=batch_size,
        strict=strict,
        force=force,
        reuse_only=reuse_only,
        keep_statistics=keep_statistics,
        resume=resume,
        cache_path=cache_path,
        engine_path=engine_path,
        exclude=exclude,
        workers=workers,
        progress=progress,
        notify=notify,
    )
    if run.files is None:
        return run.make()
    with exclusive(
        run.files.lock,
        on_wait=lambda: notify(Notice("info", "lock", f"Waiting for another run that writes {table_path}.")),
    ):
        return run.make()


def _takes_all(dataset: Dataset) -> bool:
    """Whether nothing was left to choose: any larger number of samples gives the same ones."""
    return len(dataset) == len(getattr(dataset, "dataset", dataset))


def _check_keeping(calibrator: CalibratorName, table_path: PathLike | None) -> CalibratorName:
    """The calibrator that has statistics to keep: quantkit's."""
    if calibrator == "tensorrt":
        raise CalibrationError("TensorRT's calibrator keeps no statistics: --keep-statistics and --resume exclude it")
    if table_path is None:
        raise CalibrationError("statistics are kept next to the table: give table_path")
    return "quantkit"


def _versions() -> dict[str, str]:
    return {"quantkit": __version__, "onnxruntime": runtime_version()}
