"""From images and a model to a calibration table: reuse what fits, else one pass over the data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit._version import __version__
from quantkit.errors import CalibrationError, ModelError, StaleTableError
from quantkit.pipeline.data import (
    ImageOptions,
    Order,
    PathLike,
    Tell,
    count_samples,
    describe_choice,
    describe_skipped,
    make_batches,
    open_samples,
    show_progress,
    stay_silent,
)
from quantkit.pipeline.native_calibration import (
    CalibratorName,
    calibrate_natively,
    choose_calibrator,
    write_engine,
)
from quantkit.types import (
    CalibrationTable,
    Dataset,
    HistogramRule,
    Method,
    Preprocessing,
    TensorRange,
    TensorStatistics,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.calibration.collect import Collector

__all__ = ["calibrate"]

_FEW_SAMPLES = 100


def calibrate(
    model: PathLike,
    data: PathLike,
    *,
    table_path: PathLike | None = None,
    method: str = "entropy",
    percentile: float | None = None,
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
    calibrator: CalibratorName = "auto",
    cache_path: PathLike | None = None,
    engine_path: PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
    tell: Tell | None = None,
) -> CalibrationTable:
    """Runs data through a model once and returns the range of every tensor that INT8 needs.

    Args:
        model: an ONNX model in FP32, opset 11 to 24.
        data: a folder or list of images, or arrays by input name (.npy, .npz).
        table_path: where the table is kept: one that is there is reused if it fits, else replaced.
        method: a name in `quantkit.calibration.methods.METHODS`.
        percentile: for method "percentile", in percent.
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
        calibrator: "quantkit", "tensorrt" (8.6 to 10, with a GPU), or "auto": TensorRT's where it can run.
        cache_path: where TensorRT's calibration cache goes, if TensorRT calibrates.
        engine_path: where the engine goes that TensorRT builds while it calibrates.
        workers: decoding threads.
        progress: show progress bars on a terminal.
        tell: called with one line for each thing that a user may want to know.

    Returns:
        The table; written to `table_path` if that is given.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    from quantkit.calibration.methods import find_method
    from quantkit.graph.model import load_model, model_hash
    from quantkit.storage import write_bytes

    say = tell or stay_silent
    find_method(method, percent=percentile)
    if histogram not in ("exact", "tensorrt"):
        raise CalibrationError(f"there is no histogram {histogram!r}: choose exact or tensorrt")
    name = Path(model).name
    graph = load_model(model)
    identity = model_hash(graph)
    native, reason = choose_calibrator(calibrator, method=method, histogram=histogram)
    tensors, unclipped = _observed_tensors(graph, name, all_tensors=all_tensors)
    dataset = open_samples(graph, data, preprocessing, classes, num_samples=num_samples, seed=seed, order=order)
    describe_choice(dataset, data, seed, say)
    say(f"calibrator: {'quantkit' if native is None else native.title} ({reason})")
    order_decides = histogram == "tensorrt" or native is not None
    settings: dict[str, str | int | float | bool | None] = {
        "calibrator": "quantkit" if native is None else native.title,
        "method": method,
        "percentile": _percentile(method, percentile),
        "histogram": "tensorrt" if order_decides else histogram,
        "observed": "all" if all_tensors or native is not None else "quantized",
        "order": order,
        "seed": seed,
        "num_samples": num_samples,
        "batch_size": batch_size if order_decides else None,
    }
    with show_progress(None, "hashing", len(dataset), progress and len(dataset) > 2000):
        fingerprint = dataset.fingerprint
    if table_path is not None and not force:
        wanted = {
            "model_hash": identity,
            "dataset_fingerprint": fingerprint,
            "preprocessing": dataset.preprocessing,
        }
        reused = _reuse(
            Path(table_path),
            wanted,
            settings,
            num_chosen=len(dataset),
            strict=strict,
            reuse_only=reuse_only,
            tell=say,
        )
        if reused is not None:
            return reused
    elif reuse_only:
        raise StaleTableError("--reuse-only needs a table to reuse, and excludes --force")
    if native is not None:
        made = calibrate_natively(
            native,
            model,
            dataset,
            method=method,
            batch_size=batch_size,
            strict=strict,
            workers=workers,
            progress=progress,
            tell=say,
        )
        table = CalibrationTable(
            tensors=made.ranges,
            skipped=made.skipped,
            model_hash=identity,
            model_name=name,
            dataset_fingerprint=fingerprint,
            num_samples=made.num_samples,
            preprocessing=dataset.preprocessing,
            settings=settings,
            versions={"quantkit": __version__, native.name: ".".join(map(str, native.version))},
        )
        if cache_path is not None:
            write_bytes(cache_path, made.cache)
        if engine_path is not None:
            write_engine(native, model, table, made.engine, engine_path)
            say(f"engine: {engine_path}")
        return _finish(table, table_path, say)
    collector = _collect(
        _load_exposed(model, name, tensors),
        dataset,
        tensors,
        rule=histogram,
        batch_size=batch_size,
        strict=strict,
        workers=workers,
        progress=progress,
        tell=say,
        name=name,
    )
    # Most probabilities and gates are near 0, and there KL divergence ends the range; the few large ones matter.
    # ONNX Runtime and ModelOpt fix the range of a Softmax likewise. TensorRT's own rule knows no exception.
    kept = unclipped if method == "entropy" and histogram == "exact" else frozenset()
    ranges, skipped = _ranges(collector.statistics, find_method(method, percent=percentile), kept, progress)
    if histogram == "tensorrt":
        ranges = _as_tensorrt_inherits(model, name, ranges)
    table = CalibrationTable(
        tensors=ranges,
        skipped=skipped,
        model_hash=identity,
        model_name=name,
        dataset_fingerprint=fingerprint,
        num_samples=collector.num_samples,
        preprocessing=dataset.preprocessing,
        settings=settings,
        versions=_versions(),
    )
    return _finish(table, table_path, say)


