from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation import METRICS, OutputComparison, evaluate, feed, metric_notes, run
from quantkit.evaluation.metrics.sqnr import Sqnr
from quantkit.evaluation.tasks import TASKS
from quantkit.evaluation.tasks.classification import Classification
from quantkit.types import Batch, TensorSpec


class FunctionRunner:
    """A model that is a function of its input `x`; it insists on its batch size and type as a runtime does."""

    outputs = ()

    def __init__(self, function, *, batch_size: int | str | None = "N", dtype: str = "float32") -> None:
        self.function = function
        self.inputs = (TensorSpec("x", np.dtype(dtype), (batch_size, None)),)
        self.sizes: list[int] = []

    def run(self, inputs):
        x = inputs["x"]
        size = self.inputs[0].shape[0]
        assert x.dtype == self.inputs[0].dtype
        assert x.flags.c_contiguous
        assert not isinstance(size, int) or len(x) == size
        self.sizes.append(len(x))
        result = self.function(x)
        return result if isinstance(result, dict) else {"y": result}

    def close(self) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None: ...


RNG = np.random.default_rng(7)
X = RNG.standard_normal((25, 6)).astype(np.float32)
TARGETS = np.where(RNG.random(25) < 0.7, X.argmax(axis=1), RNG.integers(0, 6, 25)).astype(np.int64)
NOISE = RNG.normal(0, 0.2, (6, 6)).astype(np.float32)


def batches(size=10, *, targets=TARGETS, x=X):
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        ids = tuple(f"{i}.png" for i in range(len(x))[part])
        yield Batch({"x": x[part]}, ids, None if targets is None else targets[part])


def identity(x):
    return x


def noisy(x):
    return x + x @ NOISE


def test_metrics_of_the_whole_set_equal_numpy():
    result = evaluate(
        {"fp32": FunctionRunner(identity), "int8": FunctionRunner(noisy)}, batches(), baseline="fp32"
    ).metrics
    y = noisy(X)
    right, was_right = y.argmax(1) == TARGETS, X.argmax(1) == TARGETS
    assert result["fp32"] == {
        "top1": was_right.mean(),
        "top5": pytest.approx(np.mean([t in np.argsort(-row)[:5] for t, row in zip(TARGETS, X, strict=True)])),
        "num_classes": 6,
        "named_classes": len(set(X.argmax(1))),
        "non_finite": 0,
    }
    int8 = result["int8"]
    assert int8["top1"] == right.mean()
    assert int8["fixed"] == (right & ~was_right).sum()
    assert int8["broken"] == (~right & was_right).sum()
    assert int8["broken"] > 0
    assert int8["agreement"] == (y.argmax(1) == X.argmax(1)).mean()
    x64, y64 = X.astype(np.float64), y.astype(np.float64)
    assert int8["sqnr_db"] == pytest.approx(10 * math.log10((x64**2).sum() / ((x64 - y64) ** 2).sum()), rel=1e-6)
    assert int8["top1_difference_low"] < int8["top1"] - result["fp32"]["top1"] < int8["top1_difference_high"]


@pytest.mark.parametrize("size", [1, 7, 25])
def test_batch_size_changes_nothing(size):
    variants = {"fp32": FunctionRunner(identity), "int8": FunctionRunner(noisy)}
    whole = evaluate(variants, batches(25), baseline="fp32").metrics
    assert evaluate(variants, batches(size), baseline="fp32").metrics["int8"] == pytest.approx(whole["int8"], rel=1e-5)


@pytest.mark.parametrize("fixed", [1, 3, 10, 40])
def test_fixed_batch_models_give_the_same_numbers(fixed):
    runner = FunctionRunner(noisy, batch_size=fixed)
    free = evaluate({"fp32": FunctionRunner(identity), "v": FunctionRunner(noisy)}, batches(), baseline="fp32").metrics
    bound = evaluate({"fp32": FunctionRunner(identity), "v": runner}, batches(), baseline="fp32").metrics
    assert bound["v"] == pytest.approx(free["v"], rel=1e-5)
    assert set(runner.sizes) == {fixed}


def test_feed_pads_with_samples_and_removes_them():
    seen = []
    runner = FunctionRunner(lambda x: (seen.append(x.copy()), x * 2)[1], batch_size=4)
    batch = next(batches(6))
    np.testing.assert_array_equal(feed(runner, batch)["y"], X[:6] * 2)
    np.testing.assert_array_equal(seen[1], X[[4, 5, 4, 5]])


def test_feed_does_not_copy_what_has_the_type_of_the_model():
    seen = []
    batch = next(batches(4))
    feed(FunctionRunner(lambda x: seen.append(x) or x), batch)
    assert seen[0] is batch.inputs["x"]


