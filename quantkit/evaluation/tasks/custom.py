"""A task that a user writes in Python: what outputs mean, and a metric. Calling his code is left to `user_code`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from quantkit.errors import EvaluationError
from quantkit.evaluation.bootstrap import can_draw, explain_no_interval, mean_difference_interval
from quantkit.evaluation.metrics import METRICS, Scope
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions
from quantkit.paired_statistics import difference_interval
from quantkit.significance import DIFFERING
from quantkit.types import Array, Batch, ChangedSample, Dataset, PathLike, Score
from quantkit.user_code import call, load_symbol

_Predicted = tuple[tuple[str, ...], npt.NDArray[np.int64] | None, dict[str, Any]]
"""What judging a batch gives: ids, labels, and predictions by variant."""

CHANGED_SHARE = 0.01
"""Samples whose score moves by less (of 1 for a fraction, else of the larger score) are not listed as changed."""

_ATTRIBUTES: dict[str, tuple[type, str]] = {
    "name": (str, "a string that is not empty"),
    "label": (str, "a string that is not empty"),
    "definition": (str, "a string that is not empty"),
    "is_fraction": (bool, "True or False"),
    "higher_is_better": (bool, "True or False"),
    "compares_outputs": (bool, "True or False"),
}


class Custom(Task):
    """Judges by a metric of the user's.

    The metric is a class that is made without arguments, once for each variant, with two methods:

    - ``update(predictions, ids, targets)``, called for every batch: what `postprocess` returned (without one, the
      outputs by name), the ids of the N samples, and their classes, int64 [N], or None. It returns None, or a score
      for each of the N samples.
    - ``compute()``: a number, or numbers by name, of which the first, or the one called `name`, is the score.

    Where `update` has a parameter ``reference``, it gets what it would get as predictions of the baseline, of the same
    samples. And, if it likes, the attributes ``name`` (default: the class's name in lower case), ``label`` (default:
    `name`), ``is_fraction`` (False), ``higher_is_better`` (True), ``definition``, ``compares_outputs`` (True), which
    is False where outputs of two variants may have different shapes.

    Scores of samples give the samples that changed, and, where `compute` is their mean, the interval of the difference
    from the baseline: of scores that are all 0 or 1 by the samples that differ, of others by a paired bootstrap, where
    enough samples differ for one.

    Args:
        postprocess: ``postprocess(outputs, ids)`` with outputs [N, ...] by name: something with one item for each of
            the N samples. Arrays cannot be written to: copy them.
        metric: the class.

    Raises:
        EvaluationError: it is no such class.
    """

    options = ("postprocess", "metric")
    required: ClassVar[Mapping[str | tuple[str, ...], str]] = {"metric": "file.py:Class (docs/how-to/tasks.md)"}
    has_class_labels = True
    shape_hint = "; set compares_outputs = False if your metric does not need that"

    def __init__(self, postprocess: Callable[..., Any] | None, metric: Callable[[], Any] | None) -> None:
        super().__init__()
        if metric is None:
            raise EvaluationError("--task custom needs --metric file.py:Class")
        if postprocess is not None and not callable(postprocess):
            raise EvaluationError(f"--postprocess: {postprocess!r} is not a function")
        self._metric_name = _check_metric(metric)
        self._postprocess = postprocess
        self._make_metric = metric
        self._is_fraction = bool(getattr(metric, "is_fraction", False))
        self._higher_is_better = bool(getattr(metric, "higher_is_better", True))
        self._score: Score | None = None
        self._metrics: dict[str, Any] = {}
        self._sample_scores: dict[str, list[npt.NDArray[np.float64]]] = {}
        self._scores_samples: bool | None = None
        self._has_interval = True
        self._few: dict[str, int] = {}

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """Loads the user's code."""
        given = options.given("postprocess", "metric")
        code = {name: load_symbol(value) if isinstance(value, str) else value for name, value in given.items()}
        facts = {
            name: value if isinstance(value, str) else str(getattr(value, "__name__", value))
            for name, value in given.items()
        }
        return OpenTask(cls(code.get("postprocess"), code["metric"]), tuple(dataset.classes), facts)

    @property
    def metric_scopes(self) -> tuple[Scope, ...]:
        """Those of raw outputs, unless the metric says that these cannot be compared."""
        return super().metric_scopes if getattr(self._make_metric, "compares_outputs", True) else ()

    @property
    def score(self) -> Score | None:
        """What the metric says of itself; known after `compute`, which may name it."""
        return self._score

    @property
    def notes(self) -> tuple[str, ...]:
        """Why there is no interval; known after `compute`."""
        if not self._scores_samples:
            return ()
        told = []
        if self._score is not None and not self._has_interval:
            told.append(f"There is no interval: {self._score.label} is not the mean of the samples' scores.")
        if self._score is not None and self._has_interval:
            (baseline, parts), *_ = self._sample_scores.items()
            count = sum(map(len, parts))
            told += explain_no_interval(
                self._score.label, self._few, num_samples=count, baseline=baseline, noun="samples"
            )
        return tuple(told)

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> _Predicted:
        """Calls the user's `postprocess`; the metric takes what that returns, or without one the outputs.

        Raises:
            EvaluationError: the user's code failed, by file and line, or returned something else than was asked for.
        """
        return batch.ids, batch.targets, {variant: self._predict(found, batch) for variant, found in outputs.items()}

    def add(self, judged: _Predicted) -> None:
        """Has the user's metric judge the next batch.

        Raises:
            EvaluationError: the user's code failed, by file and line, or returned something else than was asked for.
        """
        ids, targets, predicted = judged
        expected: npt.NDArray[np.float64] | None = None
        reference: Any = None
        for position, (variant, found) in enumerate(predicted.items()):
            if variant not in self._metrics:
                self._metrics[variant] = self._make()
            predictions = _all_read_only(found) if self._postprocess is None else found
            reference = predictions if position == 0 else reference
            returned = call(
                f"update(predictions, ids, targets) of {self._metric_name}",
                _with_reference(self._metrics[variant].update, reference),
                predictions,
                ids,
                None if targets is None else _read_only(targets),
            )
            scores = self._check_sample_scores(returned, len(ids))
            if scores is None:
                continue
            self._sample_scores.setdefault(variant, []).append(scores)
            if position == 0:
                expected = scores
            elif expected is not None:
                self._note_changes(variant, ids, expected, scores)

    def compute(self) -> dict[str, dict[str, float]]:
        """The numbers of the metric, and the interval of the score's difference from the baseline.

        Raises:
            EvaluationError: the user's code failed, or returned something that is no finite number.
        """
        result = {variant: self._compute(variant, metric) for variant, metric in self._metrics.items()}
        (baseline, first), *others = result.items()
        for variant, numbers in others:
            if numbers.keys() != first.keys():
                odd = sorted(numbers.keys() ^ first.keys())[0]
                raise EvaluationError(
                    f"compute() of {self._metric_name} gives {odd!r} for only one of {baseline!r} and {variant!r}"
                )
        self._score = score = self._make_score(first)
        for variant, numbers in others:
            if self._scores_samples:
                mine, theirs = (np.concatenate(self._sample_scores[v]) for v in (variant, baseline))
                numbers.setdefault(DIFFERING, float(np.count_nonzero(mine != theirs)))
            if (interval := self._interval(baseline, variant, result, score.name)) is not None:
                numbers[f"{score.name}_difference_low"], numbers[f"{score.name}_difference_high"] = interval
        return result

    def _make(self) -> Any:
        metric = call(f"{self._metric_name}()", self._make_metric)
        for method in ("update", "compute"):
            if not callable(getattr(metric, method, None)):
                raise EvaluationError(f"--metric {self._metric_name} has no method {method}")
        return metric

    def _predict(self, outputs: Mapping[str, Array], batch: Batch) -> Any:
        if self._postprocess is None:
            return dict(outputs)
        name = getattr(self._postprocess, "__name__", "postprocess")
        predictions = call(f"{name}(outputs, ids)", self._postprocess, _all_read_only(outputs), batch.ids)
        try:
            count = len(predictions)
        except TypeError:
            raise EvaluationError(
                f"{name} returned {type(predictions).__name__}: an array or a list with one item for each of the "
                f"{len(batch)} samples is needed"
            ) from None
        if count != len(batch):
            raise EvaluationError(f"{name} returned {count} items for a batch of {len(batch)} samples")
        return predictions

    def _check_sample_scores(self, returned: Any, count: int) -> npt.NDArray[np.float64] | None:
        what = f"update of {self._metric_name}"
        if self._scores_samples is None:
            self._scores_samples = returned is not None
        if self._scores_samples != (returned is not None):
            raise EvaluationError(f"{what} returned scores for some batches and None for others")
        if returned is None:
            return None
        try:
            scores = np.array(returned, np.float64)  # a copy: the user's may be used again
        except (TypeError, ValueError):
            raise EvaluationError(
                f"{what} returned {type(returned).__name__}: None or {count} numbers are needed, one a sample"
            ) from None
        if scores.shape != (count,):
            raise EvaluationError(f"{what} returned scores of shape {list(scores.shape)} for {count} samples")
        return scores

    def _note_changes(
        self, variant: str, ids: Sequence[str], before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]
    ) -> None:
        with np.errstate(invalid="ignore"):
            moved = np.abs(after - before)
        least = CHANGED_SHARE * (1.0 if self._is_fraction else np.maximum(np.abs(before), np.abs(after)))
        for row in np.flatnonzero(np.isfinite(moved) & (moved > 0) & (moved >= least)).tolist():
            self._changes.add(
                ChangedSample(
                    variant=variant,
                    sample=ids[row],
                    kind="fixed" if (after[row] > before[row]) == self._higher_is_better else "broken",
                    truth="",
                    before=self._show(before[row]),
                    after=self._show(after[row]),
                    severity=float(moved[row]),
                )
            )

    def _show(self, value: float) -> str:
        return f"{100 * value:.1f}%" if self._is_fraction else f"{value:.4g}"

    def _compute(self, variant: str, metric: Any) -> dict[str, float]:
        what = f"compute() of {self._metric_name}"
        returned = call(what, metric.compute)
        numbers = returned if isinstance(returned, Mapping) else {self._default_name(): returned}
        if not numbers:
            raise EvaluationError(f"{what} returned an empty dict: a number, or numbers by name, are needed")
        found = {}
        for name, value in numbers.items():
            if not isinstance(name, str) or not name:
                raise EvaluationError(f"{what} returned the name {name!r}: names must be strings")
            _check_free(name, what)
            if not hasattr(value, "__float__"):
                raise EvaluationError(f"{what} returned {type(value).__name__} for {name!r}, which is not a number")
            found[name] = float(call(what, float, value))
            if not math.isfinite(found[name]):
                # Every limit is kept by NaN: a gate would let a broken model pass.
                raise EvaluationError(
                    f"{what} returned {found[name]} for {name!r} of {variant!r}: return the worst value where there is "
                    "nothing to count"
                )
        return found

    def _default_name(self) -> str:
        return str(getattr(self._make_metric, "name", self._metric_name.lower()))

    def _make_score(self, numbers: Mapping[str, float]) -> Score:
        declared = getattr(self._make_metric, "name", None)
        if declared is not None and declared not in numbers:
            raise EvaluationError(
                f"compute() of {self._metric_name} returned {', '.join(numbers)}, but not its score {declared!r}"
            )
        name = next(iter(numbers)) if declared is None else declared
        if self._is_fraction and not 0 <= numbers[name] <= 1:
            raise EvaluationError(
                f"{self._metric_name}: {name} is {numbers[name]:g}, but is_fraction says that it is from 0 to 1"
            )
        return Score(
            name=name,
            label=getattr(self._make_metric, "label", name),
            is_fraction=self._is_fraction,
            higher_is_better=self._higher_is_better,
            definition=getattr(self._make_metric, "definition", ""),
        )

    def _interval(
        self, baseline: str, variant: str, result: Mapping[str, Mapping[str, float]], name: str
    ) -> tuple[float, float] | None:
        """The interval of the difference of mean scores; None unless `compute` returned the means of the samples."""
        if not self._scores_samples:
            return None
        mine, theirs = (np.concatenate(self._sample_scores[v]) for v in (variant, baseline))
        for values, of in ((mine, variant), (theirs, baseline)):
            if not math.isclose(float(values.mean()), result[of][name], rel_tol=1e-6, abs_tol=1e-9):
                self._has_interval = False
                return None
        differ = mine != theirs
        if np.isin(mine, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
            fixed, broken = int((differ & (mine == 1)).sum()), int((differ & (mine == 0)).sum())
            return difference_interval(fixed, broken, num_samples=len(mine))
        if not can_draw(len(mine), int(differ.sum())):
            self._few[variant] = int(differ.sum())
            return None
        return mean_difference_interval(theirs, mine)


TASKS["custom"] = Custom


def reserved_names() -> frozenset[str]:
    """What quantkit's own metrics and tasks call their numbers, which limits and reports know by these names."""
    of_metrics = {name for metric in METRICS.values() for name in metric.numbers}
    of_tasks = {name for task in TASKS.values() for name in task.numbers}
    return frozenset(of_metrics | of_tasks | {DIFFERING})


def _check_metric(metric: Callable[[], Any]) -> str:
    """The metric's name, after a look at what a class says of itself before anything runs."""
    if not callable(metric):
        raise EvaluationError(f"--metric: {metric!r} is not a class")
    name = str(getattr(metric, "__name__", type(metric).__name__))
    if isinstance(metric, type):
        for method in ("update", "compute"):
            if not callable(getattr(metric, method, None)):
                raise EvaluationError(f"--metric {name} has no method {method}")
    for attribute, (wanted, described) in _ATTRIBUTES.items():
        value = getattr(metric, attribute, None)
        if value is not None and (not isinstance(value, wanted) or value == ""):
            raise EvaluationError(f"--metric {name}: {attribute} is {value!r}, it must be {described}")
    if declared := getattr(metric, "name", None):
        _check_free(declared, f"--metric {name}")
    return name


def _check_free(name: str, what: str) -> None:
    """Refuses names that would replace quantkit's numbers, or be taken for an interval's end."""
    if name.partition("[")[0] in reserved_names() or name.endswith(("_difference_low", "_difference_high")):
        raise EvaluationError(
            f"{what} has a number called {name!r}, which quantkit calls one of its own: take another name"
        )


def _with_reference(update: Callable[..., Any], reference: Any) -> Callable[..., Any]:
    """The user's method with the baseline's predictions, if it asks for them."""
    try:
        asks = "reference" in inspect.signature(update).parameters
    except (TypeError, ValueError):  # not written in Python
        asks = False
    return functools.partial(update, reference=reference) if asks else update


def _all_read_only(outputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: _read_only(array) for name, array in outputs.items()}


def _read_only(array: Array) -> Array:
    """The same memory, which other metrics and variants read too."""
    view = array.view()
    view.flags.writeable = False
    return view
