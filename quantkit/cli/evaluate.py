"""The command `evaluate`: variants of a model side by side, in one report, and a gate on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from quantkit.caches.files import CalibrationFiles
from quantkit.cli.compare import (
    AtBatchOption,
    ConfidentOption,
    GateOption,
    GateVariantOption,
    MaxDropOption,
    MaxSizeOption,
    MinAgreementOption,
    MinSpeedupOption,
    gate,
    make_limits,
)
from quantkit.cli.generate import with_options
from quantkit.cli.interruption import stop_on_interrupt
from quantkit.cli.options import (
    DATA_PANEL,
    BinaryOption,
    ClassesOption,
    DataOption,
    DetectionsOption,
    ExcludeOption,
    IgnoredOption,
    IouThresholdOption,
    LabelsOption,
    MaxDetectionsOption,
    MetricOption,
    ModelArgument,
    PostprocessOption,
    QuietOption,
    ScoreThresholdOption,
    SeedOption,
    StrictOption,
    TaskOption,
    WorkersOption,
    parse_variants,
    read_classes,
)
from quantkit.cli.output import command_line, make_printer
from quantkit.commands.evaluate import VARIANTS
from quantkit.commands.evaluate import evaluate as evaluate_variants
from quantkit.errors import INTERRUPTED, EvaluationError
from quantkit.evaluation import parse_batch_sizes
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.notices import Notice, Notify
from quantkit.reporting import print_report, write_report
from quantkit.storage import check_writable
from quantkit.types.options import ImageOptions

if TYPE_CHECKING:
    from quantkit.evaluation import Limits

__all__ = ["evaluate"]


@with_options
def evaluate(
    model: ModelArgument,
    data: DataOption,
    table: Annotated[
        Path | None, typer.Option("--table", help="Calibration table (default: MODEL.calib.json next to the model).")
    ] = None,
    variants: Annotated[
        str | None, typer.Option("--variants", help="To make and compare: fp32,fp16,int8,int8-cpu (default: all).")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="A finished model to compare too: NAME=PATH. Repeatable.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="A TensorRT engine to run and time on the GPU too: NAME=PATH. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the report (default: MODEL.report next to the model)."),
    ] = None,
    exclude: ExcludeOption = None,
    task: TaskOption = "classify",
    labels: LabelsOption = None,
    detections: DetectionsOption = None,
    score_threshold: ScoreThresholdOption = None,
    iou_threshold: IouThresholdOption = None,
    max_detections: MaxDetectionsOption = None,
    ignored: IgnoredOption = None,
    binary: BinaryOption = None,
    postprocess: PostprocessOption = None,
    metric: MetricOption = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="Samples (default: all).", rich_help_panel=DATA_PANEL)
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Samples run at once for accuracy.", rich_help_panel=DATA_PANEL)
    ] = 32,
    classes: ClassesOption = None,
    strict: StrictOption = False,
    workers: WorkersOption = None,
    latency_s: Annotated[
        float, typer.Option("--latency-s", help="Timed seconds per variant and batch size; 0 skips.")
    ] = 3.0,
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", help="Samples per timed call, one or more: 1,8,32. The first one leads.")
    ] = "1",
    threads: Annotated[int, typer.Option("--threads", help="Of ONNX Runtime within a call; 0: it chooses.")] = 0,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay the engines from CUDA graphs.")] = False,
    layer_samples: Annotated[
        int, typer.Option("--layer-samples", help="Samples to compare the activations of INT8 models on; 0 skips.")
    ] = 64,
    images: ImageOptions | None = None,
    max_drop: MaxDropOption = None,
    min_speedup: MinSpeedupOption = None,
    min_agreement: MinAgreementOption = None,
    max_size_ratio: MaxSizeOption = None,
    gates: GateOption = None,
    at_batch: AtBatchOption = None,
    confident: ConfidentOption = False,
    gate_variant: GateVariantOption = None,
    quiet: QuietOption = False,
) -> None:
    """Shows FP32, FP16 and INT8 side by side: accuracy, agreement, latency, size, in one report.

    Images are prepared as for calibration unless options say otherwise. Writes report.html, report.md and report.json.
    With a limit, such as --max-drop, ends with exit code 3 where it is broken, after the report is written.
    """
    limits = make_limits(
        max_drop, min_speedup, min_agreement, max_size_ratio, confident, gates=gates or (), at_batch=at_batch
    )
    sizes = _parse_sizes(batch_sizes)
    options = TaskOptions(
        task=task,
        labels=labels,
        detections=detections,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        ignored=ignored,
        binary=binary,
        postprocess=postprocess,
        metric=metric,
    )
    models, loaded = parse_variants(variant or []), parse_variants(engine or [], option="--engine")
    _check_limits(limits, options.task, latency_s, sizes, gate_variant or [], {*VARIANTS, *models, *loaded})
    folder = output or model.with_name(f"{model.stem}.report")
    check_writable(folder)
    notify = make_printer(quiet)
    with stop_on_interrupt() as should_stop:
        result = evaluate_variants(
            model,
            data,
            table=_find_table(model, table, notify),
            task=options,
            variants=None if variants is None else [name.strip() for name in variants.split(",")],
            models=models,
            engines=loaded,
            num_samples=num_samples,
            seed=seed,
            batch_size=batch_size,
            preprocessing=images,
            classes=read_classes(classes),
            exclude=exclude or (),
            latency_s=latency_s,
            batch_sizes=sizes,
            threads=threads,
            cuda_graph=cuda_graph,
            layer_samples=layer_samples,
            strict=strict,
            workers=workers,
            should_stop=should_stop,
            command=command_line(),
            progress=not quiet,
            notify=notify,
        )
    paths = write_report(result, folder)
    console = Console()
    print_report(result, console)
    for path in paths.values():
        typer.echo(f"wrote {path}")
    if should_stop():
        raise SystemExit(INTERRUPTED)
    gate(result, limits, variants=gate_variant or ())


def _check_limits(
    limits: Limits | None,
    task: str,
    latency_s: float,
    batch_sizes: tuple[int, ...],
    gated: list[str],
    names: set[str],
) -> None:
    """Refuses limits that this evaluation could never judge, before it runs."""
    if limits is None:
        return
    if unknown := [name for name in gated if name not in names]:
        raise typer.BadParameter(f"{unknown[0]!r} is no variant of this run", param_hint="--gate-variant")
    if task == "none" and (limits.max_drop is not None or limits.gates):
        raise typer.BadParameter("--task none has no score to judge: give --min-agreement", param_hint="--max-drop")
    if task in ("detect", "custom") and limits.min_agreement is not None:
        raise typer.BadParameter(f"--task {task} has no agreement: give --max-drop", param_hint="--min-agreement")
    if limits.min_speedup is not None and not latency_s:
        raise typer.BadParameter("nothing is timed with --latency-s 0", param_hint="--min-speedup")
    if limits.at_batch is not None and limits.at_batch not in batch_sizes:
        sizes = ",".join(map(str, batch_sizes))
        raise typer.BadParameter(f"--batch-sizes {sizes} does not time {limits.at_batch}", param_hint="--at-batch")


def _parse_sizes(text: str) -> tuple[int, ...]:
    try:
        return parse_batch_sizes(text)
    except EvaluationError as error:
        raise typer.BadParameter(str(error)) from None


def _find_table(model: Path, table: Path | None, notify: Notify) -> Path | None:
    beside = CalibrationFiles.of_model(model).table
    if table is not None:
        return table
    if beside.is_file():
        notify(Notice("info", "ranges", f"calibration: {beside}"))
        return beside
    notify(
        Notice(
            "info",
            "ranges",
            f"no calibration table {beside}: INT8 is left out; run quantkit calibrate first, or give --table",
        )
    )
    return None
