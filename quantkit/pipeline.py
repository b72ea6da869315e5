"""The story of quantkit: images and a model → calibration table → INT8 model → report. Wires the stages, adds progress.

What a stage does is left to the stage. Nothing here touches a tensor's values.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantkit._version import __version__
from quantkit.errors import CalibrationError, DatasetError, EvaluationError, ModelError, StaleTableError
from quantkit.types import (
    Batch,
    CalibrationTable,
    ColorOrder,
    Dataset,
    Evaluation,
    HistogramRule,
    Interpolation,
    Layout,
    Preprocessing,
    QdqPlan,
    QuantizedModel,
    Report,
    Resize,
    TensorRange,
    TensorStatistics,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.calibration.collect import Collector

__all__ = [
    "DEFAULT_TENSORRT_VERSION",
    "ImageOptions",
    "calibrate",
    "evaluate",
    "quantize",
    "write_tensorrt_cache",
]

PathLike = str | os.PathLike[str]
Tell = Callable[[str], None]
Order = Literal["shuffled", "given"]
Target = Literal["tensorrt", "cpu"]
HighPrecision = Literal["fp32", "fp16"]

DEFAULT_TENSORRT_VERSION = "10.16.1"
"""The last TensorRT with calibrators: header of a cache where no TensorRT is installed."""

VARIANTS = ("fp32", "fp16", "int8", "int8-cpu")
_FEW_SAMPLES = 100
_MANY_NAMES = 5


@dataclass(frozen=True)
class ImageOptions:
    """How images are prepared, as far as a user says it; the rest comes from the preset and the model's input."""

    preset: str | None = None
    color: ColorOrder | None = None
    resize: Resize | None = None
    size: tuple[int, int] | None = None
    shorter_side: int | None = None
    interpolation: Interpolation | None = None
    pad_value: int | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Layout | None = None


# ------------------------------------------------------------------------------------------------------- calibration


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
        workers: decoding threads.
        progress: show progress bars on a terminal.
        tell: called with one line for each thing that a user may want to know.

    Returns:
        The table; written to `table_path` if that is given.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    from quantkit.calibration.methods import find_method
    from quantkit.calibration.table import save_table
    from quantkit.graph.model import load_model, model_hash

    say = tell or _silent
    find_method(method, percent=percentile)
    if histogram not in ("exact", "tensorrt"):
        raise CalibrationError(f"there is no histogram {histogram!r}: choose exact or tensorrt")
    name = Path(model).name
    graph = load_model(model)
    identity = model_hash(graph)
    tensors = _observed_tensors(graph, name, all_tensors=all_tensors)
    dataset = _open(graph, data, preprocessing, classes, num_samples=num_samples, seed=seed, order=order)
    _describe_choice(dataset, data, seed, say)
    settings: dict[str, str | int | float | bool | None] = {
        "method": method,
        "percentile": _percentile(method, percentile),
        "histogram": histogram,
        "observed": "all" if all_tensors else "quantized",
        "order": order,
        "seed": seed,
        "num_samples": num_samples,
        "batch_size": batch_size if histogram == "tensorrt" else None,
    }
    with _progress(None, "hashing", len(dataset), progress and len(dataset) > 2000):
        fingerprint = dataset.fingerprint
    if table_path is not None and not force:
        wanted = {
            "model_hash": identity,
            "dataset_fingerprint": fingerprint,
            "preprocessing": dataset.preprocessing,
        }
        reused = _reuse(Path(table_path), wanted, settings, reuse_only=reuse_only, tell=say)
        if reused is not None:
            return reused
    elif reuse_only:
        raise StaleTableError("--reuse-only needs a table to reuse, and excludes --force")
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
    ranges, skipped = _ranges(collector.statistics, find_method(method, percent=percentile), progress)
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
    if collector.num_samples < _FEW_SAMPLES:
        say(f"warning: {collector.num_samples} samples are few to calibrate with: {_FEW_SAMPLES} to 500 are usual")
    for tensor in skipped:
        say(f"warning: tensor {tensor!r} was zero on every sample: it stays in float")
    if table_path is not None:
        save_table(table, table_path)
    return table


