"""Accuracy of the variants of a model: the same batches through every runner, judged by a task, compared by metrics.

What outputs mean is left to `quantkit.evaluation.tasks`, what a number is to `quantkit.evaluation.metrics`; time, to
`quantkit.evaluation.latency.host`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantkit.datasets.batching import fixed_batch_size, run_padded
from quantkit.errors import EvaluationError
from quantkit.evaluation.metrics import METRICS, Metric
from quantkit.evaluation.tasks import Task
from quantkit.evaluation.tasks.classification import Classification, as_scores, find_scores, is_float
from quantkit.interrupts import fulfils_wish, is_ending
from quantkit.notices import logs_duration
from quantkit.types import Array, Batch, Runner


@dataclass(frozen=True)
class Measurement:
    """What `evaluate` found; the task that was given holds the rest (classes, changes).

    Attributes:
        metrics: variant → metric → value. Accuracies are fractions of 1; SQNR is in dB, ``inf`` for equal outputs.
        num_samples: how many samples went through every runner.
        is_partial: whether it was asked to stop before it was done, be it in the last batch.
    """

    metrics: Mapping[str, Mapping[str, float]]
    num_samples: int
    is_partial: bool = False


@dataclass(frozen=True)
class JudgedBatch:
    """What is kept of a batch.

    Attributes:
        num_samples: in it.
        judged: what the task makes of the outputs.
        tallies: metrics of each variant.
    """

    num_samples: int
    judged: Any
    tallies: Mapping[str, _Tally]


@logs_duration
def evaluate(
    runners: Mapping[str, Runner],
    batches: Iterable[Batch],
    *,
    baseline: str,
    task: Task | None = None,
    metrics: Mapping[str, type[Metric]] | None = None,
    on_batch: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Measurement:
    """Runs every batch through every runner and computes the metrics of each.

    A model with several outputs gets the worst of them under a metric's plain name (for counts, the sum), and each
    one's under ``name[output]``, so the worst is named.

    Args:
        runners: by variant name; each must give the same outputs.
        batches: read once; nothing of a batch is kept.
        baseline: the runner that the others are compared with.
        task: what the outputs mean, not used before; `Classification` if not given.
        metrics: accumulators by name, those of `METRICS` that the task asks for if not given.
        on_batch: called after each batch with its number of samples.
        should_stop: asked after each batch and at the end: whether to end here, with every runner at the same sample.

    Returns:
        The metrics, those of the task among them.

    Raises:
        EvaluationError: no samples; outputs that cannot be compared; labels that do not fit the scores.
    """
    task = task or Classification()
    stop = should_stop or (lambda: False)
    judged = judge_batches(runners, batches, baseline=baseline, task=task, metrics=metrics, should_stop=stop)
    found = sum_up(judged, task, on_batch=on_batch)
    return replace(found, is_partial=found.is_partial or stop())


def judge_batches(
    runners: Mapping[str, Runner],
    batches: Iterable[Batch],
    *,
    baseline: str,
    task: Task,
    metrics: Mapping[str, type[Metric]] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[JudgedBatch]:
    """The first half of `evaluate`, of which nothing but what it yields has to stay on a machine.

    The runners compute in the caller's thread; a second one judges a batch while they compute the next.
    """
    if baseline not in runners:
        raise EvaluationError(f"baseline {baseline!r} is not among the variants {', '.join(runners)}")
    chosen = metrics if metrics is not None else {name: METRICS[name] for name in task.metrics}
    order = [baseline, *(name for name in runners if name != baseline)]
    beside = ThreadPoolExecutor(1, thread_name_prefix="quantkit-judge")
    waiting: Future[JudgedBatch] | None = None
    try:
        for batch, outputs in _feed_all(runners, batches, order, should_stop):
            if waiting is not None:
                yield waiting.result()
            waiting = beside.submit(_judge, batch, outputs, task, chosen)
        if waiting is not None and (waiting.done() or not fulfils_wish()):
            yield waiting.result()
    except KeyboardInterrupt:
        if not fulfils_wish():  # else what was judged before is kept
            raise
    finally:
        beside.shutdown(wait=not is_ending())  # a judgment may take longer than there is left to write a report


def _judge(
    batch: Batch, outputs: Mapping[str, Mapping[str, Array]], task: Task, metrics: Mapping[str, type[Metric]]
) -> JudgedBatch:
    """Judges a batch by the outputs of every variant, the baseline's first."""
    (baseline, reference), *others = outputs.items()
    for name, found in others:
        _check_outputs(name, found, baseline, reference, task=task if metrics else None)
    judged = task.judge(batch, outputs)
    scores = find_scores(reference, num_samples=len(batch))
    if scores is not None and not task.takes_as_scores(reference[scores], is_labeled=batch.targets is not None):
        scores = None
    tallies = {name: _Tally(metrics, is_baseline=name == baseline) for name in outputs}
    for name, tally in tallies.items():
        tally.update(outputs[name], reference, scores, batch)
    return JudgedBatch(len(batch), judged, tallies)


