from __future__ import annotations

import math

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation import METRICS, OutputComparison, Task, evaluate
from quantkit.evaluation.tasks import TASKS
from quantkit.types import Batch, TensorSpec

X = np.random.default_rng(3).standard_normal((9, 5)).astype(np.float32)


class Runner:
    outputs = ()

    def __init__(self, function) -> None:
        self.function = function
        self.inputs = (TensorSpec("x", np.dtype("float32"), ("N", 5)),)

    def run(self, inputs):
        return self.function(inputs["x"])

    def close(self) -> None: ...


def measure(*functions, targets=None):
    names = [f"v{i}" for i in range(len(functions))]
    task = OutputComparison()
    batches = [
        Batch({"x": X[part]}, tuple(map(str, range(len(X[part])))), None if targets is None else targets[part])
        for part in (slice(0, 4), slice(4, 9))
    ]
    runners = {name: Runner(function) for name, function in zip(names, functions, strict=True)}
    return evaluate(runners, batches, baseline="v0", task=task).metrics, task


def test_outputs_are_compared_with_the_baselines_alone():
    found, task = measure(lambda x: {"y": x}, lambda x: {"y": 1.1 * x})
    assert found["v0"] == {"non_finite": 0, "named_classes": len(set(X.argmax(1)))}
    assert found["v1"]["sqnr_db"] == pytest.approx(20, abs=1e-4)
    assert found["v1"]["cosine"] == pytest.approx(1)
    assert found["v1"]["agreement"] == 1
    assert (task.score, task.classes(), task.changes(), task.num_changes(), task.compute()) == (None, (), (), {}, {})
    assert (task.notes, task.facts) == ((), {})


def test_labels_are_ignored():
    found, task = measure(lambda x: {"y": x}, lambda x: {"y": -x}, targets=np.arange(9))
    assert "top1" not in found["v0"]
    assert found["v1"]["agreement"] == 0
    assert task.score is None


def test_worst_output_is_named():
    def heads(noise):
        return lambda x: {"map": x[:, None, :, None] + noise, "ids": x.argmax(1) + (noise > 0), "text": x[:, :1]}

    found, _ = measure(heads(0), heads(1))
    after = found["v1"]
    assert after["equal"] == 0
    assert after["sqnr_db"] == after["sqnr_db[map]"] < after["sqnr_db[text]"] == math.inf


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(EvaluationError, match="compared element by element; if they are boxes, say --task detect"):
        measure(lambda x: {"y": x}, lambda x: {"y": x[:, :3]})


def test_it_is_a_task_and_its_metrics_exist():
    task: Task = OutputComparison()
    assert TASKS["none"] is OutputComparison
    assert set(task.metrics) <= set(METRICS)
