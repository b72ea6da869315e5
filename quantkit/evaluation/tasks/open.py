"""What a model's outputs mean, as far as a user says it: annotations opened, the task made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.datasets.boxes import open_boxes
from quantkit.datasets.masks import open_masks
from quantkit.errors import EvaluationError
from quantkit.evaluation.detection.declared import parse_layout
from quantkit.evaluation.detection.matching import check_available
from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.custom import Custom
from quantkit.evaluation.tasks.detection import Detection
from quantkit.evaluation.tasks.output_comparison import OutputComparison
from quantkit.evaluation.tasks.segmentation import Segmentation
from quantkit.evaluation.tasks.user_code import load_symbol
from quantkit.types import Dataset, PathLike, TaskName

if TYPE_CHECKING:
    from quantkit.evaluation.tasks.task import Task

__all__ = ["OpenTask", "TaskOptions", "open_task", "wants_class_labels"]


@dataclass(frozen=True)
class TaskOptions:
    """What the outputs of a model mean; an option that the task does not know is an error.

    Attributes:
        task: "classify", "detect", "segment", "custom", or "none": compared with FP32's outputs alone.
        labels: annotations of "detect" (COCO's JSON, or a folder in YOLO's format) and of "segment" (a folder of PNGs).
        detections: how the outputs of a detector are laid out, such as "yolov8" (docs/how-to/detection.md).
        score_threshold: of "detect": what is surer than this is a detection.
        iou_threshold: of "detect", where non-maximum suppression is not in the graph.
        max_detections: of "detect": the surest so many of an image.
        ignored: of "segment": the value in a mask that counts for nothing.
        binary: of "segment", where a model has one output channel: whether it holds "logits" or "probabilities".
        postprocess: of "custom": a function, or "file.py:function": outputs and ids to predictions.
        metric: of "custom": a class, or "file.py:Class" (docs/how-to/tasks.md).
    """

    task: TaskName = "classify"
    labels: PathLike | None = None
    detections: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    ignored: int | None = None
    binary: str | None = None
    postprocess: str | Callable[..., Any] | None = None
    metric: str | type | None = None

    def __post_init__(self) -> None:
        if self.task not in _OPTIONS:
            raise EvaluationError(f"--task {self.task} is not one of {', '.join(_OPTIONS)}")
        for option in fields(self)[1:]:
            if getattr(self, option.name) is not None and option.name not in _OPTIONS[self.task]:
                owners = [task for task, names in _OPTIONS.items() if option.name in names]
                spelled = f"--{option.name.replace('_', '-')}"
                raise EvaluationError(f"{spelled} has no meaning for --task {self.task}: it is for {_either(owners)}")
        for name in _NEEDED.get(self.task, ()):
            if getattr(self, name) is None:
                raise EvaluationError(
                    f"--task {self.task} needs --{name.replace('_', '-')}: {_NEEDED[self.task][name]}"
                )


_OPTIONS: dict[str, tuple[str, ...]] = {
    "classify": (),
    "detect": ("labels", "detections", "score_threshold", "iou_threshold", "max_detections"),
    "segment": ("labels", "ignored", "binary"),
    "custom": ("postprocess", "metric"),
    "none": (),
}

_NEEDED: dict[str, dict[str, str]] = {
    "detect": {
        "labels": "COCO's JSON, or a folder of labels in YOLO's format",
        "detections": "how the outputs are laid out, such as yolov8 (docs/how-to/detection.md)",
    },
    "segment": {"labels": "a folder of PNG masks with the names of the images"},
    "custom": {"metric": "file.py:Class (docs/how-to/tasks.md)"},
}


@dataclass(frozen=True)
class OpenTask:
    """A task that can judge, and what the report says of its annotations."""

    task: Task
    class_names: tuple[str, ...]
    facts: dict[str, str | int | float | None]


def wants_class_labels(options: TaskOptions) -> bool:
    """Whether the data's own labels (folders, lists) mean something: a detector's folders are not classes."""
    return options.task in ("classify", "custom")


def open_task(options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None = None) -> OpenTask:
    """Opens the annotations of the chosen samples and makes the task.

    Raises:
        DatasetError: annotations that are missing or broken.
        EvaluationError: options that do not fit.
    """
    if options.task == "none":
        return OpenTask(OutputComparison(), (), {})
    if options.task == "detect":
        return _open_detection(options, dataset, data, classes)
    if options.task == "segment":
        return _open_segmentation(options, dataset, classes)
    if options.task == "custom":
        return _open_custom(options, dataset)
    return OpenTask(Classification(dataset.classes), tuple(dataset.classes), {})


def _open_detection(options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
    assert options.labels is not None
    assert options.detections is not None
    if dataset.preprocessing is None:
        raise EvaluationError("--task detect needs images: boxes are found in their pixels")
    parse_layout(options.detections)  # before annotations are read, which may take long
    check_available()
    annotations = open_boxes(Path(options.labels), dataset, data=Path(data), classes=classes)
    given = {
        name: value
        for name in ("score_threshold", "iou_threshold", "max_detections")
        if (value := getattr(options, name)) is not None
    }
    task = Detection(annotations, dataset.preprocessing, layout=options.detections, **given)
    facts: dict[str, str | int | float | None] = {
        "labels": Path(options.labels).name,
        "labels_fingerprint": annotations.fingerprint,
        "detections": options.detections,
        **given,
    }
    return OpenTask(task, annotations.classes, facts)


def _open_segmentation(options: TaskOptions, dataset: Dataset, classes: Sequence[str] | None) -> OpenTask:
    assert options.labels is not None
    if dataset.preprocessing is None:
        raise EvaluationError("--task segment needs images: masks are of their pixels")
    ignored = 255 if options.ignored is None else options.ignored
    annotations = open_masks(Path(options.labels), dataset, classes=classes, ignored=ignored)
    task = Segmentation(annotations, dataset.preprocessing, class_names=tuple(classes or ()), binary=options.binary)
    facts: dict[str, str | int | float | None] = {
        "labels": Path(options.labels).name,
        "labels_fingerprint": annotations.fingerprint,
        "ignored_value": ignored,
        "binary": options.binary,
    }
    return OpenTask(task, tuple(classes or annotations.classes), facts)


def _open_custom(options: TaskOptions, dataset: Dataset) -> OpenTask:
    found = [load_symbol(given) if isinstance(given, str) else given for given in (options.postprocess, options.metric)]
    facts: dict[str, str | int | float | None] = {
        name: value if isinstance(value, str) else getattr(value, "__name__", str(value))
        for name, value in (("postprocess", options.postprocess), ("metric", options.metric))
        if value is not None
    }
    return OpenTask(Custom(*found), tuple(dataset.classes), facts)


def _either(words: Sequence[str]) -> str:
    return " or ".join(f"--task {word}" for word in words)
