from __future__ import annotations

import math
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets import iterate_batches, open_dataset, resolve_preprocessing
from quantkit.errors import EvaluationError
from quantkit.evaluation import METRICS, evaluate
from quantkit.evaluation.bootstrap import mean_difference_interval
from quantkit.evaluation.tasks.classification import Classification
from quantkit.evaluation.tasks.custom import Custom, reserved_names
from quantkit.evaluation.tasks.embedding import Embedding
from quantkit.evaluation.tasks.images import Images
from quantkit.paired_statistics import difference_interval
from quantkit.significance import DIFFERING
from quantkit.types import Batch, Score
from quantkit.user_code import load_symbol

from ...segmenter import write_metric, write_scenes, write_segmenter

BEFORE = np.array([0.9, 0.5, 0.7, 0.2], np.float32)
AFTER = np.array([0.4, 0.8, 0.7, 0.2], np.float32)


class Mean:
    """Mean of the output, per sample."""

    is_fraction = True
    definition = "Mean."

    def __init__(self):
        self.values = []

    def update(self, predictions, ids, targets):
        self.values += predictions["y"].tolist()
        return predictions["y"]

    def compute(self):
        return float(np.mean(self.values))


class Declared(Mean):
    name, label, higher_is_better, is_fraction = "loss", "Loss", False, False

    def compute(self):
        return {"count": len(self.values), "loss": super().compute()}


class Silent(Mean):
    def update(self, predictions, ids, targets):
        super().update(predictions, ids, targets)


class Error(Mean):
    """Largest difference from the baseline, per sample: a paired metric."""

    higher_is_better, is_fraction = False, False

    def update(self, predictions, ids, targets, reference):
        errors = np.abs(predictions["y"] - reference["y"])
        self.values += errors.tolist()
        return errors


def batches(targets=None, sizes=(3, 1)):
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        ids = tuple(f"{i}.png" for i in range(4))[part]
        yield Batch({"x": np.zeros((size, 1))}, ids, None if targets is None else np.array(targets[part])), part
        start += size


def run(metric, *, postprocess=None, before=BEFORE, after=AFTER, targets=None, sizes=(3, 1)):
    task = Custom(postprocess, metric)
    for batch, part in batches(targets, sizes):
        task.update(batch, {"fp32": {"y": before[part].copy()}, "int8": {"y": after[part].copy()}})
    return task


def test_a_metric_may_see_the_baselines_outputs_of_the_same_samples():
    task = run(Error)
    found = task.compute()
    assert found["fp32"]["error"] == 0
    assert found["int8"]["error"] == pytest.approx(np.abs(AFTER - BEFORE).mean())
    assert [(c.sample, c.kind) for c in task.changes()] == [("0.png", "broken"), ("1.png", "broken")]
    squared = run(Error, postprocess=lambda outputs, ids: Rows(outputs["y"] ** 2))
    assert squared.compute()["int8"]["error"] == pytest.approx(np.abs(AFTER**2 - BEFORE**2).mean())


class Rows(dict):
    """What a postprocess may return: something of the length of the batch."""

    def __init__(self, values):
        super().__init__(y=values)

    def __len__(self):
        return len(self["y"])


def test_a_number_is_the_score_under_the_name_of_the_class():
    task = run(Mean)
    found = task.compute()
    assert found["fp32"] == {"mean": pytest.approx(0.575)}
    assert task.score == Score("mean", "mean", is_fraction=True, definition="Mean.")
    assert task.facts == {}
    assert found["int8"] == {"mean": pytest.approx(0.525), DIFFERING: 2}
    assert task.notes == ("no interval of mean: 4 samples are too few, 30 are needed",)


def test_the_interval_is_that_of_the_mean_of_the_samples_scores():
    task = Custom(None, Mean)
    before, after = np.random.default_rng(3).uniform(0.3, 0.9, (2, 40))
    batch = Batch({"x": np.zeros((40, 1))}, tuple(map(str, range(40))))
    task.update(batch, {"fp32": {"y": before}, "int8": {"y": after}})
    low, high = mean_difference_interval(before, after)
    assert task.compute()["int8"] == {
        "mean": pytest.approx(after.mean()),
        DIFFERING: 40,
        "mean_difference_low": pytest.approx(low),
        "mean_difference_high": pytest.approx(high),
    }
    assert low < after.mean() - before.mean() < high
    assert task.notes == ()