def write_tensorrt_cache(
    model: PathLike, table: CalibrationTable, output: PathLike, *, tensorrt_version: str | None = None
) -> Path:
    """Writes the table as TensorRT's calibration cache, with the ranges that TensorRT inherits filled in.

    Args:
        model: the model that the table was made from.
        table: its calibration.
        output: where to.
        tensorrt_version: of the library that will read it, which ignores any other; None takes the installed one,
            else `DEFAULT_TENSORRT_VERSION`.

    Returns:
        `output`.
    """
    from quantkit.calibration.tensorrt_cache import cache_text
    from quantkit.graph.inheritance import implicit_ranges
    from quantkit.storage import write_text

    graph = _prepared(model, table)
    amax = implicit_ranges(graph, {name: r.amax for name, r in table.tensors.items()})
    algorithm = "MinMaxCalibration" if table.method == "minmax" else "EntropyCalibration2"
    version = tensorrt_version or _installed_tensorrt() or DEFAULT_TENSORRT_VERSION
    write_text(output, cache_text(amax, tensorrt_version=version, algorithm=algorithm))
    return Path(output)


# ------------------------------------------------------------------------------------------------------ quantization


def quantize(
    model: PathLike,
    table: CalibrationTable | PathLike,
    output: PathLike,
    *,
    target: Target = "tensorrt",
    high_precision: HighPrecision = "fp32",
    exclude: Sequence[str] = (),
    tell: Tell | None = None,
) -> QuantizedModel:
    """Writes the INT8 model: `model` with Q/DQ and INT8 weights, from the table alone.

    Args:
        model: the ONNX model that the table was made from.
        table: a calibration table, or its path.
        output: path of the INT8 model.
        target: "tensorrt" (symmetric INT8 at the inputs of weighted operators), or "cpu" for ONNX Runtime's x86 kernels.
        high_precision: of what stays in float; "fp16" needs opset 19, to which an older model is converted.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        tell: called with one line for each thing that a user may want to know.

    Returns:
        Where it is, and what stayed in float, with the reason.

    Raises:
        StaleTableError: the table belongs to another model.
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    from quantkit.graph.model import check_model, save_model

    say = tell or _silent
    table = _load(table)
    graph, plan = _quantized(model, table, target=target, high_precision=high_precision, exclude=exclude)
    check_model(graph, Path(output).name)
    save_model(graph, output)
    if excluded := [name for name, reason in plan.skipped.items() if reason.startswith("excluded")]:
        say(f"left in float as excluded: {_some(excluded)}")
    return QuantizedModel(
        path=Path(output),
        num_quantized=len({edge.node for edge in plan.weights}),
        num_weights=len(plan.weights),
        skipped=plan.skipped,
    )


def check_quantizable(
    model: PathLike, *, exclude: Sequence[str] = (), target: Target = "tensorrt", high_precision: HighPrecision = "fp32"
) -> None:
    """Raises now what `quantize` would raise after minutes of calibration: wrong options, model or exclusions."""
    from quantkit.graph.model import load_model
    from quantkit.graph.placement import plan_tensorrt
    from quantkit.graph.prepare import has_qdq, prepare

    _check_choices(target, high_precision)
    graph = load_model(model)
    if has_qdq(graph):
        raise ModelError(f"{model} is quantized already: give the float model")
    plan_tensorrt(prepare(graph, name=Path(model).name), exclude=exclude)


def _check_choices(target: str, high_precision: str) -> None:
    if high_precision not in ("fp32", "fp16"):
        raise ModelError(f"there is no high precision {high_precision!r}: choose fp32 or fp16")
    if target not in ("tensorrt", "cpu"):
        raise ModelError(f"there is no target {target!r}: choose tensorrt or cpu")
    if target == "cpu" and high_precision == "fp16":
        raise ModelError("the target cpu runs in FP32 around INT8: leave out --high-precision fp16")


def _quantized(
    model: PathLike,
    table: CalibrationTable,
    *,
    target: Target,
    high_precision: HighPrecision,
    exclude: Sequence[str],
) -> tuple[ir.Model, QdqPlan]:
    """The INT8 graph and its plan."""
    from quantkit.graph.fp16 import FP16_OPSET, to_fp16
    from quantkit.graph.params import activation_params
    from quantkit.graph.placement import plan_tensorrt, without
    from quantkit.graph.qdq import insert_qdq

    _check_choices(target, high_precision)
    half = high_precision == "fp16"
    if target == "cpu":
        from quantkit.graph.cpu import quantize_for_cpu

        return quantize_for_cpu(_prepared(model, table), table.tensors, exclude=exclude, skipped=table.skipped)
    graph = _prepared(model, table, opset=FP16_OPSET if half else None)
    plan = without(plan_tensorrt(graph, exclude=exclude), table.skipped)
    insert_qdq(graph, plan, activation_params(plan, table.tensors), fp16_scales=half)
    return (to_fp16(graph) if half else graph), plan


# -------------------------------------------------------------------------------------------------------- evaluation


def evaluate(
    model: PathLike,
    data: PathLike,
    *,
    table: CalibrationTable | PathLike | None = None,
    variants: Sequence[str] | None = None,
    models: Mapping[str, PathLike] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    preprocessing: Preprocessing | ImageOptions | str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    latency_s: float = 3.0,
    latency_batch_size: int = 1,
    threads: int = 0,
    strict: bool = False,
    workers: int | None = None,
    progress: bool = True,
    tell: Tell | None = None,
) -> Report:
    """Compares variants of a model on the same data: accuracy, agreement with FP32, latency, size.

    Args:
        model: the FP32 model: the baseline.
        data: what to evaluate on; labels, if there are any, give accuracy.
        table: calibration for the INT8 variants that are made here; None leaves them out.
        variants: which of "fp32", "fp16", "int8" (as TensorRT takes it) and "int8-cpu" to make; None makes all that
            the table allows. "fp32" is always there.
        models: finished models to compare too, by name.
        num_samples: how many samples; None takes all.
        seed: of the choice.
        batch_size: samples run at once for accuracy.
        preprocessing: of images; None takes the table's, else the default for the model's input.
        classes: class names by index.
        exclude: what the INT8 variants leave in float, as in `quantize`.
        latency_s: timed seconds for each variant; 0 leaves latency out.
        latency_batch_size: samples a call.
        threads: of ONNX Runtime within a call; 0 lets it choose.
        strict: fail on the first image that cannot be read.
        workers: decoding threads.
        progress: show progress bars on a terminal.
        tell: called with one line for each thing that a user may want to know.

    Returns:
        The report; `quantkit.reporting.write_report` writes it.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    from quantkit.backends.onnxruntime import OnnxRuntimeRunner
    from quantkit.evaluation import describe_environment, measure_latency
    from quantkit.evaluation import evaluate as measure_metrics
    from quantkit.graph.model import load_model, model_hash

    say = tell or _silent
    table = None if table is None else _load(table)
    graph = load_model(model)
    identity = model_hash(graph)
    if table is not None:
        table.check_model(identity, Path(model).name)
        preprocessing = table.preprocessing if preprocessing is None else preprocessing
    chosen = _choose_variants(variants, table)
    dataset = _open(graph, data, preprocessing, classes, num_samples=num_samples, seed=seed, order="shuffled")
    _describe_choice(dataset, data, seed, say)
    warnings = _preprocessing_warnings(table, dataset)
    skipped_files: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantkit-")))
        paths, left = _make_variants(Path(model), table, chosen, exclude, folder)
        paths |= _given_models(models or {}, paths)
        runners = {
            name: stack.enter_context(OnnxRuntimeRunner(path, name=f"the {name} model", threads=threads))
            for name, path in paths.items()
        }
        bar = stack.enter_context(_progress(None, "evaluating", len(dataset), progress))
        batches = _batches(dataset, batch_size, strict=strict, workers=workers, skipped=skipped_files)
        metrics = measure_metrics(runners, batches, baseline="fp32", on_batch=bar.update)
        bar.close()
        latencies = {}
        if latency_s:
            inputs = _latency_inputs(dataset, runners["fp32"], latency_batch_size, strict=strict, workers=workers)
            bar = stack.enter_context(_progress(None, "timing", 100, progress))
            latencies = measure_latency(
                runners,
                inputs,
                duration_s=latency_s,
                threads=threads,
                on_progress=lambda share: bar.update(round(100 * share) - bar.n) and None,
            )
            bar.close()
        evaluations = tuple(
            _evaluation(name, path, metrics[name], latencies.get(name), len(dataset) - len(skipped_files))
            for name, path in paths.items()
        )
    if skipped_files:
        warnings.append(_describe_skipped(skipped_files))
        say(f"warning: {warnings[-1]}")
    return Report(
        model_name=Path(model).name,
        model_hash=identity,
        evaluations=evaluations,
        dataset={
            "name": Path(data).name,
            "num_samples": len(dataset) - len(skipped_files),
            "num_skipped": len(skipped_files),
            "num_classes": len(dataset.classes),
            "fingerprint": dataset.fingerprint,
        },
        preprocessing=dataset.preprocessing,
        calibration={} if table is None else {**table.settings, "num_samples": table.num_samples},
        environment=describe_environment(),
        skipped=left,
        warnings=tuple(warnings),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


# ------------------------------------------------------------------------------------------------------------- steps


def _silent(_: str) -> None:
    pass


def _load(table: CalibrationTable | PathLike) -> CalibrationTable:
    from quantkit.calibration.table import load_table

    return table if isinstance(table, CalibrationTable) else load_table(table)


def _prepared(model: PathLike, table: CalibrationTable, *, opset: int | None = None) -> ir.Model:
    """The model of a table, prepared; refuses another one."""
    from quantkit.graph.model import load_model, model_hash
    from quantkit.graph.prepare import has_qdq, prepare

    graph = load_model(model)
    table.check_model(model_hash(graph), Path(model).name)
    if has_qdq(graph):
        raise ModelError(f"{model} is quantized already: give the float model")
    return prepare(graph, name=Path(model).name) if opset is None else prepare(graph, name=Path(model).name, opset=opset)


def _observed_tensors(graph: ir.Model, name: str, *, all_tensors: bool) -> tuple[str, ...]:
    """What calibration has to observe, in network order: what either target quantizes, or everything."""
    from quantkit.graph.placement import observable, plan_tensorrt
    from quantkit.graph.cpu import cpu_tensors
    from quantkit.graph.prepare import has_qdq, prepare

    if has_qdq(graph):
        raise ModelError(f"{name} is quantized already: give the float model")
    prepare(graph, name=name)
    names = observable(graph)
    if all_tensors:
        return names
    wanted = {*plan_tensorrt(graph).tensors, *cpu_tensors(graph)}
    return tuple(tensor for tensor in names if tensor in wanted)


def _load_exposed(model: PathLike, name: str, tensors: Sequence[str]) -> ir.Model:
    from quantkit.graph.expose import expose
    from quantkit.graph.model import load_model
    from quantkit.graph.prepare import prepare

    return expose(prepare(load_model(model), name=name), tensors)


def _open(
    graph: ir.Model,
    data: PathLike,
    preprocessing: Preprocessing | ImageOptions | str | None,
    classes: Sequence[str] | None,
    *,
    num_samples: int | None,
    seed: int,
    order: Order,
) -> Dataset:
    from quantkit.datasets import holds_arrays, open_dataset, resolve_preprocessing, select
    from quantkit.graph.model import input_specs

    inputs = input_specs(graph)
    if isinstance(preprocessing, str):
        preprocessing = ImageOptions(preset=preprocessing)
    if isinstance(preprocessing, ImageOptions):
        if preprocessing == ImageOptions():
            preprocessing = None
        elif len(inputs) == 1 and not holds_arrays(data):
            preprocessing = resolve_preprocessing(inputs[0], **asdict(preprocessing))
        else:
            raise DatasetError(f"{data}: image options have no meaning for arrays or a model with several inputs")
    dataset = open_dataset(data, inputs, preprocessing=preprocessing, classes=classes)
    return select(dataset, num_samples=num_samples, seed=seed, order=order)


def _describe_choice(dataset: Dataset, data: PathLike, seed: int, say: Tell) -> None:
    from quantkit.datasets import describe

    facts = describe(dataset)
    total = len(getattr(dataset, "dataset", dataset))
    chosen = f"all {total}" if len(dataset) == total else f"{len(dataset)} of {total}"
    classes = ""
    if facts["num_classes"]:
        low, high = facts["min_per_class"], facts["max_per_class"]
        classes = f", {facts['num_classes']} classes, {low if low == high else f'{low} to {high}'} each"
    say(f"data: {chosen} samples of {data} (seed {seed}{classes})")
    if dataset.preprocessing is not None:
        say(f"preprocessing: {describe_preprocessing(dataset.preprocessing)}")


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """One line a person can check: colour, resize, numbers, layout."""
    p = preprocessing
    resize = {
        "stretch": f"stretch to {p.size[0]}x{p.size[1]}",
        "crop": f"shorter side to {p.shorter_side}, centre {p.size[0]}x{p.size[1]}",
        "letterbox": f"letterbox to {p.size[0]}x{p.size[1]} (pad {p.pad_value})",
    }[p.resize]
    scale = f"1/{1 / p.scale:g}" if p.scale < 1 else f"{p.scale:g}"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (p.mean, p.std))
    return f"{p.color}, {resize} {p.interpolation}, pixel * {scale} - [{mean}] / [{std}], {p.layout} {p.dtype}"


