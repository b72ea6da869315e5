"""Reports of several runs joined into one, so that backends, GPUs or releases stand side by side. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from quantkit.errors import EvaluationError
from quantkit.types import ChangedSample, ClassScore, Evaluation, LayerPlacement, Report, TensorQuality

_Entry = TypeVar("_Entry", ChangedSample, TensorQuality, LayerPlacement)

_PAIRED = ("fixed", "broken", "p_value")
"""Metrics that hold only against the baseline of the same run, besides the interval of the score's difference."""

_SCORING = (
    "labels_fingerprint",
    "detections",
    "decoder",
    "score_threshold",
    "iou_threshold",
    "max_detections",
    "ignored_value",
    "binary",
    "postprocess",
    "metric",
)
"""Facts of the data that decide a score, besides the samples."""

_WITHIN_RUNS = "speed-ups are within one run: times of different runs are not compared"


def join_reports(reports: Mapping[str, Report], *, force: bool = False) -> Report:
    """Puts the variants of several reports on one model and the same samples into one, as ``run/variant``.

    Accuracies are compared with the first report's baseline; a paired interval is kept only where the run's own
    baseline has exactly the same accuracy. Times are compared within a run alone: each backend is named with its run,
    so that no speed-up is between numbers of different runs. Agreement and SQNR stay against the run's own baseline.

    Args:
        reports: at least two, by a name for the run.
        force: join reports of different models, data or preprocessing too, with a warning in the result.

    Raises:
        EvaluationError: fewer than two reports, or different models, data or preprocessing.
    """
    if len(reports) < 2:
        raise EvaluationError("joining needs at least two reports")
    (first_name, first), *others = reports.items()
    differences = [d for name, report in others for d in _differences(first_name, first, name, report)]
    if differences and not force:
        raise EvaluationError(f"the reports cannot be joined: {differences[0]}; --force joins them anyway")
    shares_table = _is_of_one_table(reports)
    warnings = [f"joined by force: {difference}" for difference in differences]
    warnings.append(_WITHIN_RUNS)
    warnings.append("agreement, SQNR and cosine are against the baseline of the variant's own run")
    warnings += [f"{name}: {warning}" for name, report in reports.items() for warning in report.warnings]
    return Report(
        model_name=first.model_name,
        model_hash=first.model_hash,
        evaluations=tuple(
            _rename(name, report, evaluation, first)
            for name, report in reports.items()
            for evaluation in report.evaluations
        ),
        dataset=first.dataset,
        environment=_merge({name: report.environment for name, report in reports.items()}),
        preprocessing=first.preprocessing,
        calibration=_merge({name: _texts(report.calibration) for name, report in reports.items()}),
        skipped=_merge({name: report.skipped for name, report in reports.items()}),
        range_methods=first.range_methods if shares_table else {},
        float_tensors=_merge({name: report.float_tensors for name, report in reports.items()}),
        plan=first.plan if shares_table else None,
        sensitivity=first.sensitivity if shares_table else None,
        warnings=tuple(warnings),
        timing_warnings=(_WITHIN_RUNS, *(f"{n}: {w}" for n, report in reports.items() for w in report.timing_warnings)),
        created=max(report.created for report in reports.values()),
        task=first.task,
        score=first.score,
        planned_samples=max((report.planned_samples or 0 for report in reports.values()), default=0) or None,
        classes=_join_classes(reports),
        changes=_join_entries({name: report.changes for name, report in reports.items()}),
        num_changes={
            f"{name}/{variant}": counts
            for name, report in reports.items()
            for variant, counts in report.num_changes.items()
        },
        tensors=_join_entries({name: report.tensors for name, report in reports.items()}),
        layers=_join_entries({name: report.layers for name, report in reports.items()}),
        commands=tuple(dict.fromkeys(command for report in reports.values() for command in report.commands)),
    )


def _differences(first_name: str, first: Report, name: str, report: Report) -> list[str]:
    found = []
    if report.model_hash != first.model_hash:
        found.append(
            f"{first_name} is of model {first.model_name} ({first.model_hash[:12]}), "
            f"{name} of {report.model_name} ({report.model_hash[:12]})"
        )
    if report.dataset.get("fingerprint") != first.dataset.get("fingerprint"):
        found.append(f"{first_name} is on data {_describe_data(first)}, {name} on {_describe_data(report)}")
    if report.preprocessing != first.preprocessing:
        found.append(f"{first_name} and {name} prepared the images differently")
    if (report.task, report.score) != (first.task, first.score):
        found.append(f"{first_name} is judged by {_describe_score(first)}, {name} by {_describe_score(report)}")
    found += [
        f"{first_name} was scored with {fact.replace('_', ' ')} {mine}, {name} with {theirs}"
        for fact in _SCORING
        if (mine := first.dataset.get(fact)) != (theirs := report.dataset.get(fact))
    ]
    for label, one in ((first_name, first), (name, report)):
        if one.is_partial:
            found.append(
                f"{label} is partial: {one.baseline.num_samples} of {one.planned_samples} samples; evaluate it again"
            )
    return found


def _is_of_one_table(reports: Mapping[str, Report]) -> bool:
    """Whether what calibration and `tune` chose is the same in all of them."""
    first, *others = ((r.calibration, r.range_methods, r.float_tensors, r.plan) for r in reports.values())
    return all(other == first for other in others)


def _describe_score(report: Report) -> str:
    return f"{'nothing' if report.score is None else report.score.label} (task {report.task})"


def _join_classes(reports: Mapping[str, Report]) -> tuple[ClassScore, ...]:
    """The classes of all runs by label, in the order in which they are met."""
    joined: dict[str, ClassScore] = {}
    for name, report in reports.items():
        for one in report.classes:
            scores = {f"{name}/{variant}": score for variant, score in one.scores.items()}
            known = joined.get(one.label)
            joined[one.label] = replace(one, scores={**(known.scores if known else {}), **scores})
    return tuple(joined.values())


def _join_entries(entries: Mapping[str, Sequence[_Entry]]) -> tuple[_Entry, ...]:
    """The entries of all runs, each with the new name of its variant."""
    return tuple(replace(e, variant=f"{name}/{e.variant}") for name, found in entries.items() for e in found)


def _describe_data(report: Report) -> str:
    facts = report.dataset
    return f"{facts.get('name')} ({facts.get('num_samples')} samples, {str(facts.get('fingerprint'))[:12]})"


def _rename(name: str, report: Report, evaluation: Evaluation, first: Report) -> Evaluation:
    metrics = evaluation.metrics
    score = "top1" if first.score is None else first.score.name
    if report.baseline.metrics.get(score) != first.baseline.metrics.get(score):
        paired = {*_PAIRED, f"{score}_difference_low", f"{score}_difference_high"}
        metrics = {key: value for key, value in metrics.items() if key not in paired}
    return replace(
        evaluation, name=f"{name}/{evaluation.name}", backend=f"{evaluation.backend} (run {name})", metrics=metrics
    )


def _merge(mappings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A value that all runs share as it is; otherwise each run's."""
    merged = {}
    for key in dict.fromkeys(key for mapping in mappings.values() for key in mapping):
        values = {name: mapping[key] for name, mapping in mappings.items() if key in mapping}
        same = len(values) == len(mappings) and len(set(values.values())) == 1
        merged[key] = next(iter(values.values())) if same else "; ".join(f"{n}: {v}" for n, v in values.items())
    return merged


def _texts(facts: Mapping[str, str | int | float | bool | None]) -> dict[str, str]:
    return {key: str(value) for key, value in facts.items() if value is not None}