@pytest.mark.parametrize("num_wrong", [0, 2])
def test_scores_of_0_and_1_have_the_interval_of_shares_however_few_differ(num_wrong):
    task = Custom(None, Mean)
    before = np.tile([1.0, 1.0, 0.0, 1.0], 25)
    after = before.copy()
    after[:num_wrong] = 0
    task.update(
        Batch({"x": np.zeros((100, 1))}, tuple(map(str, range(100)))), {"fp32": {"y": before}, "b": {"y": after}}
    )
    found = task.compute()["b"]
    interval = (found["mean_difference_low"], found["mean_difference_high"])
    assert interval == difference_interval(0, num_wrong, num_samples=100)
    assert interval[0] < -0.02
    assert task.notes == ()


def test_there_is_no_interval_where_few_samples_differ():
    task = Custom(None, Mean)
    before = np.linspace(0.2, 0.8, 50)
    after = before.copy()
    after[:9] -= 0.1
    task.update(Batch({"x": np.zeros((50, 1))}, tuple(map(str, range(50)))), {"fp32": {"y": before}, "b": {"y": after}})
    assert task.compute()["b"].keys() == {"mean", DIFFERING}
    assert task.notes == ("b: no interval of mean: only 9 of 50 samples differ from fp32's",)


def test_named_numbers_and_class_attributes_are_used():
    task = run(Declared)
    found = task.compute()
    assert task.score == Score("loss", "Loss", is_fraction=False, higher_is_better=False, definition="Mean.")
    assert found["fp32"] == {"count": 4, "loss": pytest.approx(0.575)}
    assert list(found["int8"]) == ["count", "loss", DIFFERING]


def test_the_first_of_several_numbers_is_the_score_where_none_is_named():
    class Several(Silent):
        is_fraction = False

        def compute(self):
            return {"psnr": np.float32(31.5), "n": np.int64(4)}

    task = run(Several)
    assert task.compute()["int8"] == {"psnr": 31.5, "n": 4}
    assert task.score == Score("psnr", "psnr", is_fraction=False, definition="Mean.")


def test_samples_that_changed_by_more_than_a_point():
    task = run(Mean, after=AFTER + np.array([0, 0, 0.004, 0], np.float32))
    worst, fixed = task.changes()
    assert (worst.sample, worst.kind, worst.before, worst.after) == ("0.png", "broken", "90.0%", "40.0%")
    assert worst.severity == pytest.approx(0.5)
    assert (fixed.sample, fixed.kind) == ("1.png", "fixed")
    assert task.num_changes() == {"int8": {"broken": 1, "fixed": 1}}
    assert task.classes() == ()


def test_higher_is_better_can_be_false():
    by_sample = {c.sample: (c.kind, c.before, c.after) for c in run(Declared).changes()}
    assert by_sample == {"0.png": ("fixed", "0.9", "0.4"), "1.png": ("broken", "0.5", "0.8")}


def test_score_that_is_not_a_mean_has_no_interval():
    class Root(Mean):
        def compute(self):
            return math.sqrt(super().compute())

    task = run(Root)
    assert task.compute()["int8"].keys() == {"root", DIFFERING}
    assert task.changes()
    assert task.notes[0] == "There is no interval: root is not the mean of the samples' scores."


def test_without_sample_scores_there_is_no_interval():
    task = run(Silent)
    assert task.compute()["int8"].keys() == {"silent"}
    assert (task.changes(), task.num_changes(), task.notes) == ((), {}, ())


def test_samples_without_a_score_are_no_change():
    class Holes(Mean):
        is_fraction = False

        def compute(self):
            return 1

    after = AFTER.copy()
    after[0] = np.nan
    task = run(Holes, after=after)
    assert [c.sample for c in task.changes()] == ["1.png"]
    assert task.compute()["int8"] == {"holes": 1, DIFFERING: 2}


def test_each_variant_has_its_own_metric():
    seen = []

    class Spy(Silent):
        def update(self, predictions, ids, targets):
            super().update(predictions, ids, targets)
            seen.append((id(self), ids, None if targets is None else targets.tolist()))

    run(Spy, targets=[5, 6, 7, 8])
    assert len({metric for metric, _, _ in seen}) == 2
    assert [(ids, targets) for _, ids, targets in seen[::2]] == [
        (("0.png", "1.png", "2.png"), [5, 6, 7]),
        (("3.png",), [8]),
    ]


