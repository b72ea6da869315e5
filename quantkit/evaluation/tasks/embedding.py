"""One vector a sample, used by its angle to others: cosine with the baseline's, and whose neighbors stay neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quantkit.errors import EvaluationError
from quantkit.evaluation.tasks.classification import is_float
from quantkit.evaluation.tasks.sample_scores import SampleScores
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions
from quantkit.types import Array, Batch, ChangedSample, Dataset, PathLike, Score
from quantkit.types.option import OwnOption

_ROWS_AT_ONCE = 1024
_Vectors = npt.NDArray[np.float32]
_Embedded = tuple[tuple[str, ...], npt.NDArray[np.int64] | None, dict[str, _Vectors]]
"""What judging a batch gives: ids, labels, and vectors by variant."""

RECALL = Score(
    "neighbor_recall",
    "Neighbor recall",
    definition="Share of the baseline's nearest samples (by cosine, among the samples of the evaluation) that are "
    "nearest in the variant too, mean over samples: recall@k, k as in --neighbors.",
)

RETRIEVAL = Score(
    "retrieval",
    "Retrieval",
    definition="Share of samples whose nearest other sample (by cosine, among the samples of the evaluation) has the "
    "same label: recall@1. A sample whose label no other has does not count.",
)


class Embedding(Task):
    """Recall of the baseline's nearest neighbors, and the cosine of each vector with the baseline's.

    Where samples have labels, the score is how many find one of their own label.

    The vector is the first floating output [N, D], else the first of [N, T, D], pooled over T: the mean over
    ``attention_mask`` where the model has such an input, or the first ("cls").

    Args:
        neighbors: k of recall@k; at most half of the other samples.
        pooling: "mean" or "cls".
        output: name of the output, where it is not the first that fits.
    """

    numbers = (RECALL.name, RETRIEVAL.name, "cosine_mean", "cosine_min")
    has_class_labels = True
    own_options = (
        OwnOption("neighbors", 10, "Nearest samples K of recall@K", is_valid=lambda k: k >= 1, expected="1 or more"),
        OwnOption(
            "pooling",
            "mean",
            "Pooling of an output [N, T, D] into one vector",
            is_valid=lambda word: word in ("mean", "cls"),
            expected="mean or cls",
        ),
        OwnOption("embedding", "", "Name of the output, if not the first that fits"),
    )

    def __init__(self, neighbors: int = 10, pooling: str = "mean", output: str = "") -> None:
        super().__init__()
        self._neighbors, self._pooling, self._output = neighbors, pooling, output
        self._vectors: dict[str, list[_Vectors]] = {}
        self._ids: list[str] = []
        self._targets: list[npt.NDArray[np.int64]] = []
        self._recall = SampleScores(RECALL.name, RECALL.label)
        self._retrieval = SampleScores(RETRIEVAL.name, RETRIEVAL.label)
        self._k = neighbors

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """The task with its options."""
        task = cls(*(options.own(name) for name in ("neighbors", "pooling", "embedding")))
        return OpenTask(task, tuple(dataset.classes), {})

    @property
    def score(self) -> Score:
        """Retrieval where two samples share a label, else the recall."""
        return RETRIEVAL if self._labeled().any() else RECALL

    @property
    def notes(self) -> tuple[str, ...]:
        """Where k had to be smaller, and why there is no interval."""
        fewer = (f"{len(self._ids)} samples are few: recall is of the {self._k} nearest.",)
        scores = self._retrieval if self._labeled().any() else self._recall
        return (*(fewer if self._k < self._neighbors else ()), *scores.notes())

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> _Embedded:
        """Takes the vectors.

        Raises:
            EvaluationError: no output holds a vector for each sample.
        """
        (_, reference), *_ = outputs.items()
        name = find_vectors(reference, len(batch), self._output)
        vectors = {variant: _pool(found[name], batch, self._pooling) for variant, found in outputs.items()}
        return batch.ids, batch.targets, vectors

    def add(self, judged: _Embedded) -> None:
        """Keeps the vectors: which are neighbors, all of them tell."""
        ids, targets, vectors = judged
        self._ids += ids
        if targets is not None:
            self._targets.append(targets)
        for variant, found in vectors.items():
            self._vectors.setdefault(variant, []).append(found)

    def compute(self) -> dict[str, dict[str, float]]:
        """Recall with its interval; the mean and the smallest cosine."""
        whole = {variant: np.concatenate(parts) for variant, parts in self._vectors.items()}
        count = len(self._ids)
        if count < 3:
            raise EvaluationError(f"--task embed compares neighbors: {count} samples are too few, 3 are needed")
        self._k = min(self._neighbors, max(1, (count - 1) // 2))
        (baseline, reference), *others = whole.items()
        expected = _nearest(reference, self._k)
        self._recall = SampleScores(RECALL.name, RECALL.label)
        self._retrieval = SampleScores(RETRIEVAL.name, RETRIEVAL.label)
        self._recall.add(baseline, np.ones(count))
        self._add_retrieval(baseline, expected)
        cosines = {}
        for variant, vectors in others:
            found = _nearest(vectors, self._k)
            self._add_retrieval(variant, found)
            same = (expected[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1)
            self._recall.add(variant, same)
            cosine = np.clip(np.einsum("nd,nd->n", reference, vectors, dtype=np.float64), -1, 1)
            cosines[variant] = {"cosine_mean": float(cosine.mean()), "cosine_min": float(cosine.min())}
            self._note_changes(variant, expected[:, 0], found[:, 0], cosine)
        retrieved = self._retrieval.compute() if self._labeled().any() else {}
        recalled = self._recall.compute()
        return {v: {**recalled[v], **retrieved.get(v, {}), **cosines.get(v, {})} for v in whole}

    def _labeled(self) -> npt.NDArray[np.bool_]:
        """Which samples share their label with another; none where not all have labels."""
        targets = np.concatenate(self._targets) if self._targets else np.zeros(0, np.int64)
        if len(targets) != len(self._ids):
            return np.zeros(0, np.bool_)
        _, index, counts = np.unique(targets, return_inverse=True, return_counts=True)
        result: npt.NDArray[np.bool_] = counts[index] > 1
        return result

    def _add_retrieval(self, variant: str, nearest: npt.NDArray[np.intp]) -> None:
        if (counts := self._labeled()).any():
            targets = np.concatenate(self._targets)
            self._retrieval.add(variant, (targets[nearest[:, 0]] == targets)[counts].astype(np.float64))

    def _note_changes(
        self, variant: str, before: npt.NDArray[np.intp], after: npt.NDArray[np.intp], cosine: npt.NDArray[np.float64]
    ) -> None:
        for row in np.flatnonzero(before != after).tolist():
            self._changes.add(
                ChangedSample(
                    variant=variant,
                    sample=self._ids[row],
                    kind="changed",
                    truth="",
                    before=f"nearest {self._ids[before[row]]}",
                    after=f"nearest {self._ids[after[row]]} (cosine {cosine[row]:.3f})",
                    severity=float(1 - cosine[row]),
                )
            )


def find_vectors(outputs: Mapping[str, Array], num_samples: int, name: str = "") -> str:
    """Name of the output that holds a vector for each sample.

    Raises:
        EvaluationError: there is none, or not the named one.
    """
    if name and name not in outputs:
        raise EvaluationError(f"there is no output {name!r}: the model has {', '.join(map(repr, outputs))}")
    chosen = {name: outputs[name]} if name else outputs
    for rank in (2, 3):
        for found, array in chosen.items():
            if is_float(array) and array.ndim == rank and len(array) == num_samples and array.shape[-1] >= 2:
                return found
    shown = ", ".join(f"{found!r} {array.dtype} {list(array.shape)}" for found, array in chosen.items())
    raise EvaluationError(f"no output is an embedding: floats [N, D] or [N, T, D] are needed, not {shown}")


def _pool(array: Array, batch: Batch, pooling: str) -> _Vectors:
    """Vectors [N, D] of length 1; of zeros, or of anything that is not finite, zeros."""
    values = np.asarray(array, np.float64)
    if values.ndim == 3 and pooling == "cls":
        values = values[:, 0]
    elif values.ndim == 3:
        mask = batch.inputs.get("attention_mask")
        fits = mask is not None and mask.shape == values.shape[:2]
        weights = np.asarray(mask, np.float64) if fits else np.ones(values.shape[:2])
        values = np.einsum("ntd,nt->nd", values, weights)  # the length does not matter
    values = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, 0)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), np.float32)


def _nearest(vectors: _Vectors, count: int) -> npt.NDArray[np.intp]:
    """Indices [N, count] of the samples of the highest cosine, the highest first; of equals, the earlier."""
    found = np.empty((len(vectors), count), np.intp)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = vectors[start : start + _ROWS_AT_ONCE]
        similarity = rows @ vectors.T
        similarity[np.arange(len(rows)), start + np.arange(len(rows))] = -np.inf  # not itself
        found[start : start + len(rows)] = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return found


TASKS["embed"] = Embedding
