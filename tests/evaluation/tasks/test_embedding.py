from __future__ import annotations

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation import evaluate
from quantkit.evaluation.tasks import TASKS
from quantkit.evaluation.tasks.embedding import Embedding
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.types import Batch

RNG = np.random.default_rng(0)


def batch(count: int, **inputs) -> Batch:
    return Batch(inputs or {"x": np.zeros((count, 1))}, tuple(f"s{i}" for i in range(count)))


def brute_force_recall(reference, vectors, k):
    """By the definition, one sample at a time."""

    def nearest(rows, i):
        cosine = [float(rows[i] @ row / np.linalg.norm(rows[i]) / np.linalg.norm(row)) for row in rows]
        return set(sorted((j for j in range(len(rows)) if j != i), key=lambda j: -cosine[j])[:k])

    return [len(nearest(reference, i) & nearest(vectors, i)) / k for i in range(len(reference))]


def test_recall_and_cosines_are_those_of_the_definition():
    reference = RNG.normal(size=(60, 8))
    variant = (reference + RNG.normal(size=reference.shape) * 0.3) * 5  # length does not matter
    task = Embedding(neighbors=5)
    task.update(batch(60), {"fp32": {"y": reference}, "int8": {"y": variant}, "same": {"y": reference}})
    found = task.compute()
    each = brute_force_recall(reference, variant, 5)
    assert found["fp32"] == {"neighbor_recall": 1.0}
    assert found["int8"]["neighbor_recall"] == pytest.approx(np.mean(each))
    assert found["int8"]["differing"] == sum(share < 1 for share in each)
    low, high = (found["int8"][f"neighbor_recall_difference_{end}"] for end in ("low", "high"))
    assert low < np.mean(each) - 1 < high < 0
    cosine = (reference * variant).sum(1) / np.linalg.norm(reference, axis=1) / np.linalg.norm(variant, axis=1)
    assert found["int8"]["cosine_mean"] == pytest.approx(cosine.mean(), abs=1e-6)
    assert found["int8"]["cosine_min"] == pytest.approx(cosine.min(), abs=1e-6)
    assert (found["same"]["neighbor_recall"], found["same"]["cosine_mean"]) == (1.0, pytest.approx(1.0))
    assert task.notes == ("same: no interval of Neighbor recall: none of 60 samples differ from fp32's",)
    assert {change.variant for change in task.changes()} == {"int8"}


def test_labels_make_the_score_retrieval():
    """Two groups of vectors: one of INT8's lands in the other group. A label of its own does not count."""
    angles = np.array([0, 0.1, 0.2, 1.5, 1.6, 1.7, 3.0])
    moved = np.where(np.arange(7) == 2, 1.52, angles)
    targets = np.array([0, 0, 0, 1, 1, 1, 2])
    outputs = {n: {"y": np.stack((np.cos(a), np.sin(a)), axis=1)} for n, a in (("fp32", angles), ("int8", moved))}
    task = Embedding(neighbors=1)
    ids = tuple(f"s{i}" for i in range(7))
    task.update(Batch({"x": np.zeros((7, 1))}, ids, targets), outputs)
    found = task.compute()
    assert task.score.name == "retrieval"
    assert (found["fp32"]["retrieval"], found["int8"]["retrieval"]) == (1, 0.5)  # it, and two that it is nearest to now
    assert found["int8"]["neighbor_recall"] < 1
    assert any("Retrieval" in note for note in task.notes)


def test_batches_of_several_lengths_are_pooled_over_the_mask():
    """What a transformer gives for padding does not count."""
    task = Embedding(neighbors=1)
    for mask in ([[1, 1, 0]] * 2, [[1, 1]] * 2):
        tokens = RNG.normal(size=(*np.shape(mask), 4))
        padded = tokens + 9 * (1 - np.array(mask))[:, :, None]
        inputs = {"attention_mask": np.array(mask)}
        task.update(batch(2, **inputs), {"fp32": {"h": tokens}, "int8": {"h": padded}})
    assert task.compute()["int8"]["cosine_min"] == pytest.approx(1)
    assert Embedding(pooling="cls").score.name == "neighbor_recall"


def test_cls_takes_the_first_token():
    tokens, other = RNG.normal(size=(2, 5, 3, 4))
    other[:, 0] = tokens[:, 0]
    task = Embedding(neighbors=1, pooling="cls")
    task.update(batch(5), {"fp32": {"h": tokens}, "int8": {"h": other}})
    assert task.compute()["int8"]["cosine_min"] == pytest.approx(1)


def test_few_samples_are_said_and_too_few_refused():
    task = Embedding(neighbors=10)
    vectors = RNG.normal(size=(7, 4))
    task.update(batch(7), {"fp32": {"y": vectors}, "int8": {"y": -vectors}})
    assert task.compute()["int8"]["cosine_mean"] == pytest.approx(-1)
    assert task.notes[0] == "7 samples are few: recall is of the 3 nearest."
    task = Embedding()
    task.update(batch(2), {"fp32": {"y": vectors[:2]}})
    with pytest.raises(EvaluationError, match="2 samples are too few, 3 are needed"):
        task.compute()


def test_a_vector_that_is_not_finite_is_like_nothing():
    vectors = RNG.normal(size=(5, 4))
    broken = vectors.copy()
    broken[2] = np.nan
    task = Embedding(neighbors=1)
    task.update(batch(5), {"fp32": {"y": vectors}, "int8": {"y": broken}})
    assert task.compute()["int8"]["cosine_min"] == 0


def test_the_output_can_be_named_and_must_be_one():
    outputs = {"ids": np.zeros((3, 4), np.int64), "tokens": np.ones((3, 5, 2)), "pooled": np.ones((3, 2))}
    for name, message in (("x", "there is no output 'x'"), ("ids", r"no output is an embedding.*'ids' int64 \[3, 4\]")):
        with pytest.raises(EvaluationError, match=message):
            Embedding(output=name).update(batch(3), {"fp32": outputs})
    task = Embedding(output="tokens")
    task.update(batch(3), {"fp32": outputs})
    with pytest.raises(EvaluationError, match="--neighbors 0 must be 1 or more"):
        TaskOptions("embed", task_options={"neighbors": 0})
    assert TASKS["embed"] is Embedding


def test_no_agreement_of_classes_where_outputs_are_no_class_scores():
    """Without labels the first batch decides for all; with labels the output is taken at its word."""
    vectors = RNG.normal(size=(8, 10))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for name in ("classify", "none"):
        task = TASKS[name]()
        found = measure_arrays(task, [vectors, vectors * 7], None)
        assert "agreement" not in found["int8"]
        assert found["int8"]["cosine"] == 1
        if name == "classify":
            assert "Output 'y' looks like an embedding" in task.notes[0]
            assert "--task embed compares neighbors" in task.notes[0]
    labeled = measure_arrays(TASKS["classify"](), [vectors], np.arange(8))
    assert labeled["int8"]["agreement"] == 1


class Replay:
    """A runner whose output is its input."""

    inputs = ()

    def run(self, inputs):
        return {"y": inputs["x"]}


def measure_arrays(task, arrays, targets):
    batches = [Batch({"x": np.ascontiguousarray(a)}, tuple(map(str, range(len(a)))), targets) for a in arrays]
    return evaluate({"fp32": Replay(), "int8": Replay()}, batches, baseline="fp32", task=task).metrics
