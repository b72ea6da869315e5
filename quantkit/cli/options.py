"""Options that commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from quantkit.evaluation.tasks import TASKS
from quantkit.registry import suggest

DATA_PANEL = "Data"

ModelArgument = Annotated[Path, typer.Argument(help="ONNX model in FP32, opset 11 to 24.", show_default=False)]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder of images (sub-folders are classes), list of images (.txt, .csv, .jsonl), or arrays (.npy, .npz).",
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the choice of samples.", rich_help_panel=DATA_PANEL)]
ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="Text file with the class names in the order of the model's outputs.",
        rich_help_panel=DATA_PANEL,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Fail on an unreadable image instead of leaving it out.", rich_help_panel=DATA_PANEL),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Decoding threads (default: CPUs).", rich_help_panel=DATA_PANEL)
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Node name, pattern (*), or operator type to leave in float. Repeatable."),
]
ReduceRangeOption = Annotated[
    bool | None,
    typer.Option(
        "--reduce-range/--no-reduce-range",
        help="Weights of 7 bits, for target cpu (default: where this processor has no VNNI).",
        show_default=False,
    ),
]
_TASK = "Task"


def _check_task(name: str) -> str:
    if name not in TASKS:
        raise typer.BadParameter(f"{name!r} is no task: {suggest(name, TASKS)}")
    return name


TaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        help="What the outputs mean; none: they are compared with FP32's alone.",
        rich_help_panel=_TASK,
        metavar=f"[{'|'.join(TASKS)}]",
        callback=_check_task,
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="detect: COCO's JSON or a folder in YOLO's format; segment: a folder of PNG masks.",
        rich_help_panel=_TASK,
    ),
]
DetectionsOption = Annotated[
    str | None,
    typer.Option(
        "--detections", help="How a detector's outputs are laid out: yolov5, yolov8, detr, ...", rich_help_panel=_TASK
    ),
]
ScoreThresholdOption = Annotated[
    float | None, typer.Option("--score-threshold", help="detect: what is surer counts.", rich_help_panel=_TASK)
]
IouThresholdOption = Annotated[
    float | None, typer.Option("--iou-threshold", help="detect: of non-maximum suppression.", rich_help_panel=_TASK)
]
MaxDetectionsOption = Annotated[
    int | None, typer.Option("--max-detections", help="detect: of an image, the surest.", rich_help_panel=_TASK)
]
IgnoredOption = Annotated[
    int | None,
    typer.Option(
        "--ignored",
        help="segment: value in a mask that counts for nothing (255); -1: every pixel counts.",
        rich_help_panel=_TASK,
    ),
]
BinaryOption = Annotated[
    Literal["logits", "probabilities"] | None,
    typer.Option("--binary", help="segment: what a single output channel holds.", rich_help_panel=_TASK),
]
PostprocessOption = Annotated[
    str | None,
    typer.Option("--postprocess", help="custom: file.py:function, outputs to predictions.", rich_help_panel=_TASK),
]
MetricOption = Annotated[
    str | None, typer.Option("--metric", help="custom: file.py:Class, the score.", rich_help_panel=_TASK)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and results.")]


def read_classes(path: Path | None) -> list[str] | None:
    """Class names, one a line."""
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}", param_hint="--classes") from None
    return [name for name in names if name]


def parse_variants(words: list[str], *, option: str = "--variant") -> dict[str, Path]:
    """NAME=PATH words → path by name."""
    models = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or not name or not path:
            raise typer.BadParameter(f"{word!r} is not NAME=PATH", param_hint=option)
        if name in models:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        models[name] = Path(path)
    return models