def test_postprocess_makes_the_predictions():
    class Length(Silent):
        is_fraction = False

        def update(self, predictions, ids, targets):
            self.values += [len(boxes) for boxes in predictions]

    def boxes(outputs, ids):
        return [[name] * int(10 * y) for name, y in zip(ids, outputs["y"], strict=True)]

    assert run(Length, postprocess=boxes).compute()["fp32"]["length"] == pytest.approx((9 + 5 + 7 + 2) / 4)


def test_outputs_and_targets_cannot_be_changed():
    class Greedy(Silent):
        def update(self, predictions, ids, targets):
            predictions["y"] *= 2

    class Labels(Silent):
        def update(self, predictions, ids, targets):
            targets[0] = 0

    for metric in (Greedy, Labels):
        with pytest.raises(EvaluationError, match=r"test_custom\.py:\d+: update\(.* raised ValueError: .*read-only"):
            run(metric, targets=[1, 2, 3, 4])


def test_compares_outputs_disables_the_comparison():
    class Varying(Mean):
        compares_outputs = False

    assert set(Custom(None, Mean).metrics) >= {"cosine", "sqnr", "equality", "non_finite"}
    assert Custom(None, Varying).metrics == ()


def raises(metric, match, **options):
    with pytest.raises(EvaluationError, match=match) as caught:
        run(metric, **options).compute()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5", None, np.zeros(2), {}, {"a": "b"}, {3: 1.0}, 1j])
def test_what_compute_returns_must_be_finite_numbers(value):
    class Odd(Silent):
        is_fraction = False

        def compute(self):
            return value

    raises(Odd, r"compute\(\) of Odd (returned|raised)")


def test_nan_score_names_variant_and_remedy():
    class Odd(Silent):
        def compute(self):
            return math.nan if self.values[0] < 0.5 else 0.5

    raises(Odd, "returned nan for 'odd' of 'int8': return the worst value")


def test_a_fraction_is_from_0_to_1():
    class Percent(Silent):
        def compute(self):
            return 87.3

    raises(Percent, "percent is 87.3, but is_fraction says that it is from 0 to 1")


def test_names_must_be_the_same_for_all_and_hold_the_score():
    class Growing(Silent):
        def compute(self):
            return {"a": 1, **({"b": 2} if self.values[0] < 0.5 else {})}

    class Misnamed(Silent):
        name = "best"

        def compute(self):
            return {"ap": 1}

    raises(Growing, r"gives 'b' for only one of 'fp32' and 'int8'")
    raises(Misnamed, "returned ap, but not its score 'best'")


@pytest.mark.parametrize(
    "name", ["top1", "agreement", "sqnr_db", "sqnr_db[y]", "map", "miou", "num_detections", "mean_difference_low"]
)
def test_built_in_metric_names_are_refused(name):
    """A gate would take them for what they are elsewhere: --min-agreement for the share of equal answers."""

    class Borrowed(Silent):
        def compute(self):
            return {"ap": 0.5, name: 0.99}

    refused = rf"compute\(\) of Borrowed has a number called '{re.escape(name)}', which quantkit calls .* another name"
    raises(Borrowed, refused)
    Borrowed.name = name
    with pytest.raises(EvaluationError, match=rf"--metric Borrowed has a number called '{re.escape(name)}'"):
        Custom(None, Borrowed)


def test_reserved_class_name_is_refused_as_score():
    class Agreement(Silent): ...

    raises(Agreement, r"compute\(\) of Agreement has a number called 'agreement'")


def test_every_number_of_the_tasks_and_metrics_is_reserved(tmp_path):
    """By running them: a metric that is added must declare its numbers."""
    from .test_detection import RIGHT
    from .test_detection import run as detect
    from .test_segmentation import FP32, INT8, TRUTH, Masks, one_hot
    from .test_segmentation import run as segment

    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    found = list(detect(RIGHT, RIGHT).compute().values())
    found += detect(RIGHT, RIGHT, layout="yolov10").compute().values()
    labels = np.array([0, 0, 1, 1])
    for task, output, targets in (
        (Embedding(1), np.eye(4), None),
        (Embedding(1), np.eye(4), labels),
        (Images(), np.ones((4, 1, 11, 11)), None),
    ):
        batch = Batch({"x": np.zeros((4, 1))}, tuple("abcd"), targets)
        task.update(batch, {"a": {"y": output}, "b": {"y": output}})
        found += task.compute().values()
    found += segment(Masks(TRUTH), {"a": one_hot(FP32), "b": one_hot(INT8)}).compute().values()
    found += [
        metric_of(x + 0.5, reference=x, targets=np.arange(8) % 6)
        for metric_of in (partial(once, metric) for metric in METRICS.values())
    ]
    assert set(Classification().metrics) == METRICS.keys()
    keys = {key for metrics in found for key in metrics}
    assert {key for key in keys if not key.endswith(("_difference_low", "_difference_high"))} <= reserved_names()


