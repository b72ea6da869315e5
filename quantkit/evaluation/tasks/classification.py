"""One class a sample: which output holds the scores, labels that fit, accuracy of each class, answers that changed.

Top-1, top-5, flips and agreement are metrics (`quantkit.evaluation.metrics`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantkit.errors import EvaluationError
from quantkit.evaluation.metrics import Scope
from quantkit.evaluation.metrics.accuracy import predict_classes, probabilities, rank_targets
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions, class_title
from quantkit.types import TOP1, Array, Batch, ChangedSample, ClassScore, Dataset, PathLike, Score


@dataclass(frozen=True)
class _Answers:
    """To a batch.

    Attributes:
        first: id of its first sample.
        is_labeled: whether its samples have labels.
        embedding: an output that looks like class scores, but is none.
        has_scores: whether one is.
        counts: samples of each class, [C]; of no class where there are no labels.
        right: those among them that each variant names right.
        changes: samples that are answered differently than by the baseline.
    """

    first: str
    is_labeled: bool
    embedding: str = ""
    has_scores: bool = False
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    right: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    changes: tuple[ChangedSample, ...] = ()


class Classification(Task):
    """Top-1 accuracy where samples have labels; what changed from the baseline's answers in any case.

    The scores are the baseline's first floating output of shape [N, C] with C >= 2 (or [N, C, 1, 1]). A model without
    such an output is compared by its outputs alone.

    Args:
        class_names: by index; empty where they are not known.
    """

    has_class_labels = True
    shape_hint = "; if they are boxes, say --task detect"

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self._names = tuple(class_names)
        self._labeled: bool | None = None
        self._has_scores = False
        self._embedding = ""
        self._right: dict[str, npt.NDArray[np.int64]] = {}
        self._counts = np.zeros(0, np.int64)

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """The labels are the data's own."""
        return OpenTask(cls(dataset.classes), tuple(dataset.classes), {})

    @property
    def metric_scopes(self) -> tuple[Scope, ...]:
        """All."""
        return ("labels", "scores", "floats", "others")

    @property
    def score(self) -> Score | None:
        """Top-1, where there are scores and labels."""
        return TOP1 if self._labeled and self._has_scores else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of the outputs where none is class scores; known after `compute`."""
        if self._labeled is None or self._has_scores:
            return ()
        if self._embedding:
            return (
                f"Output {self._embedding!r} looks like an embedding or coordinates, no class scores: no agreement of "
                "classes is computed: --task embed compares neighbors. If it is class scores, pass labeled data.",
            )
        return (
            "No output is class scores [N, C], so there is no accuracy: a detector needs --task detect, a segmentation "
            "model --task segment; --task none compares the outputs alone.",
        )

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> _Answers:
        """Counts right answers, and finds those that changed.

        Raises:
            EvaluationError: a label that the scores have no class for.
        """
        (baseline, reference), *_ = outputs.items()
        answers = _Answers(batch.ids[0], batch.targets is not None)
        output = find_scores(reference, num_samples=len(batch))
        if output is None:
            return answers
        if not self.takes_as_scores(reference[output], is_labeled=answers.is_labeled):
            return replace(answers, embedding=output)
        scores = {name: as_scores(found[output]) for name, found in outputs.items()}
        expected = scores[baseline]
        _check_targets(batch, expected, output)
        changes = tuple(c for name, of in scores.items() for c in self._find_changes(name, batch, expected, of))
        answers = replace(answers, has_scores=True, changes=changes)
        if (targets := batch.targets) is None:
            return answers
        size = expected.shape[1]
        right = {n: np.bincount(targets[rank_targets(of, targets) == 0], minlength=size) for n, of in scores.items()}
        return replace(answers, counts=np.bincount(targets, minlength=size), right=right)

    def add(self, judged: _Answers) -> None:
        """Adds the answers to the next batch.

        Raises:
            EvaluationError: labels on some samples alone.
        """
        if self._labeled is None:
            self._labeled = judged.is_labeled
        if self._labeled != judged.is_labeled:
            raise EvaluationError(f"some samples have a label and {judged.first!r} has none, or the reverse")
        self._embedding = judged.embedding or self._embedding
        self._has_scores |= judged.has_scores
        for name, right in judged.right.items():
            self._right[name] = right + self._right.get(name, 0)
        if judged.counts.size:
            self._counts = judged.counts + (self._counts if self._counts.size else 0)
        self._changes.add(*judged.changes)

    def classes(self) -> tuple[ClassScore, ...]:
        """Share of the samples of each class that are right; classes without a sample are left out."""
        return tuple(
            ClassScore(
                label=class_title(self._names, index),
                count=int(total),
                scores={variant: int(right[index]) / int(total) for variant, right in self._right.items()},
            )
            for index, total in enumerate(self._counts)
            if total
        )

    def _find_changes(self, variant: str, batch: Batch, expected: Array, scores: Array) -> Iterator[ChangedSample]:
        before, after = predict_classes(expected), predict_classes(scores)
        rows = np.flatnonzero(before != after)
        if not rows.size:
            return
        was, now = (probabilities(found[rows], tolerance=1e-2) for found in (expected, scores))
        for i, row in enumerate(rows.tolist()):
            target = None if batch.targets is None else int(batch.targets[row])
            kind: Literal["broken", "fixed", "changed"] = "changed"
            if target is not None and target in (before[row], after[row]):
                kind = "broken" if target == before[row] else "fixed"
            lost = was[i, before[row]] - now[i, before[row]] if before[row] >= 0 else 0.0
            yield ChangedSample(
                variant=variant,
                sample=batch.ids[row],
                kind=kind,
                truth="" if target is None else class_title(self._names, target),
                before=self._answer(int(before[row]), was[i]),
                after=self._answer(int(after[row]), now[i]),
                severity=float(lost) if np.isfinite(lost) else 1.0,
            )

    def _answer(self, index: int, probabilities: npt.NDArray[np.float64]) -> str:
        if index < 0:
            return "no number (NaN)"
        return f"{class_title(self._names, index)} ({100 * probabilities[index]:.0f}%)"


TASKS["classify"] = Classification


def find_scores(outputs: Mapping[str, Array], *, num_samples: int | None = None) -> str | None:
    """Name of the first output that can be class scores: floating, [N, C] with C >= 2, or [N, C, 1, 1]; else None.

    Args:
        outputs: by name.
        num_samples: N, where it is known: boxes [K, 4] of all images in one list are no scores.
    """
    fitting = (
        name
        for name, array in outputs.items()
        if is_float(array)
        and array.ndim in (2, 4)  # [N, T, 1] is a value for each step of a sequence
        and array.shape[1] >= 2
        and all(d == 1 for d in array.shape[2:])
        and num_samples in (None, len(array))
    )
    return next(islice(fitting, 1), None)


def as_scores(array: Array) -> Array:
    """[N, C, 1, 1] → [N, C]."""
    return array.reshape(array.shape[:2])


def is_float(array: Array) -> bool:
    """Whether an output holds floating numbers."""
    return bool(np.issubdtype(array.dtype, np.floating))


def _check_targets(batch: Batch, scores: Array, output: str) -> None:
    if batch.targets is None:
        return
    classes = scores.shape[1]
    wrong = np.flatnonzero((batch.targets < 0) | (batch.targets >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise EvaluationError(
            f"sample {batch.ids[first]!r} is of class {batch.targets[first]}, but output {output!r} scores {classes} "
            f"classes, 0 to {classes - 1}: pass the class names in the model's order with --classes"
        )
