"""Variants of a model, side by side on the same data: made or taken, run, timed, reported."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from quantkit.errors import EvaluationError, ModelError
from quantkit.pipeline.data import (
    ImageOptions,
    PathLike,
    Tell,
    describe_choice,
    describe_skipped,
    make_batches,
    open_samples,
    show_progress,
    stay_silent,
)
from quantkit.pipeline.engines import OpenEngine, describe_gpu, is_engine, largest_batch, open_engine, time_variants
from quantkit.pipeline.quantization import Target, make_int8, open_table
from quantkit.processor import products_saturate
from quantkit.types import CalibrationTable, Dataset, Evaluation, Latency, Preprocessing, Report, Runner

__all__ = ["VARIANTS", "evaluate"]

VARIANTS = ("fp32", "fp16", "int8", "int8-cpu")
"""What `evaluate` can make: the FP32 model itself, FP16, INT8 as TensorRT takes it, INT8 for ONNX Runtime on x86."""


def evaluate(
    model: PathLike,
    data: PathLike,
    *,
    table: CalibrationTable | PathLike | None = None,
    variants: Sequence[str] | None = None,
    models: Mapping[str, PathLike] | None = None,
    engines: Mapping[str, PathLike] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    preprocessing: Preprocessing | ImageOptions | str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    latency_s: float = 3.0,
    latency_batch_size: int = 1,
    threads: int = 0,
    cuda_graph: bool = False,
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
        models: finished models to compare too, by name; a .engine, .plan or .trt is an engine.
        engines: engines of TensorRT or TensorRT-RTX to compare too, by name: run and timed on the GPU.
        num_samples: how many samples; None takes all.
        seed: of the choice.
        batch_size: samples run at once for accuracy.
        preprocessing: of images; None takes the table's, else the default for the model's input.
        classes: class names by index.
        exclude: what the INT8 variants leave in float, as in `quantize`.
        latency_s: timed seconds for each variant; 0 leaves latency out.
        latency_batch_size: samples a call.
        threads: of ONNX Runtime within a call; 0 lets it choose.
        cuda_graph: replay the engines' queries from CUDA graphs.
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
    from quantkit.datasets import holds_arrays
    from quantkit.evaluation import describe_environment
    from quantkit.evaluation import evaluate as measure_metrics
    from quantkit.graph.model import load_model, model_hash
    from quantkit.graph.prepare import has_qdq

    say = tell or stay_silent
    if not (math.isfinite(latency_s) and latency_s >= 0):
        raise EvaluationError(f"--latency-s {latency_s} must be 0 or a number of seconds")
    table = None if table is None else open_table(table)
    graph = load_model(model)
    if has_qdq(graph):
        raise ModelError(f"{model} is quantized already: give the float model, and this one as --variant NAME={model}")
    identity = model_hash(graph)
    if table is not None:
        table.check_model(identity, Path(model).name)
        if preprocessing is None and not holds_arrays(data):
            preprocessing = table.preprocessing
    chosen = _choose_variants(variants, table)
    environment = describe_environment()  # now: later the machine is busy with us
    dataset = open_samples(graph, data, preprocessing, classes, num_samples=num_samples, seed=seed, order="shuffled")
    describe_choice(dataset, data, seed, say)
    warnings = _data_warnings(table, dataset)
    skipped_files: dict[str, str] = {}
    with ExitStack() as stack:
        models, opened = _open_engines(stack, models or {}, engines or {}, cuda_graph=cuda_graph)
        batch_size = largest_batch(opened, batch_size)
        environment |= describe_gpu() if opened else {}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantkit-")))
        paths, left, refused = _make_variants(Path(model), table, chosen, exclude, folder)
        if refused and variants is not None:
            raise next(iter(refused.values()))
        warnings += [f"{name} is left out: {error}" for name, error in refused.items()]
        paths |= _given_models(models, paths)
        runners: dict[str, Runner] = {
            name: stack.enter_context(OnnxRuntimeRunner(path, name=f"the {name} model", threads=threads))
            for name, path in paths.items()
        }
        if taken := runners.keys() & opened.keys():
            raise EvaluationError(f"--engine {min(taken)}: that name is taken; call the engine something else")
        runners |= {name: engine.runner for name, engine in opened.items()}
        bar = stack.enter_context(show_progress(None, "evaluating", len(dataset), progress))
        batches = make_batches(dataset, batch_size, strict=strict, workers=workers, skipped=skipped_files)
        metrics = measure_metrics(runners, batches, baseline="fp32", on_batch=bar.update).metrics
        bar.close()
        latencies = {}
        if latency_s:
            inputs = _latency_inputs(dataset, runners["fp32"], latency_batch_size, strict=strict, workers=workers)
            bar = stack.enter_context(show_progress(None, "timing", 100, progress))
            latencies = time_variants(
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
        evaluations += tuple(
            engine.evaluation(
                name,
                metrics[name],
                latencies.get(name),
                num_samples=len(dataset) - len(skipped_files),
                model_hash=identity,
            )
            for name, engine in opened.items()
        )
    warnings += _label_warnings(dataset, metrics["fp32"].get("num_classes"))
    warnings += _timing_warnings(latencies, environment)
    if skipped_files:
        warnings.append(describe_skipped(skipped_files, dataset))
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
        environment=environment,
        skipped=left,
        warnings=tuple(warnings),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _open_engines(
    stack: ExitStack, models: Mapping[str, PathLike], engines: Mapping[str, PathLike], *, cuda_graph: bool
) -> tuple[dict[str, PathLike], dict[str, OpenEngine]]:
    """The models that are no engines, and the engines, which the stack closes."""
    found = {name: path for name, path in models.items() if is_engine(path)}
    if twice := found.keys() & engines.keys():
        raise EvaluationError(f"--engine {min(twice)}: that name is taken; call the engine something else")
    opened: dict[str, OpenEngine] = {}
    for name, path in {**found, **engines}.items():
        opened[name] = open_engine(path, name=name, cuda_graph=cuda_graph)
        stack.enter_context(opened[name].runner)
    return {name: path for name, path in models.items() if name not in found}, opened


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
) -> tuple[dict[str, Path], Mapping[str, str], dict[str, ModelError]]:
    """Paths of the variants by name, what the INT8 model leaves in float, and which variants the model cannot have."""
    from quantkit.graph.fp16 import FP16_OPSET, to_fp16
    from quantkit.graph.model import load_model, save_model
    from quantkit.graph.prepare import prepare

    paths = {"fp32": model}
    left: Mapping[str, str] = {}
    refused: dict[str, ModelError] = {}
    for name in chosen[1:]:
        try:
            if name == "fp16":
                graph = to_fp16(prepare(load_model(model), name=model.name, opset=FP16_OPSET))
            elif table is not None:
                target: Target = "cpu" if name == "int8-cpu" else "tensorrt"
                graph, plan = make_int8(
                    model,
                    table,
                    target=target,
                    high_precision="fp32",
                    exclude=exclude,
                    reduce_range=target == "cpu" and products_saturate(),
                )
                left = plan.skipped if target == "tensorrt" else left
        except ModelError as error:
            refused[name] = error
            continue
        paths[name] = folder / f"{name}.onnx"
        save_model(graph, paths[name])
    return paths, left, refused


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
    batch = next(iter(make_batches(dataset, size, strict=strict, workers=workers, skipped={})))
    return {n: np.ascontiguousarray(a[np.arange(size) % len(batch)]) for n, a in batch.inputs.items()}


def _evaluation(
    name: str, path: Path, metrics: Mapping[str, float], latency: Latency | None, num_samples: int
) -> Evaluation:
    from quantkit.backends.onnxruntime import runtime_version
    from quantkit.evaluation import metric_notes
    from quantkit.graph.model import float_precision, load_model, size_bytes
    from quantkit.graph.prepare import has_int8_activations, has_qdq

    graph = load_model(path)
    precision: Literal["fp32", "fp16", "int8"] = "int8" if has_qdq(graph) else float_precision(graph)
    notes = list(metric_notes(metrics))
    representative = True
    if latency is None:
        pass
    elif precision == "fp16":
        notes.append("ONNX Runtime computes FP16 on a CPU by casting to FP32: its latency says nothing about a GPU")
        representative = False
    elif has_int8_activations(graph):
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


def _data_warnings(table: CalibrationTable | None, dataset: Dataset) -> list[str]:
    if table is None:
        return []
    found = []
    if dataset.fingerprint == table.dataset_fingerprint:
        found.append("these are the images that calibration saw: INT8 will look better than on new ones")
    if None not in (table.preprocessing, dataset.preprocessing) and table.preprocessing != dataset.preprocessing:
        found.append("the data were prepared otherwise than for calibration: the INT8 ranges may not fit")
    return found


def _label_warnings(dataset: Dataset, scores: float | None) -> list[str]:
    """Class names that were numbered by their order, where the model knows other classes too."""
    if dataset.targets is None or not dataset.classes or scores is None or len(dataset.classes) == scores:
        return []
    return [
        f"the data has {len(dataset.classes)} classes and the model scores {scores:.0f}: classes were numbered by the "
        "order of their names; give the model's own order by --classes if accuracy looks wrong"
    ]


def _timing_warnings(latencies: Mapping[str, Latency], environment: Mapping[str, str]) -> list[str]:
    """Signs that other work disturbed the measurement."""
    if not latencies:
        return []
    found = []
    load, cores = float(environment.get("load_average", 0)), int(environment.get("cpu_cores", 1))
    if load > cores:
        found.append(f"the machine was busy (load {load:.1f} on {cores} cores): latencies are longer and less certain")
    for name, latency in latencies.items():
        if latency.mean_ms > 1.5 * latency.median_ms:
            found.append(
                f"{name}: calls were interrupted (mean {latency.mean_ms:.3g} ms, median {latency.median_ms:.3g} ms)"
            )
    return found