def sum_up(batches: Iterable[JudgedBatch], task: Task, *, on_batch: Callable[[int], None] | None = None) -> Measurement:
    """The second half of `evaluate`: of batches in the order of their samples, wherever they were judged."""
    tallies: dict[str, _Tally] = {}
    count = 0
    for batch in batches:
        task.add(batch.judged)
        for name, tally in batch.tallies.items():
            if name in tallies:
                tallies[name].merge(tally)
            else:
                tallies[name] = tally
        count += batch.num_samples
        if on_batch is not None:
            on_batch(batch.num_samples)
    stopped = fulfils_wish()
    if stopped and not count:
        raise KeyboardInterrupt
    if not count:
        raise EvaluationError("there are no samples to evaluate on")
    judged = task.compute()
    found = {name: {**tally.compute(), **judged.get(name, {})} for name, tally in tallies.items()}
    return Measurement(metrics=found, num_samples=count, is_partial=stopped)


def baseline_warnings(metrics: Mapping[str, float]) -> list[str]:
    """NaN of the float model itself, before any variant is blamed for it."""
    if not (count := metrics.get("non_finite", 0)):
        return []
    return [
        f"the float model itself gives {count:.0f} NaN or infinite values: check the model, its data and --preprocess "
        "first; quantization is not to blame, and the variants cannot be judged"
    ]


def _feed_all(
    runners: Mapping[str, Runner], batches: Iterable[Batch], order: Sequence[str], should_stop: Callable[[], bool]
) -> Iterator[tuple[Batch, dict[str, dict[str, Array]]]]:
    """Batches with the outputs of every runner; none of the batch in which a wish to stop interrupts."""
    waiting = iter(batches)
    while True:
        try:
            batch = next(waiting, None)
            if batch is None:
                return
            outputs = {name: feed(runners[name], batch) for name in order}
        except KeyboardInterrupt:
            if fulfils_wish():
                return
            raise
        yield batch, outputs
        if should_stop():
            return


def feed(runner: Runner, batch: Batch) -> dict[str, Array]:
    """Runs a batch of any size, also through a model with a fixed batch size, and returns its N samples' outputs.

    Floating inputs are cast to the type that the runner takes.

    Args:
        runner: the model.
        batch: N samples.

    Returns:
        Outputs by name, [N, ...].

    Raises:
        EvaluationError: an output without a batch dimension, where the batch had to be cut or filled.
    """
    outputs = run_padded(runner, replace(batch, inputs=_cast(runner, batch.inputs)))
    size = fixed_batch_size(runner, batch.axes)
    if size is not None and size != len(batch):
        for name, array in outputs.items():
            if array.shape[:1] != (len(batch),):
                raise EvaluationError(
                    f"output {name!r} does not have a row for each of the {size} samples of the model's fixed batch: "
                    f"its samples cannot be told apart; run it with --batch-size {size}{_exactly(size)}"
                )
    return outputs