def _reuse(
    path: Path,
    wanted: Mapping[str, object],
    settings: Mapping[str, str | int | float | bool | None],
    *,
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
            raise
        tell(f"calibrating again: {error}")
        return None
    deciding = ["method", "percentile", "histogram", "observed"]
    if settings["histogram"] == "tensorrt":
        deciding += ["order", "seed", "batch_size"]
    differences = differing_fields(stored, {**wanted, **{name: settings[name] for name in deciding}})
    if any(d.startswith("dataset fingerprint") for d in differences):
        differences += differing_fields(stored, {name: settings[name] for name in ("seed", "num_samples", "order")})
    if not differences:
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
            first = next(iter(_batches(dataset, 1, strict=strict, workers=1, skipped={})))
            batch_size = fitting_batch_size(runner, first)
        batches = _batches(dataset, batch_size, strict=strict, workers=workers, skipped=skipped)
        bar = stack.enter_context(_progress(None, "calibrating", len(dataset), progress))
        collector = collect(runner, _count(batches, bar), tensors, rule=rule)
    if skipped:
        tell(f"warning: {_describe_skipped(skipped)}")
    return collector


def _batches(
    dataset: Dataset, batch_size: int, *, strict: bool, workers: int | None, skipped: dict[str, str]
) -> Iterable[Batch]:
    from quantkit.datasets import iterate_batches

    return iterate_batches(dataset, batch_size, workers=workers, strict=strict, on_skip=skipped.__setitem__)


def _count(batches: Iterable[Batch], bar: Any) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _ranges(
    statistics: Mapping[str, TensorStatistics], method: Callable[[TensorStatistics], float], progress: bool
) -> tuple[dict[str, TensorRange], dict[str, str]]:
    """Calibrated ranges, and the tensors that were always zero with the reason."""
    ranges, skipped = {}, {}
    for name, tensor in _progress(statistics.items(), "choosing ranges", len(statistics), progress):
        amax = method(tensor) if tensor.amax > 0 else 0.0
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


def _installed_tensorrt() -> str | None:
    from importlib import metadata

    try:
        version = metadata.version("tensorrt")
    except metadata.PackageNotFoundError:
        return None
    return version if int(version.split(".")[0]) <= 10 else None


def _choose_variants(variants: Sequence[str] | None, table: CalibrationTable | None) -> tuple[str, ...]:
    if variants is None:
        return VARIANTS if table is not None else ("fp32", "fp16")
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise EvaluationError(f"there is no variant {unknown[0]!r}: choose from {', '.join(VARIANTS)}")
    if table is None and any(name.startswith("int8") for name in variants):
        raise EvaluationError("INT8 variants need a calibration table: run quantkit calibrate, or give --table")
    return tuple(name for name in VARIANTS if name == "fp32" or name in variants)


def _make_variants(
    model: Path, table: CalibrationTable | None, chosen: Sequence[str], exclude: Sequence[str], folder: Path
) -> tuple[dict[str, Path], Mapping[str, str]]:
    """Paths of the variants by name, and what the INT8 model leaves in float."""
    from quantkit.graph.fp16 import FP16_OPSET, to_fp16
    from quantkit.graph.model import load_model, save_model
    from quantkit.graph.prepare import prepare

    paths = {"fp32": model}
    left: Mapping[str, str] = {}
    for name in chosen[1:]:
        paths[name] = folder / f"{name}.onnx"
        if name == "fp16":
            graph = to_fp16(prepare(load_model(model), name=model.name, opset=FP16_OPSET))
        elif table is not None:
            target: Target = "cpu" if name == "int8-cpu" else "tensorrt"
            graph, plan = _quantized(model, table, target=target, high_precision="fp32", exclude=exclude)
            left = plan.skipped if target == "tensorrt" else left
        save_model(graph, paths[name])
    return paths, left


def _given_models(models: Mapping[str, PathLike], taken: Mapping[str, Path]) -> dict[str, Path]:
    from quantkit.graph.model import load_model

    for name, path in models.items():
        if name in taken:
            raise EvaluationError(f"--variant {name}: that name is taken; call {path} something else")
        load_model(path)
    return {name: Path(path) for name, path in models.items()}


def _latency_inputs(
    dataset: Dataset, runner: Any, batch_size: int, *, strict: bool, workers: int | None
) -> Mapping[str, Any]:
    """Inputs of the first samples, as many as are timed at once, repeated where there are too few."""
    import numpy as np

    from quantkit.feeding import fixed_batch_size

    size = fixed_batch_size(runner) or batch_size
    if size < 1:
        raise EvaluationError(f"--latency-batch-size {batch_size} must be at least 1")
    batch = next(iter(_batches(dataset, size, strict=strict, workers=workers, skipped={})))
    return {n: np.ascontiguousarray(a[np.arange(size) % len(batch)]) for n, a in batch.inputs.items()}


def _evaluation(name: str, path: Path, metrics: Mapping[str, float], latency: Any, num_samples: int) -> Evaluation:
    from quantkit.backends.onnxruntime import runtime_version
    from quantkit.evaluation import metric_notes
    from quantkit.graph.model import float_precision, load_model, size_bytes
    from quantkit.graph.prepare import has_qdq

    graph = load_model(path)
    precision: Literal["fp32", "fp16", "int8"] = "int8" if has_qdq(graph) else float_precision(graph)
    notes = list(metric_notes(metrics))
    representative = True
    if precision == "fp16":
        notes.append("ONNX Runtime computes FP16 on a CPU by casting to FP32: its latency says nothing about a GPU")
        representative = False
    elif name == "int8":
        notes.append("placed for TensorRT: its accuracy holds there, its latency on a CPU says nothing about a GPU")
        representative = False
    return Evaluation(
        name=name,
        precision=precision,
        backend=f"onnxruntime {runtime_version()} CPU",
        size_bytes=size_bytes(path),
        num_samples=num_samples,
        metrics=metrics,
        latency=latency,
        notes=tuple(notes),
        representative=representative,
    )


def _preprocessing_warnings(table: CalibrationTable | None, dataset: Dataset) -> list[str]:
    if table is None or table.preprocessing == dataset.preprocessing:
        return []
    return ["the data were prepared otherwise than for calibration: the INT8 ranges may not fit"]


def _describe_skipped(skipped: Mapping[str, str]) -> str:
    listed = "; ".join(reason if name in reason else f"{name}: {reason}" for name, reason in _first(skipped))
    more = f"; and {len(skipped) - _MANY_NAMES} more" if len(skipped) > _MANY_NAMES else ""
    return f"{len(skipped)} unreadable {'image was' if len(skipped) == 1 else 'images were'} left out: {listed}{more}"


def _first(skipped: Mapping[str, str]) -> list[tuple[str, str]]:
    return list(skipped.items())[:_MANY_NAMES]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY_NAMES} more" if len(names) > _MANY_NAMES else ""
    return ", ".join(names[:_MANY_NAMES]) + more


def _progress(items: Iterable[Any] | None, label: str, total: int, show: bool) -> Any:
    """A tqdm bar on a terminal, silent elsewhere."""
    from tqdm import tqdm

    return tqdm(items, desc=label, total=total, disable=None if show else True, leave=False, dynamic_ncols=True)