def once(metric, values, **more):
    accumulator = metric()
    accumulator.update(values, **more)
    return accumulator.compute()


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        ([1.0], r"scores of shape \[1\] for 3 samples"),
        (np.zeros((3, 2)), r"scores of shape \[3, 2\] for 3 samples"),
        ("abc", "returned str: None or 3 numbers"),
        ([1, [2], 3], "returned list"),
    ],
)
def test_update_returns_a_number_for_each_sample(returned, match):
    class Odd(Silent):
        def update(self, predictions, ids, targets):
            return returned

    raises(Odd, match)


def test_update_returns_scores_always_or_never():
    class Sometimes(Mean):
        def update(self, predictions, ids, targets):
            return [0.5] * len(ids) if len(ids) > 1 else None

    raises(Sometimes, "for some batches and None for others")


@pytest.mark.parametrize(
    ("predictions", "match"),
    [
        (np.zeros((2, 3)), "half returned 2 items for a batch of 3 samples"),
        (None, "half returned NoneType: an array or a list with one item for each of the 3 samples"),
    ],
)
def test_postprocess_returns_an_item_for_each_sample(predictions, match):
    def half(outputs, ids):
        return predictions

    raises(Silent, match, postprocess=half)


def test_invalid_metric_is_refused_before_the_run():
    class NoCompute:
        def update(self, predictions, ids, targets): ...

    class Wrong(Mean):
        higher_is_better = "no"

    class Nameless(Mean):
        name = ""

    for metric, match in [
        (None, "needs --metric"),
        (3, "3 is not a class"),
        (NoCompute, "NoCompute has no method compute"),
        (Wrong, "higher_is_better is 'no', it must be True or False"),
        (Nameless, "name is '', it must be a string that is not empty"),
    ]:
        with pytest.raises(EvaluationError, match=match):
            Custom(None, metric)
    with pytest.raises(EvaluationError, match="'f' is not a function"):
        Custom("f", Mean)
    with pytest.raises(EvaluationError, match="has no method update"):
        run(lambda: object())


def test_wrong_number_of_arguments_names_the_call():
    class Short(Silent):
        def update(self, predictions): ...

    class Arguments(Silent):
        def __init__(self, path): ...

    raises(Short, r"^update\(predictions, ids, targets\) of Short raised TypeError: .*positional argument")
    raises(Arguments, r"^Arguments\(\) raised TypeError")


USER = '''\
"""A metric."""
from __future__ import annotations
import json
from dataclasses import dataclass

@dataclass
class Pair:
    left: int

class Broken:
    def update(self, predictions, ids, targets):
        helper(predictions)

    def compute(self):
        return json.loads("{")

def helper(predictions):
    assert "nothing" in predictions
'''


@pytest.fixture
def user(tmp_path):
    def write(text, name="user.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_user_error_names_file_and_line(user):
    path = user(USER)
    metric = load_symbol(f"{path}:Broken")
    error = raises(metric, rf"^{path}:18: update\(predictions, ids, targets\) of Broken raised AssertionError$")
    assert isinstance(error.__cause__, AssertionError)
    metric.update = lambda *_: None
    error = raises(metric, rf"^{path}:15: compute\(\) of Broken raised JSONDecodeError: Expecting property name")
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("where", ["update", "compute", "__init__", "postprocess"])
def test_sys_exit_in_user_code_is_an_error(user, where):
    code = "import sys\n\n\nclass M:\n"
    for method in ("update", "compute", "__init__"):
        code += f"    def {method}(self, *_):\n        {'sys.exit(4)' if method == where else 'pass'}\n"
    path = user(
        code + f"\n\ndef postprocess(*_):\n    {'sys.exit(4)' if where == 'postprocess' else 'return [0] * 3'}\n"
    )
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "sys.exit" in text)
    postprocess = load_symbol(f"{path}:postprocess")
    error = raises(
        load_symbol(f"{path}:M"), rf"^{path}:{line}: .* raised SystemExit: 4$", postprocess=postprocess, sizes=(3,)
    )
    assert isinstance(error.__cause__, SystemExit)


