"""What `evaluate` asks of a task, and the registry of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from quantkit.errors import EvaluationError
from quantkit.evaluation.embedding_values import looks_like_embedding
from quantkit.evaluation.metrics import METRICS, Scope
from quantkit.evaluation.tasks.changes import Changes
from quantkit.registry import suggest
from quantkit.types import Array, Batch, ChangedSample, ClassScore, Dataset, PathLike, Score
from quantkit.types.option import OwnOption, option, owned_options
from quantkit.types.options import PATH, TEXT

_GROUP = "Task"


@dataclass(frozen=True)
class TaskOptions:
    """What the outputs of a model mean; an option that the task does not know is an error.

    Attributes:
        decoder: of "detect", where they are laid out otherwise: a function, or "file.py:function", that reads them.
        iou_threshold: of "detect", where non-maximum suppression is not in the graph.
        postprocess: of "custom": a function, or "file.py:function": outputs and ids to predictions.
        metric: of "custom": a class, or "file.py:Class" (docs/how-to/tasks.md).
        task_options: the options that a registered task has of its own, by name.
    """

    task: str = option(
        "classify",
        "What the model's outputs are (none: compare them with FP32's only).",
        group=_GROUP,
        registry="quantkit.evaluation.tasks:TASKS",
    )
    labels: PathLike | None = option(
        None,
        "detect: COCO JSON file, folder of YOLO labels or data.yaml; segment: folder of PNG masks; image: folder of "
        "target images.",
        group=_GROUP,
        form=PATH,
        unit="path",
    )
    detections: str | None = option(
        None,
        "detect: layout of the detector's outputs.",
        group=_GROUP,
        registry="quantkit.evaluation.detection.layouts:LAYOUTS",
        is_open=True,
    )
    decoder: str | Callable[..., Any] | None = option(
        None,
        "detect: file.py:function that turns outputs into boxes, where no layout fits.",
        group=_GROUP,
        form=TEXT,
        unit="symbol",
    )
    score_threshold: float | None = option(None, "detect: minimum confidence score.", group=_GROUP)
    iou_threshold: float | None = option(None, "detect: IoU threshold for NMS.", group=_GROUP)
    max_detections: int | None = option(None, "detect: maximum detections per image.", group=_GROUP)
    ignored: int | None = option(None, "segment: ignore index (default 255; -1: none).", group=_GROUP)
    mask_map: str | None = option(
        None,
        "segment: class of the values or colors of masks: 0=0,255=1 or #ff0000=1,*=ignore.",
        group=_GROUP,
        registry="quantkit.datasets.mask_map:MASK_MAPS",
        is_open=True,
    )
    binary: Literal["logits", "probabilities"] | None = option(
        None, "segment: content of a single output channel.", group=_GROUP
    )
    postprocess: str | Callable[..., Any] | None = option(
        None, "custom: file.py:function that turns outputs into predictions.", group=_GROUP, form=TEXT, unit="symbol"
    )
    metric: str | type | None = option(
        None, "custom: file.py:Class that computes the score.", group=_GROUP, form=TEXT, unit="symbol"
    )
    task_options: Mapping[str, Any] = owned_options("quantkit.evaluation.tasks:TASKS", "--task", group=_GROUP)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise EvaluationError(f"--task: there is no {self.task!r}: {suggest(self.task, TASKS)}")
        task = TASKS[self.task]
        given = [f.name for f in fields(self)[1:-1] if getattr(self, f.name) is not None]
        for name in (*given, *self.task_options):
            if name not in task.option_names():
                owners = [f"--task {known}" for known, other in TASKS.items() if name in other.option_names()]
                raise EvaluationError(
                    f"{_flag(name)} has no meaning for --task {self.task}: it is for {' or '.join(owners) or 'no task'}"
                )
        for own in task.own_options:
            if not own.is_valid(self.own(own.name)):
                raise EvaluationError(f"{own.flag} {self.own(own.name)} must be {own.expected}")
        for names, what in task.required.items():
            alternatives = (names,) if isinstance(names, str) else names
            if all(getattr(self, name) is None for name in alternatives):
                raise EvaluationError(f"--task {self.task} needs {' or '.join(map(_flag, alternatives))}: {what}")

    def own(self, name: str) -> Any:
        """The value of an option that the task has of its own."""
        (default,) = (own.default for own in TASKS[self.task].own_options if own.name == name)
        return self.task_options.get(name, default)

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named options that are set."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Task:
    """Judges the outputs of all variants on the same samples; made anew for each evaluation.

    A task overrides what differs from these defaults, which compare raw outputs and have no score. `judge` makes of a
    batch what is needed of its samples (counts, a score, matched boxes), never inputs or outputs, and keeps nothing;
    `add` keeps it. On a cluster, batches are judged on the nodes, and added in their order where the command runs.

    Attributes:
        numbers: what `compute` calls them, ends of intervals aside; a user's own metric cannot have these names.
        options: fields of `TaskOptions` that it takes.
        own_options: those that it has and no other task.
        required: those that must be given, or one of several of which must, and what they are.
        has_class_labels: whether the data's own labels (folders, lists) mean something: a detector's folders are not
            classes.
        shape_hint: what to do about outputs that have another shape in another variant, to end a message.
        are_scores: whether the baseline's output [N, C] is class scores; None until the first batch decides.
    """

    numbers: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    own_options: ClassVar[tuple[OwnOption, ...]] = ()
    required: ClassVar[Mapping[str | tuple[str, ...], str]] = {}
    has_class_labels: ClassVar[bool] = False
    shape_hint: ClassVar[str] = "; export both with one input size, one number of classes and one layout of the outputs"

    def __init__(self) -> None:
        self._changes = Changes()
        self.are_scores: bool | None = None

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Every option that it takes."""
        return (*cls.options, *(own.name for own in cls.own_options))

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """Opens the annotations of the chosen samples and makes the task.

        Args:
            options: as given.
            dataset: the chosen samples.
            data: where they are from.
            classes: class names by index, where the user gave them.

        Raises:
            DatasetError: annotations that are missing or broken.
            EvaluationError: options that do not fit.
        """
        return OpenTask(cls(), tuple(dataset.classes), {})

    @property
    def name(self) -> str:
        """As the command line and reports call it."""
        return next(name for name, kind in TASKS.items() if type(self) is kind)

    @property
    def metric_scopes(self) -> tuple[Scope, ...]:
        """What raw outputs are compared on, see `Metric.scope`; where empty, outputs may differ in shape."""
        return ("floats", "others")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names in `METRICS` that are computed besides the task's own numbers."""
        return tuple(name for name, metric in METRICS.items() if metric.scope in self.metric_scopes)

    @property
    def score(self) -> Score | None:
        """What the variants are judged by; None where there is nothing (no labels). Known after `compute`."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before using the numbers, one sentence each. Known after `compute`."""
        return ()

    @property
    def facts(self) -> Mapping[str, int]:
        """What was judged, for the report's description of the data ("num_objects"). Known after `compute`."""
        return {}

    def takes_as_scores(self, scores: Array, *, is_labeled: bool) -> bool:
        """Whether the baseline's output [N, C] is class scores; without labels, the first batch decides by its look."""
        if self.are_scores is None:
            self.are_scores = is_labeled or not looks_like_embedding(scores)
        return self.are_scores

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> Any:
        """What `add` needs of a batch, small and of types that can be pickled.

        Called of one batch after the other, in a thread beside the one that runs the next.

        Args:
            batch: N samples.
            outputs: [N, ...] by variant and name, the baseline first.

        Raises:
            EvaluationError: outputs that are not what the task needs, naming the output and what is expected.
        """

    def add(self, judged: Any) -> None:
        """Adds what `judge` made of the next batch."""

    def update(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> None:
        """Judges the next batch and adds it; see `judge`."""
        self.add(self.judge(batch, outputs))

    def compute(self) -> dict[str, dict[str, float]]:
        """Variant → number → value, the score and the interval of its difference from the baseline among them."""
        return {}

    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each class in each variant; empty where there are no classes."""
        return ()

    def changes(self) -> tuple[ChangedSample, ...]:
        """Samples that a variant answers differently from the baseline, worst first: the most telling of each."""
        return self._changes.worst()

    def num_changes(self) -> dict[str, dict[str, int]]:
        """Variant → kind ("broken", "fixed", "changed") → number of samples, all of them."""
        return self._changes.counts()


@dataclass(frozen=True)
class OpenTask:
    """A task that can judge, and what the report says of its annotations."""

    task: Task
    class_names: tuple[str, ...]
    facts: Mapping[str, str | int | float | None]


TASKS: dict[str, type[Task]] = {}
"""By the name that `--task` takes; filled by the modules of this folder."""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def class_title(names: Sequence[str], index: int) -> str:
    """The name of a class, or its number where it has none."""
    return names[index] if index < len(names) else f"class {index}"
