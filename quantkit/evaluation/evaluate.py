"""Accuracy of the variants of a model: the same batches through every runner, compared with labels and the baseline.

What a number is, is left to `quantkit.evaluation.metrics`; time, to `quantkit.evaluation.latency`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

import numpy as np

from quantkit.errors import EvaluationError
from quantkit.evaluation.metrics import METRICS, Metric
from quantkit.feeding import fixed_batch_size, run_batch
from quantkit.types import Array, Batch, Runner

__all__ = ["evaluate", "feed", "find_scores", "metric_notes"]


def evaluate(
    runners: Mapping[str, Runner],
    batches: Iterable[Batch],
    *,
    baseline: str,
    metrics: Mapping[str, type[Metric]] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Runs every batch through every runner and computes the metrics of each.

    The class scores are the baseline's first floating output of shape [N, C] with C >= 2 (or [N, C, 1, 1]). A model
    with several outputs gets the worst of them under a metric's plain name (for counts, the sum), and each one's under
    ``name[output]``, so the worst is named.

    Args:
        runners: by variant name; each must give the same outputs.
        batches: read once; nothing of a batch is kept.
        baseline: the runner that the others are compared with.
        metrics: accumulators by name, `METRICS` if not given.
        on_batch: called after each batch with its number of samples.

    Returns:
        variant → metric → value. Accuracies are fractions of 1; SQNR is in dB, ``inf`` for equal outputs.

    Raises:
        EvaluationError: no samples; outputs that cannot be compared; labels that do not fit the scores.
    """
    if baseline not in runners:
        raise EvaluationError(f"baseline {baseline!r} is not among the variants {', '.join(runners)}")
    tallies = {name: _Tally(metrics or METRICS, is_baseline=name == baseline) for name in runners}
    scores: str | None = None
    labelled: bool | None = None
    for batch in batches:
        reference = feed(runners[baseline], batch)
        if labelled is None:
            scores, labelled = find_scores(reference), batch.targets is not None
        if labelled != (batch.targets is not None):
            raise EvaluationError(f"some samples have a label and {batch.ids[0]!r} has none, or the reverse")
        if scores is not None:
            _check_targets(batch, reference[scores], scores)
        for name, runner in runners.items():
            outputs = reference if name == baseline else feed(runner, batch)
            _check_outputs(name, outputs, baseline, reference)
            tallies[name].update(outputs, reference, scores, batch)
        if on_batch is not None:
            on_batch(len(batch))
    if labelled is None:
        raise EvaluationError("there are no samples to evaluate on")
    return {name: tally.compute() for name, tally in tallies.items()}


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
    outputs = run_batch(runner, replace(batch, inputs=_cast(runner, batch.inputs)))
    size = fixed_batch_size(runner)
    if size is not None and size != len(batch):
        for name, array in outputs.items():
            if array.shape[:1] != (len(batch),):
                raise EvaluationError(
                    f"output {name!r} does not have a row for each of the {size} samples of the model's fixed batch: "
                    "its samples cannot be told apart; use a batch size that divides the number of samples"
                )
    return outputs


def metric_notes(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """What a reader must know before using the metrics of one variant, one sentence each; mostly nothing."""
    notes = []
    if count := metrics.get("non_finite", 0):
        notes.append(
            f"{count:.0f} output values are NaN or infinite: samples with NaN scores count as wrong, "
            "and SQNR and cosine are meaningless"
        )
    return tuple(notes)


def find_scores(outputs: Mapping[str, Array]) -> str | None:
    """Name of the first output that can be class scores: floating, [N, C] with C >= 2, or [N, C, 1, 1]; else None."""
    fitting = (
        name
        for name, array in outputs.items()
        if _is_float(array) and array.ndim >= 2 and array.shape[1] >= 2 and all(d == 1 for d in array.shape[2:])
    )
    return next(islice(fitting, 1), None)


class _Tally:
    """The accumulators of one variant: per metric on the scores, per metric and output on the outputs."""

    def __init__(self, metrics: Mapping[str, type[Metric]], *, is_baseline: bool) -> None:
        self._metrics = {name: m for name, m in metrics.items() if not (is_baseline and m.compares)}
        self._accumulators: dict[str, dict[str, Metric]] = {name: {} for name in self._metrics}

    def update(
        self, outputs: Mapping[str, Array], reference: Mapping[str, Array], scores: str | None, batch: Batch
    ) -> None:
        for name, metric in self._metrics.items():
            for output in _outputs_in_scope(metric, reference, scores, labelled=batch.targets is not None):
                values, expected = outputs[output], reference[output]
                if metric.scope in ("scores", "labels"):
                    values, expected = _as_scores(values), _as_scores(expected)
                accumulator = self._accumulators[name].setdefault(output, metric())
                accumulator.update(values, reference=expected, targets=batch.targets)

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
    metric: type[Metric], reference: Mapping[str, Array], scores: str | None, *, labelled: bool
) -> list[str]:
    if metric.scope in ("scores", "labels"):
        return [scores] if scores is not None and (labelled or metric.scope == "scores") else []
    return [name for name, array in reference.items() if _is_float(array) == (metric.scope == "floats")]


def _is_float(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _as_scores(array: Array) -> Array:
    return array.reshape(array.shape[:2])


def _check_targets(batch: Batch, scores: Array, output: str) -> None:
    if batch.targets is None:
        return
    classes = scores.shape[1]
    wrong = np.flatnonzero((batch.targets < 0) | (batch.targets >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise EvaluationError(
            f"sample {batch.ids[first]!r} is of class {batch.targets[first]}, but output {output!r} scores {classes} "
            f"classes, 0 to {classes - 1}: give the model's class names in its order with --classes"
        )


def _check_outputs(name: str, outputs: Mapping[str, Array], baseline: str, reference: Mapping[str, Array]) -> None:
    if outputs.keys() != reference.keys():
        odd = sorted(outputs.keys() ^ reference.keys())[0]
        raise EvaluationError(f"output {odd!r} is in only one of {baseline!r} and {name!r}: they are not one model")
    for output, array in outputs.items():
        if array.shape != reference[output].shape:
            raise EvaluationError(
                f"output {output!r} has shape {array.shape} in {name!r} and {reference[output].shape} in {baseline!r}: "
                "they cannot be compared element by element; cut the model before the node that makes it (NMS?)"
            )


def _cast(runner: Runner, inputs: Mapping[str, Array]) -> dict[str, Array]:
    wanted = {spec.name: spec.dtype for spec in runner.inputs}
    return {
        name: array.astype(wanted[name])
        if name in wanted and _is_float(array) and np.issubdtype(wanted[name], np.floating)
        else array
        for name, array in inputs.items()
    }
