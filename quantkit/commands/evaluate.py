"""Variants of a model, side by side on the same data: made or taken, run, timed, looked into, reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.calibration.table import open_table
from quantkit.commands.evaluation_report import Measured, make_report
from quantkit.commands.variants import VARIANTS, choose_variants, open_variants
from quantkit.datasets import holds_arrays
from quantkit.datasets.batching import make_batches
from quantkit.datasets.description import describe_choice
from quantkit.datasets.open import open_samples
from quantkit.errors import EvaluationError, ModelError
from quantkit.evaluation import describe_environment
from quantkit.evaluation import evaluate as measure
from quantkit.evaluation.engines import describe_gpu, largest_batch
from quantkit.evaluation.latency.sweep import Timing, time_batches
from quantkit.evaluation.layer_analysis import LayerAnalysis, analyze_layers
from quantkit.evaluation.tasks.task import TASKS, TaskOptions
from quantkit.graph.model import input_specs, load_model, model_hash
from quantkit.graph.passes.prepare import has_qdq
from quantkit.notices import Notice, Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.types import CalibrationTable, PathLike, Preprocessing, Report
from quantkit.types.options import ImageOptions

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["VARIANTS", "evaluate"]


@accepts_tell
def evaluate(
    model: PathLike,
    data: PathLike,
    *,
    table: CalibrationTable | PathLike | None = None,
    task: str | TaskOptions = "classify",
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
    batch_sizes: Sequence[int] = (1,),
    threads: int = 0,
    cuda_graph: bool = False,
    layer_samples: int = 64,
    strict: bool = False,
    workers: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    command: str | None = None,
    progress: bool = True,
    notify: Notify | None = None,
) -> Report:
    """Compares variants of a model on the same data: its score by the task, agreement with FP32, latency, size.

    Args:
        model: the FP32 model: the baseline.
        data: what to evaluate on; labels, if there are any, give accuracy.
        table: calibration for the INT8 variants that are made here; None leaves them out.
        task: what the outputs mean; "detect", "segment" and "custom" need `TaskOptions`.
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
        latency_s: timed seconds for each variant and batch size; 0 leaves latency out.
        batch_sizes: samples a timed call; the first is what speed-ups are told by.
        threads: of ONNX Runtime within a call; 0 lets it choose.
        cuda_graph: replay the engines' queries from CUDA graphs.
        layer_samples: how many samples the activations of the INT8 models are compared on; 0 leaves that out.
        strict: fail on the first image that cannot be read.
        workers: decoding threads.
        should_stop: asked after each batch and each turn of the timing: whether to end with what there is; the report
            says what is missing. `quantkit.cli.interruption.stop_on_interrupt` makes it of Ctrl-C.
        command: what was typed, for the report.
        progress: show progress bars on a terminal.
        notify: called with each `Notice`; without it, notices are only logged.

    Returns:
        The report; `quantkit.reporting.write_report` writes it.

    Raises:
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    notify = announcing(notify)
    _check_numbers(latency_s, layer_samples, batch_sizes, threads)
    options = task if isinstance(task, TaskOptions) else TaskOptions(task)
    table = None if table is None else open_table(table)
    graph, identity = _open_float_model(model, table)
    choose_variants(variants, table)  # a wrong name is said before anything is read
    environment = describe_environment()  # now: later the machine is busy with us
    dataset = open_samples(
        input_specs(graph),
        data,
        _preprocessing_of(table, data) if preprocessing is None else preprocessing,
        classes if TASKS[options.task].has_class_labels else None,
        num_samples=num_samples,
        seed=seed,
        order="shuffled",
        labelled=TASKS[options.task].has_class_labels,
    )
    judge = TASKS[options.task].open(options, dataset, data, classes)
    describe_choice(dataset, data, seed, notify)
    skipped_files: dict[str, str] = {}
    stop = should_stop or _never
    with open_variants(
        model,
        table,
        variants=variants,
        models=models or {},
        engines=engines or {},
        exclude=exclude,
        threads=threads,
        cuda_graph=cuda_graph,
    ) as opened:
        environment |= describe_gpu() if opened.engines else {}
        size = largest_batch(opened.engines, batch_size)
        with show_progress(None, "evaluating", len(dataset), progress) as bar:
            found = measure(
                opened.runners,
                make_batches(dataset, size, strict=strict, workers=workers, skipped=skipped_files),
                baseline="fp32",
                task=judge.task,
                on_batch=bar.update,
                should_stop=stop,
            )
        timing = Timing({}, ("interrupted: latency was not measured",) if latency_s and stop() else ())
        if latency_s and not stop():
            timing = time_batches(
                opened.runners,
                dataset,
                batch_sizes,
                duration_s=latency_s,
                threads=threads,
                strict=strict,
                workers=workers,
                progress=progress,
                should_stop=stop,
            )
        insight = LayerAnalysis(warnings=_NOT_LOOKED_INTO if layer_samples and stop() else ())
        if layer_samples and not stop():
            insight = analyze_layers(
                model,
                dataset,
                variants=opened.paths,
                engines=opened.engines,
                skipped=opened.skipped,
                num_samples=layer_samples,
                threads=threads,
                workers=workers,
                progress=progress,
                should_stop=stop,
            )
            if stop():  # some of the activations, or of few samples, would look like all
                insight = replace(insight, tensors=(), warnings=(*insight.warnings, *_NOT_LOOKED_INTO))
        evaluations = opened.describe(
            found.metrics, timing.latencies, num_samples=found.num_samples, model_hash=identity
        )
    measured = Measured(
        accuracy=found,
        timing=timing,
        insight=insight,
        evaluations=evaluations,
        skipped=opened.skipped,
        skipped_files=skipped_files,
        environment=environment,
        warnings=opened.warnings,
    )
    if measured.is_partial(dataset):
        text = f"interrupted after {found.num_samples} of {len(dataset)} samples: the report is partial"
        notify(Notice("info", "interrupted", text))
    return make_report(measured, model, identity, data=data, dataset=dataset, judge=judge, table=table, command=command)


_NOT_LOOKED_INTO = ("interrupted: what quantization does to the activations is not shown",)


def _never() -> bool:
    return False


def _check_numbers(latency_s: float, layer_samples: int, batch_sizes: Sequence[int], threads: int) -> None:
    if not (math.isfinite(latency_s) and latency_s >= 0):
        raise EvaluationError(f"--latency-s {latency_s} must be 0 or a number of seconds")
    if layer_samples < 0:
        raise EvaluationError(f"--layer-samples {layer_samples} must be 0 or more")
    if threads < 0:
        raise EvaluationError(f"--threads {threads} must be 0 or more")
    if not batch_sizes or min(batch_sizes) < 1 or len(set(batch_sizes)) < len(batch_sizes):
        raise EvaluationError(f"--batch-sizes {','.join(map(str, batch_sizes))} must be different sizes of at least 1")


def _open_float_model(model: PathLike, table: CalibrationTable | None) -> tuple[ir.Model, str]:
    """The model and its hash; a model with Q/DQ, or of another table, is refused."""
    graph = load_model(model)
    if has_qdq(graph):
        raise ModelError(f"{model} is quantized already: give the float model, and this one as --variant NAME={model}")
    identity = model_hash(graph)
    if table is not None:
        table.check_model(identity, Path(model).name)
    return graph, identity


def _preprocessing_of(table: CalibrationTable | None, data: PathLike) -> Preprocessing | None:
    return None if table is None or holds_arrays(data) else table.preprocessing
