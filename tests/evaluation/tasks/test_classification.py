from __future__ import annotations

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation.tasks.changes import Changes
from quantkit.evaluation.tasks.classification import Classification, find_scores
from quantkit.types import TOP1, Batch, ChangedSample

FP32 = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.6, 0.3, 0.1]], np.float32))
INT8 = np.log(np.array([[0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7]], np.float32))


def batch(targets, count=4):
    ids = tuple(f"{i}.png" for i in range(count))
    return Batch({"x": np.zeros((count, 1), np.float32)}, ids, None if targets is None else np.array(targets))


def run(targets, names=("cat", "dog", "owl")):
    task = Classification(names)
    for start in (0, 2):
        part = slice(start, start + 2)
        b = batch(targets)
        piece = Batch({"x": b.inputs["x"][part]}, b.ids[part], None if targets is None else b.targets[part])
        task.update(piece, {"fp32": {"y": FP32[part]}, "int8": {"y": INT8[part]}})
    return task


def test_classes_have_their_own_accuracy():
    task = run([0, 1, 2, 1])
    assert [(c.label, c.count, c.scores) for c in task.classes()] == [
        ("cat", 1, {"fp32": 1.0, "int8": 0.0}),
        ("dog", 2, {"fp32": 0.5, "int8": 0.5}),
        ("owl", 1, {"fp32": 1.0, "int8": 0.0}),
    ]
    assert task.score == TOP1


def test_changes_list_predictions_and_confidences():
    task = run([0, 1, 0, 1])
    changes = {c.sample: c for c in task.changes()}
    assert changes.keys() == {"0.png", "2.png", "3.png"}
    assert (changes["0.png"].kind, changes["0.png"].truth) == ("broken", "cat")
    assert (changes["0.png"].before, changes["0.png"].after) == ("cat (70%)", "dog (60%)")
    assert changes["0.png"].severity == pytest.approx(0.4)
    assert changes["2.png"].kind == "fixed"
    assert changes["3.png"].kind == "changed"  # both are wrong
    assert task.num_changes() == {"int8": {"broken": 1, "fixed": 1, "changed": 1}}


def test_unlabeled_data_has_changes_but_no_score():
    task = run(None, names=())
    assert {c.kind for c in task.changes()} == {"changed"}
    assert (task.score, task.classes()) == (None, ())
    assert task.changes()[0].before == "class 0 (60%)"


def test_probabilities_are_not_normalized_again():
    task = Classification()
    task.update(batch(None), {"a": {"y": np.exp(FP32)}, "b": {"y": np.exp(INT8)}})
    assert {c.before for c in task.changes()} >= {"class 0 (70%)"}


def test_nan_prediction_differs_from_any_class():
    task = Classification()
    broken = FP32.copy()
    broken[0] = np.nan
    task.update(batch([0, 1, 2, 0]), {"a": {"y": FP32}, "b": {"y": broken}})
    (change,) = task.changes()
    assert (change.kind, change.after, change.severity) == ("broken", "no number (NaN)", 1.0)


def test_a_model_without_class_scores_has_no_score():
    task = Classification()
    task.update(batch([0, 0, 0, 0]), {"a": {"y": np.zeros((4, 2, 3), np.float32)}})
    assert (task.score, task.classes(), task.num_changes()) == (None, (), {})
    (note,) = task.notes
    assert "No output is class scores" in note
    assert all(f"--task {word}" in note for word in ("detect", "segment", "none"))


@pytest.mark.parametrize("shape", [(9, 7), (9, 4)])
def test_concatenated_rows_are_not_class_scores(shape):
    """Boxes after suppression, [M, 7] or [K, 4], look like scores of 7 or 4 classes but for their number."""
    task = Classification()
    task.update(batch([0, 1, 2, 0]), {"a": {"y": np.zeros(shape, np.float32)}})
    assert (task.score, len(task.notes)) == (None, 1)


def test_class_scores_add_no_note():
    assert (run([0, 1, 2, 1]).notes, run(None).notes, Classification().notes) == ((), (), ())
    assert run(None).facts == {}


def test_label_without_a_class_is_refused():
    with pytest.raises(EvaluationError, match=r"'1\.png' is of class 3.*--classes"):
        run([0, 3, 0, 0])


def test_worst_changes_are_kept_and_all_are_counted():
    changes = Changes(limit=2)
    for i, severity in enumerate([0.1, 0.5, 0.5, 0.3]):
        changes.add(ChangedSample("v", str(i), "broken", "", "a", "b", severity))
    changes.add(ChangedSample("v", "good", "fixed", "", "b", "a", 0.2))
    assert [c.sample for c in changes.worst()] == ["1", "2", "good"]
    assert changes.counts() == {"v": {"broken": 4, "fixed": 1}}


@pytest.mark.parametrize(("shape", "is_scores"), [((2, 10), True), ((2, 10, 1, 1), True), ((2, 10, 1), False)])
def test_a_value_for_each_step_of_a_sequence_is_no_class_score(shape, is_scores):
    assert (find_scores({"y": np.zeros(shape, np.float32)}, num_samples=2) == "y") is is_scores