def _exactly(size: int) -> str:
    return "" if size == 1 else f" and a number of samples that {size} divides (--num-samples)"


def metric_notes(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """What a reader must know before using the metrics of one variant, one sentence each; mostly nothing."""
    notes = []
    if count := metrics.get("non_finite", 0):
        notes.append(
            f"{count:.0f} output values are NaN or infinite: samples with NaN scores count as wrong, "
            "and SQNR and cosine are meaningless"
        )
    return tuple(notes)


class _Tally:
    """The accumulators of one variant: per metric on the scores, per metric and output on the outputs."""

    def __init__(self, metrics: Mapping[str, type[Metric]], *, is_baseline: bool) -> None:
        self._metrics = {name: m for name, m in metrics.items() if not (is_baseline and m.compares)}
        self._accumulators: dict[str, dict[str, Metric]] = {name: {} for name in self._metrics}

    def update(
        self, outputs: Mapping[str, Array], reference: Mapping[str, Array], scores: str | None, batch: Batch
    ) -> None:
        for name, metric in self._metrics.items():
            for output in _outputs_in_scope(metric, reference, scores, labeled=batch.targets is not None):
                values, expected = outputs[output], reference[output]
                if metric.scope in ("scores", "labels"):
                    values, expected = as_scores(values), as_scores(expected)
                accumulator = self._accumulators[name].setdefault(output, metric())
                accumulator.update(values, reference=expected, targets=batch.targets)

    def merge(self, later: _Tally) -> None:
        for name, accumulators in later._accumulators.items():
            mine = self._accumulators[name]
            for output, accumulator in accumulators.items():
                if output in mine:
                    mine[output].merge(accumulator)
                else:
                    mine[output] = accumulator

    def compute(self) -> dict[str, float]:
        result: dict[str, float] = {}
        for name, accumulators in self._accumulators.items():
            computed = {output: accumulator.compute() for output, accumulator in accumulators.items()}
            for key in dict.fromkeys(key for numbers in computed.values() for key in numbers):
                by_output = {output: numbers[key] for output, numbers in computed.items() if key in numbers}
                combine = sum if self._metrics[name].additive else min
                result[key] = float(combine(by_output.values()))
                if len(computed) > 1:
                    result.update({f"{key}[{output}]": value for output, value in by_output.items()})
        return result


def _outputs_in_scope(
    metric: type[Metric], reference: Mapping[str, Array], scores: str | None, *, labeled: bool
) -> list[str]:
    if metric.scope in ("scores", "labels"):
        return [scores] if scores is not None and (labeled or metric.scope == "scores") else []
    return [name for name, array in reference.items() if is_float(array) == (metric.scope == "floats")]


def _check_outputs(
    name: str, outputs: Mapping[str, Array], baseline: str, reference: Mapping[str, Array], *, task: Task | None
) -> None:
    """The same outputs, and, where a `task` compares them element by element, of the same shapes."""
    if outputs.keys() != reference.keys():
        odd = sorted(outputs.keys() ^ reference.keys())[0]
        raise EvaluationError(f"output {odd!r} is in only one of {baseline!r} and {name!r}: they are not one model")
    for output, array in outputs.items():
        if task is not None and array.shape != reference[output].shape:
            raise EvaluationError(
                f"output {output!r} has shape {array.shape} in {name!r} and {reference[output].shape} in {baseline!r}: "
                f"they cannot be compared element by element{task.shape_hint}"
            )


def _cast(runner: Runner, inputs: Mapping[str, Array]) -> dict[str, Array]:
    wanted = {spec.name: spec.dtype for spec in runner.inputs}
    return {
        name: array.astype(wanted[name], copy=False)
        if name in wanted and is_float(array) and np.issubdtype(wanted[name], np.floating)
        else array
        for name, array in inputs.items()
    }