def test_a_batch_is_judged_while_the_next_one_runs():
    began, judged = threading.Event(), []

    class Watching(Classification):
        def judge(self, batch, outputs):
            if len(judged) == 0:  # of the last batch there is no next one
                assert began.wait(30)
            judged.append(batch.ids[0])
            return super().judge(batch, outputs)

    def run(x):
        if x[0, 0] == X[10, 0]:
            began.set()
        return x

    found = evaluate({"fp32": FunctionRunner(run)}, batches(10), baseline="fp32", task=Watching())
    assert judged == ["0.png", "10.png", "20.png"]
    assert found.num_samples == 25


def test_a_wish_to_stop_keeps_what_was_judged_before_the_batch_that_it_interrupts(monkeypatch):
    class Interrupted(Classification):
        def judge(self, batch, outputs):
            if batch.ids[0] == "10.png":
                raise KeyboardInterrupt
            return super().judge(batch, outputs)

    def measured():
        return evaluate({"fp32": FunctionRunner(lambda x: x)}, batches(10), baseline="fp32", task=Interrupted())

    with pytest.raises(KeyboardInterrupt):
        measured()
    monkeypatch.setattr(run, "fulfils_wish", lambda: True)
    found = measured()
    assert (found.num_samples, found.is_partial) == (10, True)