def _finish(table: CalibrationTable, path: PathLike | None, say: Tell) -> CalibrationTable:
    """Says what a user should know of a new table, and writes it."""
    from quantkit.calibration.table import save_table

    if table.num_samples < _FEW_SAMPLES:
        count = "1 sample is" if table.num_samples == 1 else f"{table.num_samples} samples are"
        say(f"warning: {count} few to calibrate with: {_FEW_SAMPLES} to 500 are usual")
    for tensor in table.skipped:
        say(f"warning: tensor {tensor!r} was zero on every sample: it stays in float")
    if path is not None:
        save_table(table, path)
    return table


def _observed_tensors(graph: ir.Model, name: str, *, all_tensors: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """What calibration has to observe, in network order, and which of it are probabilities.

    Observed is what either target quantizes, or everything.
    """
    from quantkit.graph.cpu import cpu_tensors
    from quantkit.graph.placement import observable, plan_tensorrt, probabilities
    from quantkit.graph.prepare import has_qdq, prepare

    if has_qdq(graph):
        raise ModelError(f"{name} is quantized already: give the float model")
    prepare(graph, name=name)
    names = observable(graph)
    wanted = set(names) if all_tensors else {*plan_tensorrt(graph).tensors, *cpu_tensors(graph)}
    return tuple(tensor for tensor in names if tensor in wanted), probabilities(graph)


def _load_exposed(model: PathLike, name: str, tensors: Sequence[str]) -> ir.Model:
    from quantkit.graph.expose import expose
    from quantkit.graph.model import load_model
    from quantkit.graph.prepare import prepare

    return expose(prepare(load_model(model), name=name), tensors)


def _reuse(
    path: Path,
    wanted: Mapping[str, object],
    settings: Mapping[str, str | int | float | bool | None],
    *,
    num_chosen: int,
    strict: bool,
    reuse_only: bool,
    tell: Tell,
) -> CalibrationTable | None:
    """The table at `path` if a new calibration would give the same one."""
    from quantkit.calibration.table import differing_fields, load_table

    if not path.exists():
        if reuse_only:
            raise StaleTableError(f"there is no calibration table {path} to reuse: run without --reuse-only")
        return None
    try:
        stored = load_table(path)
    except CalibrationError as error:
        if reuse_only:
            raise StaleTableError(str(error)) from error
        tell(f"warning: {error}")
        return None
    deciding = ["calibrator", "method", "percentile", "histogram", "observed"]
    if settings["histogram"] == "tensorrt":
        deciding += ["order", "seed", "batch_size"]
    differences = differing_fields(stored, {**wanted, **{name: settings[name] for name in deciding}})
    if any(d.startswith("dataset fingerprint") for d in differences):
        differences += differing_fields(stored, {name: settings[name] for name in ("seed", "num_samples", "order")})
    unreadable = num_chosen - stored.num_samples
    if strict and unreadable:
        differences.append(f"strict: {unreadable} of {num_chosen} samples could not be read")
    if not differences:
        if unreadable:
            tell(f"warning: the table leaves out {unreadable} of {num_chosen} samples, which could not be read")
        tell(f"reusing {path}: same model, data, preprocessing and settings (--force calibrates again)")
        return stored
    if reuse_only:
        raise StaleTableError(f"{path} does not fit: {'; '.join(differences)}: run without --reuse-only")
    tell(f"calibrating again, since {path.name} was made with other inputs: {'; '.join(differences)}")
    return None


def _collect(
    exposed: ir.Model,
    dataset: Dataset,
    tensors: Sequence[str],
    *,
    rule: HistogramRule,
    batch_size: int | None,
    strict: bool,
    workers: int | None,
    progress: bool,
    tell: Tell,
    name: str,
) -> Collector:
    from quantkit.backends.onnxruntime import OnnxRuntimeRunner
    from quantkit.calibration.collect import collect, fitting_batch_size
    from quantkit.graph.model import serialize_model

    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder, ExitStack() as stack:
        serialized = serialize_model(exposed, folder)
        runner = stack.enter_context(OnnxRuntimeRunner(serialized, name=name, spinning=False))
        if batch_size is None:
            first = next(iter(make_batches(dataset, 1, strict=strict, workers=1, skipped={})))
            batch_size = fitting_batch_size(runner, first)
        batches = make_batches(dataset, batch_size, strict=strict, workers=workers, skipped=skipped)
        bar = stack.enter_context(show_progress(None, "calibrating", len(dataset), progress))
        collector = collect(runner, count_samples(batches, bar), tensors, rule=rule)
    if skipped:
        tell(f"warning: {describe_skipped(skipped, dataset)}")
    return collector


def _ranges(
    statistics: Mapping[str, TensorStatistics],
    method: Method,
    unclipped: frozenset[str],
    progress: bool,
) -> tuple[dict[str, TensorRange], dict[str, str]]:
    """Calibrated ranges, and the tensors that were always zero with the reason."""
    ranges, skipped = {}, {}
    for name, tensor in show_progress(statistics.items(), "choosing ranges", len(statistics), progress):
        amax = 0.0 if tensor.amax == 0 else tensor.amax if name in unclipped else method(tensor)
        if amax > 0:
            ranges[name] = TensorRange(amax=amax, minimum=tensor.minimum, maximum=tensor.maximum)
        else:
            skipped[name] = "zero on every sample"
    if not ranges:
        raise CalibrationError("every observed tensor was zero on every sample: check model and preprocessing")
    return ranges, skipped


def _as_tensorrt_inherits(model: PathLike, name: str, ranges: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    from quantkit.graph.inheritance import implicit_ranges
    from quantkit.graph.model import load_model
    from quantkit.graph.prepare import prepare

    graph = prepare(load_model(model), name=name)
    amax = implicit_ranges(graph, {tensor: r.amax for tensor, r in ranges.items()})
    return {t: TensorRange(amax=amax[t], minimum=r.minimum, maximum=r.maximum) for t, r in ranges.items()}


def _percentile(method: str, percent: float | None) -> float | None:
    from quantkit.calibration.methods import DEFAULT_PERCENTILE

    return (percent if percent is not None else DEFAULT_PERCENTILE) if method == "percentile" else None


def _versions() -> dict[str, str]:
    from quantkit.backends.onnxruntime import runtime_version

    return {"quantkit": __version__, "onnxruntime": runtime_version()}
