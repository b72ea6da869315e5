"""Options that commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from quantkit.pipeline import ImageOptions
from quantkit.types import ColorOrder, Interpolation, Layout, Resize, TaskName

MethodName = Literal["entropy", "minmax", "percentile", "mse"]

DATA_PANEL = "Data"
_IMAGES = "Images"

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
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="Preset: imagenet (default for 3 channels), unit (0 to 1, for 1 channel), yolo, tf, clip, caffe, none.",
        rich_help_panel=_IMAGES,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size", help="Height x width, such as 224 or 480x640 (default: the model's input).", rich_help_panel=_IMAGES
    ),
]
ColorOption = Annotated[ColorOrder | None, typer.Option("--color", help="Channel order.", rich_help_panel=_IMAGES)]
ResizeOption = Annotated[
    Resize | None,
    typer.Option(
        "--resize", help="How an image gets to that size; crop: shorter side, then centre.", rich_help_panel=_IMAGES
    ),
]
ShorterSideOption = Annotated[
    int | None, typer.Option("--shorter-side", help="Pixels before the crop.", rich_help_panel=_IMAGES)
]
InterpolationOption = Annotated[
    Interpolation | None, typer.Option("--interpolation", help="Pillow's filter.", rich_help_panel=_IMAGES)
]
PadOption = Annotated[int | None, typer.Option("--pad-value", help="0 to 255, for letterbox.", rich_help_panel=_IMAGES)]
ScaleOption = Annotated[
    str | None, typer.Option("--scale", help="Factor on pixels 0 to 255, such as 1/255.", rich_help_panel=_IMAGES)
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean", help="Subtracted after scaling: one number, or one per channel: 0.5,0.5,0.5.", rich_help_panel=_IMAGES
    ),
]
StdOption = Annotated[str | None, typer.Option("--std", help="Divisor, likewise.", rich_help_panel=_IMAGES)]
LayoutOption = Annotated[
    Layout | None, typer.Option("--layout", help="Default: from the model's input.", rich_help_panel=_IMAGES)
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
TaskOption = Annotated[
    TaskName,
    typer.Option(
        "--task", help="What the outputs mean; none: they are compared with FP32's alone.", rich_help_panel=_TASK
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


def image_options(
    preset: str | None,
    size: str | None,
    color: ColorOrder | None,
    resize: Resize | None,
    shorter_side: int | None,
    interpolation: Interpolation | None,
    pad_value: int | None,
    scale: str | None,
    mean: str | None,
    std: str | None,
    layout: Layout | None,
) -> ImageOptions | None:
    """The options as given, or None where none was given."""
    options = ImageOptions(
        preset=preset,
        size=_parse_size(size),
        color=color,
        resize=resize,
        shorter_side=shorter_side,
        interpolation=interpolation,
        pad_value=pad_value,
        scale=_parse_scale(scale),
        mean=_parse_numbers("--mean", mean),
        std=_parse_numbers("--std", std),
        layout=layout,
    )
    return None if options == ImageOptions() else options


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is no size such as 224 or 480x640", param_hint="--size")
    return int(parts[0]), int(parts[-1])


def _parse_scale(text: str | None) -> float | None:
    if text is None:
        return None
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number such as 0.0039 or 1/255", param_hint="--scale") from None


def _parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number, nor numbers such as 0.5,0.5,0.5", param_hint=option) from None


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
