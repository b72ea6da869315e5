"""Numbers of a report that no measurement gives: shares beyond 1, counts below 0, intervals the wrong way round."""

from __future__ import annotations

import math
from collections.abc import Iterator

from quantkit.errors import EvaluationError
from quantkit.significance import NAMED_CLASSES
from quantkit.types import Evaluation, Report

_SHARES = ("top1", "top5", "agreement", "equal", "p_value", "map", "map50", "miou", "pixel_accuracy")
_COUNTS = ("fixed", "broken", "non_finite", "num_classes", "num_detections", "differing", NAMED_CLASSES)
"""Metrics by which quantkit's own tasks report a share, or a number of something. A custom task may use any name."""

_ROUNDING = 1e-9


def check_numbers(report: Report) -> None:
    """Raises `EvaluationError` at the first number that cannot be, naming its place in report.json."""
    for place, value, wanted in _impossible(report):
        raise EvaluationError(f"`{place}` is {value}, it must be {wanted}")


def _impossible(report: Report) -> Iterator[tuple[str, object, str]]:
    for i, evaluation in enumerate(report.evaluations):
        place = f"$.evaluations[{i}]"
        yield from _negative({f"{place}.size_bytes": evaluation.size_bytes})
        yield from _negative({f"{place}.num_samples": evaluation.num_samples})
        yield from _impossible_metrics(report, evaluation, f"{place}.metrics")
    if report.planned_samples is not None:
        yield from _negative({"$.planned_samples": report.planned_samples})
    for i, scored in enumerate(report.classes):
        yield from _negative({f"$.classes[{i}].count": scored.count})
        if report.score is not None and report.score.is_fraction:
            yield from _no_share({f"$.classes[{i}].scores.{name}": value for name, value in scored.scores.items()})
    for variant, counts in report.num_changes.items():
        yield from _negative({f"$.num_changes.{variant}.{kind}": count for kind, count in counts.items()})
    for i, tensor in enumerate(report.tensors):
        yield from _negative({f"$.tensors[{i}].histogram[{j}]": count for j, count in enumerate(tensor.histogram)})


def _impossible_metrics(report: Report, evaluation: Evaluation, place: str) -> Iterator[tuple[str, object, str]]:
    metrics, score = evaluation.metrics, report.score
    shares = set() if report.task == "custom" else set(_SHARES)
    if score is not None:
        shares = shares | {score.name} if score.is_fraction else shares - {score.name}
        low, high = (metrics.get(f"{score.name}_difference_{end}") for end in ("low", "high"))
        if low is not None and high is not None and low > high:
            name = f"{place}.{score.name}_difference_low"
            yield name, low, f"at most {score.name}_difference_high, {high}"
    yield from _no_share({f"{place}.{name}": metrics[name] for name in metrics if name in shares})
    if report.task != "custom":
        yield from _negative({f"{place}.{name}": metrics[name] for name in _COUNTS if name in metrics})


def _no_share(values: dict[str, float]) -> Iterator[tuple[str, object, str]]:
    """What is not finite may come from a model; that nothing passes by it is left to the gate."""
    for place, value in values.items():
        if math.isfinite(value) and not -_ROUNDING <= value <= 1 + _ROUNDING:
            yield place, value, "a fraction from 0 to 1"


def _negative(values: dict[str, float]) -> Iterator[tuple[str, object, str]]:
    for place, value in values.items():
        if value < 0:
            yield place, value, "0 or more"