def test_a_wish_to_stop_waits_for_no_judgment(monkeypatch):
    """It may take longer than there is left to write a report."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow(Classification):
        def judge(self, batch, outputs):
            if batch.ids[0] == "10.png":
                begun.set()
                go_on.wait(30)
                ended.set()
            return super().judge(batch, outputs)

    def interrupted(x):
        if x[0, 0] == X[20, 0]:
            begun.wait(30)
            raise KeyboardInterrupt
        return x

    for name in ("fulfils_wish", "is_ending"):
        monkeypatch.setattr(run, name, lambda: True)
    try:
        found = evaluate({"fp32": FunctionRunner(interrupted)}, batches(10), baseline="fp32", task=Slow())
        assert (found.num_samples, found.is_partial, ended.is_set()) == (10, True, False)
    finally:
        go_on.set()


def test_feed_casts_to_half_precision_models():
    runner = FunctionRunner(lambda x: x.astype(np.float32), dtype="float16")
    np.testing.assert_allclose(feed(runner, next(batches(3)))["y"], X[:3], rtol=1e-3)


def test_output_without_a_batch_dimension_is_refused_only_where_it_matters():
    runner = FunctionRunner(lambda x: {"y": x, "total": np.float32(x.sum()).reshape(1, 1)}, batch_size=4)
    assert feed(runner, next(batches(4)))["total"].shape == (1, 1)
    with pytest.raises(
        EvaluationError, match=r"'total'.*the 4 samples of the model's fixed batch.*--batch-size 4 and a"
    ):
        feed(runner, next(batches(3)))


def test_rows_of_all_images_in_one_list_need_a_batch_of_the_models_size():
    """A detector of one image: [M, 7] has as many rows as there are boxes, and nothing tells whose they are."""
    runner = FunctionRunner(lambda x: {"rows": np.zeros((5 * len(x), 7), np.float32)}, batch_size=1)
    with pytest.raises(EvaluationError, match=r"'rows'.*cannot be told apart; run it with --batch-size 1$"):
        feed(runner, next(batches(3)))
    assert feed(runner, next(batches(1)))["rows"].shape == (5, 7)


def test_without_labels_there_is_agreement_but_no_accuracy():
    variants = {"fp32": FunctionRunner(identity), "int8": FunctionRunner(noisy)}
    result = evaluate(variants, batches(targets=None), baseline="fp32").metrics
    of_scores = {"named_classes", "non_finite"}
    assert set(result["fp32"]) >= of_scores
    assert set(result["int8"]) >= {"agreement", "cosine", "sqnr_db", *of_scores}
    assert not {"top1", "top5", "fixed", "broken"} & (result["fp32"].keys() | result["int8"].keys())


def test_the_worst_output_counts_and_every_output_is_named():
    def heads(x):
        return {"ids": x.argmax(1), "boxes": x.reshape(-1, 2, 3), "logits": x}

    def worse(x):
        return {"ids": np.zeros(len(x), np.int64), "boxes": x.reshape(-1, 2, 3) * 0.5, "logits": x * 0.99}

    result = evaluate({"a": FunctionRunner(heads), "b": FunctionRunner(worse)}, batches(), baseline="a").metrics["b"]
    assert result["sqnr_db[boxes]"] == pytest.approx(20 * math.log10(2), abs=1e-5)
    assert result["sqnr_db[logits]"] == pytest.approx(40, abs=1e-3)
    assert result["sqnr_db"] == result["sqnr_db[boxes]"]
    assert result["agreement"] == 1.0
    assert result["equal"] == pytest.approx((X.argmax(1) == 0).mean())
    assert result["top1"] == (X.argmax(1) == TARGETS).mean()


def test_scores_may_have_trailing_ones_and_a_single_column_is_no_score():
    def squeezed(x):
        return {"confidence": x[:, :1], "map": x[:, :, None, None]}

    runner = FunctionRunner(squeezed)
    assert evaluate({"a": runner}, batches(), baseline="a").metrics["a"]["top1"] == (X.argmax(1) == TARGETS).mean()


def test_equal_outputs_have_infinite_sqnr():
    variants = {"a": FunctionRunner(identity), "b": FunctionRunner(identity)}
    result = evaluate(variants, batches(), baseline="a").metrics["b"]
    assert (result["sqnr_db"], result["cosine"], result["agreement"]) == (math.inf, 1.0, 1.0)
    assert (result["fixed"], result["broken"], result["p_value"]) == (0, 0, 1)


def test_non_finite_outputs_are_counted_wrong_and_noted():
    def broken(x):
        y = x.copy()
        y[:, 2] = np.nan
        return y

    result = evaluate({"a": FunctionRunner(identity), "b": FunctionRunner(broken)}, batches(), baseline="a").metrics[
        "b"
    ]
    assert result["non_finite"] == 25
    assert (result["top1"], result["agreement"], result["sqnr_db"]) == (0, 0, -math.inf)
    (note,) = metric_notes(result)
    assert note.startswith("25 output values are NaN or infinite")
    assert metric_notes({"non_finite": 0.0}) == ()


def test_custom_metrics_and_progress_are_used():
    seen: list[int] = []
    variants = {"a": FunctionRunner(identity), "b": FunctionRunner(noisy)}
    result = evaluate(variants, batches(), baseline="a", metrics={"sqnr": Sqnr}, on_batch=seen.append).metrics
    assert result["a"] == {}
    assert set(result["b"]) == {"sqnr_db"}
    assert seen == [10, 10, 5]
    assert METRICS["sqnr"] is Sqnr


def test_concatenated_boxes_have_no_agreement():
    runner = FunctionRunner(lambda x: np.ones((len(x) + 3, 7), np.float32))
    found = evaluate({"a": runner, "b": runner}, batches(), baseline="a").metrics
    assert found["a"].keys() == {"non_finite"}
    assert "agreement" not in found["b"]


def test_label_beyond_the_scores_names_sample_class_and_fix():
    targets = TARGETS.copy()
    targets[13] = 6
    with pytest.raises(EvaluationError, match=r"'13\.png' is of class 6, but output 'y' scores 6 classes.*--classes"):
        evaluate({"a": FunctionRunner(identity)}, batches(targets=targets), baseline="a")


def test_incomparable_variants_are_refused():
    variants = {"a": FunctionRunner(identity), "b": FunctionRunner(lambda x: x[:, :3])}
    with pytest.raises(EvaluationError, match=r"'y' has shape \(10, 3\) in 'b' and \(10, 6\) in 'a'"):
        evaluate(variants, batches(), baseline="a")
    variants["b"] = FunctionRunner(lambda x: {"z": x})
    with pytest.raises(EvaluationError, match="'y' is in only one of 'a' and 'b'"):
        evaluate(variants, batches(), baseline="a")
    with pytest.raises(EvaluationError, match="baseline 'c' is not among the variants a, b"):
        evaluate(variants, batches(), baseline="c")
    with pytest.raises(EvaluationError, match="no samples"):
        evaluate({"a": FunctionRunner(identity)}, [], baseline="a")


@pytest.mark.parametrize(("task", "advice"), [("detect", "one layout"), ("segment", "one input size")])
def test_variant_of_another_shape_names_the_remedy(task, advice):
    class Stub(OutputComparison):
        shape_hint = TASKS[task].shape_hint

    variants = {"a": FunctionRunner(identity), "b": FunctionRunner(lambda x: x[:, :3])}
    with pytest.raises(EvaluationError, match=advice) as caught:
        evaluate(variants, batches(), baseline="a", task=Stub())
    assert "--task" not in str(caught.value)
    assert "compares_outputs" not in str(caught.value)
    with pytest.raises(EvaluationError, match=r"if they are boxes, say --task detect$"):
        evaluate(variants, batches(), baseline="a")


def test_labels_must_be_there_throughout():
    mixed = [*batches(targets=None), *batches()]
    with pytest.raises(EvaluationError, match=r"'0\.png'"):
        evaluate({"a": FunctionRunner(identity)}, mixed, baseline="a")