def test_a_file_is_run_once_until_it_is_edited(user):
    path = user("runs = []\nruns.append(1)\nclass A: ...\ndef f(): return A()\n")
    assert load_symbol(f"{path}:A") is type(load_symbol(f"{path}:f")())
    assert load_symbol(f"{path}:runs") == [1]
    user("class A:\n    edited = True\n")
    assert load_symbol(f"{path}:A").edited
    assert not (path.parent / "__pycache__").exists()


def test_file_can_import_modules_beside_it(user):
    user("VALUE = 3\n", "neighbor_of_user.py")
    path = user("from neighbor_of_user import VALUE\n")
    before = list(sys.path)
    assert load_symbol(f"{path}:VALUE") == 3
    assert sys.path == before
    del sys.modules["neighbor_of_user"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\ndef f(:\n", r"user\.py:2: SyntaxError: "),
        ("def f():\nreturn 1\n", r"user\.py:2: IndentationError: "),
        ("import os\n\nimport no_such_module\n", r"user\.py:3: loading .*ModuleNotFoundError: No module named"),
        ("def f():\n    return 1 / 0\n\nf()\n", r"user\.py:2: loading .*ZeroDivisionError"),
        ("import sys\nsys.exit(3)\n", r"user\.py:2: loading .*SystemExit: 3"),
        ("compute = 1\n", r"user\.py has no 'Compute'; did you mean 'compute'\?"),
        ("", r"user\.py has no 'Compute'$"),
    ],
)
def test_unusable_file_is_refused(user, text, match):
    path = user(text)
    count = len(sys.modules)
    with pytest.raises(EvaluationError, match=match) as caught:
        load_symbol(f"{path}:Compute")
    assert "\n" not in str(caught.value)
    assert len(sys.modules) <= count + 1


@pytest.mark.parametrize("spec", ["Metric", "metric.py", ":Metric", "metric.py:", "metric.txt:Metric", ""])
def test_missing_name_in_file_is_refused(spec):
    with pytest.raises(EvaluationError, match=r"write file\.py:name"):
        load_symbol(spec)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"cannot read .*metric\.py: No such file"):
        load_symbol(f"{tmp_path / 'metric.py'}:Metric")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(EvaluationError, match=r"cannot read .*folder\.py: Is a directory"):
        load_symbol(f"{tmp_path / 'folder.py'}:Metric")


def test_documented_example_runs(tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "how-to" / "tasks.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "age.py").write_text(code)
    (tmp_path / "ages.csv").write_text("file,age\n" + "".join(f"{i}.png,50\n" for i in range(3)))
    task = Custom(load_symbol(f"{tmp_path}/age.py:years"), load_symbol(f"{tmp_path}/age.py:MeanError"))
    for batch, _ in batches(sizes=(3,)):
        outputs = {v: {"age": np.array([[0.4], [0.5], [x]])} for v, x in (("fp32", 0.6), ("int8", 0.7))}
        task.update(batch, outputs)
    found = task.compute()
    assert found["fp32"] == {"mae": pytest.approx(20 / 3)}
    assert found["int8"]["mae"] == pytest.approx(10)
    assert [(c.sample, c.kind) for c in task.changes()] == [("2.png", "broken")]
    (line,) = [i for i, line in enumerate(code.splitlines(), start=1) if "AGES[name]" in line]
    shown = f"`age.py:{line}: update(predictions, ids, targets) of\nMeanError raised KeyError: '7.jpg'`"
    assert shown in text
    with pytest.raises(EvaluationError, match=rf"age\.py:{line}: update\(.*\) of MeanError raised KeyError: '3\.png'"):
        task.update(Batch({"x": np.zeros((1, 1))}, ("3.png",)), {"fp32": {"age": np.zeros((1, 1))}})


def test_the_example_metric_judges_a_model(tmp_path):
    images, masks = write_scenes(tmp_path, 5)
    path = write_metric(tmp_path / "metric.py", masks)
    with OnnxRuntimeRunner(write_segmenter(tmp_path / "m.onnx")) as runner:
        preprocessing = resolve_preprocessing(runner.inputs[0], preset="unit")
        dataset = open_dataset(images, runner.inputs, preprocessing=preprocessing)
        task = Custom(load_symbol(f"{path}:red_share"), load_symbol(f"{path}:RedError"))
        found = evaluate({"a": runner, "b": runner}, iterate_batches(dataset, 2), baseline="a", task=task).metrics
    assert 0 < found["a"]["red_error"] < 0.05
    assert found["b"][DIFFERING] == 0
    assert found["b"]["sqnr_db"] == math.inf
    assert (task.score.label, task.score.higher_is_better) == ("Red error", False)
