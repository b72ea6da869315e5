"""Limits checked on a report: the gate of a continuous integration. Runs nothing itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantkit.datasets.description import how_to_label
from quantkit.errors import EvaluationError, GateFailedError
from quantkit.evaluation.limits import GATES, Drop, Limits
from quantkit.paired_statistics import samples_to_tell
from quantkit.significance import (
    DIFFERING,
    agreement_interval,
    compare_speed,
    loss_interval,
    names_one_class,
    samples_to_tell_score,
)
from quantkit.types import Evaluation, GateCheck, PathLike, Report, Score
from quantkit.types.gate_check import GateKind
from quantkit.urls import data_path

_ROUNDING = 1e-9
"""0.81 - 0.805 is a little more than 0.005 in binary; a limit that is just kept is kept."""

_SETTLE = "a longer --latency-s"


def check_limits(report: Report, limits: Limits, *, variants: Sequence[str] = ()) -> tuple[GateCheck, ...]:
    """Checks each limit on each variant.

    A number that is missing is an error, never a pass; so are a speed without an interval or on a device that the
    variant is not made for, the agreement with a baseline that always names one class, and a report that is partial. A
    speed that is not settled (see `SpeedVerdict`) passes only where its whole interval meets the limit.

    Args:
        report: what was measured.
        limits: at least one.
        variants: names; none takes every INT8 variant.

    Raises:
        EvaluationError: no limit, no such variant, a limit whose number the report does not hold, a partial report.
    """
    if not limits:
        raise EvaluationError("no limits: pass --max-drop, --gate, --min-speedup, --min-agreement or --max-size-ratio")
    if report.is_partial and not limits.allow_partial:
        raise EvaluationError(
            f"the report of {report.model_name} is partial: it was interrupted after {report.baseline.num_samples} of "
            f"{report.planned_samples} samples; evaluate again, or pass --allow-partial"
        )
    checks = []
    for evaluation in _choose(report, variants):
        if limits.max_drop is not None:
            option = f"--max-drop {limits.max_drop}"
            checks.append(_check_drop(report, evaluation, limits.max_drop, option, confident=limits.confident))
        for name in dict.fromkeys(limits.gates):
            drop = Drop(100 * GATES[name], "%")
            checks.append(_check_drop(report, evaluation, drop, f"--gate {name}", confident=limits.confident))
        if limits.min_agreement is not None:
            checks.append(_check_agreement(report, evaluation, limits.min_agreement, confident=limits.confident))
        if limits.min_speedup is not None:
            checks.append(_check_speedup(report, evaluation, limits.min_speedup, limits))
        if limits.max_size_ratio is not None:
            checks.append(_check_size(report, evaluation, limits.max_size_ratio))
    return tuple(checks)


def check_unlabeled(limits: Limits, data: PathLike) -> None:
    """Raises `EvaluationError` where a limit concerns a score, which data without labels have not."""
    if limits.max_drop is not None or limits.gates:
        option = "--gate" if limits.max_drop is None else "--max-drop"
        raise EvaluationError(
            f"{option}: {data_path(data)} has no labels: {how_to_label(data)}; or use --min-agreement"
        )


def require_passed(checks: Sequence[GateCheck]) -> None:
    """Raises `GateFailedError` where a check failed: it names the first one and counts the others."""
    failed = [check for check in checks if not check.passed]
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise GateFailedError(f"gate failed: {failed[0].variant} violates {failed[0].limit}{more}")


def _choose(report: Report, variants: Sequence[str]) -> list[Evaluation]:
    by_name = {e.name: e for e in report.evaluations}
    by_lower = {name.lower(): name for name in by_name}
    variants = [name if name in by_name else by_lower.get(name.lower(), name) for name in variants]
    for name in variants:
        if name not in by_name:
            raise EvaluationError(f"variant {name!r} is not in the report of {report.model_name}: {_list(by_name)}")
        if by_name[name] is report.baseline:
            raise EvaluationError(f"variant {name!r} is the baseline: there is nothing to compare it with")
    chosen = [by_name[name] for name in dict.fromkeys(variants)]
    chosen = chosen or [e for e in report.evaluations[1:] if e.is_quantized]
    if not chosen:
        raise EvaluationError(
            f"the report of {report.model_name} has no quantized variant to gate, only {_list(by_name)}: "
            "evaluate with a calibration table, or name the variant to gate"
        )
    return chosen


def _check_drop(report: Report, evaluation: Evaluation, limit: Drop, option: str, *, confident: bool) -> GateCheck:
    score = report.score
    if score is None:
        raise EvaluationError(
            f"{option}: the report of {report.model_name} has no score: the data had no labels, or the task was none"
        )
    why = "the data had no labels" if score.name == "top1" else "the task did not compute it"
    base, value = (_metric(report, e, score.name, option, why) for e in (report.baseline, evaluation))
    mark = limit.mark(score)
    if mark == "%" and base <= 0:
        raise EvaluationError(
            f"{option}: {report.baseline.name} has {score.label} {_show(score, base)}, of which no part can be taken"
        )
    part, hundred = (base if mark == "%" else 1.0), (100 if mark else 1)
    loss, bound = (base - value if score.higher_is_better else value - base) / part, limit.number / hundred
    interval, remedy = loss_interval(report, evaluation), None
    if interval is None and confident:
        raise EvaluationError(
            f"--confident: {evaluation.name} has no {score.label} interval in the report{_differing(evaluation)}: "
            "evaluate on more samples, or judge it by the score alone"
        )
    words = f"{score.label} {'drop' if score.higher_is_better else 'rise'} {_digits(hundred * loss, mark)}{mark}"
    words += f" (from {_show(score, base)} to {_show(score, value)}"
    if interval is not None:
        interval = interval[0] / part, interval[1] / part
        words += f", 95% interval {' to '.join(_digits(hundred * end, mark) for end in interval)}{mark}"
        distance, width = _distance(loss, bound, interval)
        remedy = samples_to_tell_score(report, evaluation, distance * part, width * part)
    words += "" if interval is not None else ", no interval"
    found = _Comparison(loss, bound, interval, confident=confident)
    return _judge(evaluation, "drop", option, f"{words})", found, remedy=_samples(remedy))


def _check_agreement(report: Report, evaluation: Evaluation, limit: float, *, confident: bool) -> GateCheck:
    option = f"--min-agreement {limit:g}"
    agreement = _metric(report, evaluation, "agreement", option, "the model has no class scores")
    if names_one_class(report):
        raise EvaluationError(
            f"{option}: {report.baseline.name} names a single class on all {report.baseline.num_samples:,} samples, so "
            "that agreeing with it says nothing: check model and preprocessing, or judge labeled data by --max-drop"
        )
    words = f"agreement with {report.baseline.name} {agreement:.4f}"
    interval = agreement_interval(report, evaluation)
    if interval is None:
        if confident:
            raise EvaluationError(
                f"--confident: the agreement of task {report.task} is not a fraction of samples and has no interval: "
                "check it without --confident"
            )
        words += f" ({evaluation.num_samples} samples, no interval)"
        return _judge(evaluation, "agreement", option, words, _Comparison(agreement, limit, at_least=True))
    words += f" (95% interval {interval[0]:.4f} to {interval[1]:.4f}, {evaluation.num_samples} samples)"
    distance, width = _distance(agreement, limit, interval)
    remedy = _samples(samples_to_tell(distance, width, num_samples=evaluation.num_samples))
    found = _Comparison(agreement, limit, interval, at_least=True, confident=confident)
    return _judge(evaluation, "agreement", option, words, found, remedy=remedy)


def _check_speedup(report: Report, evaluation: Evaluation, limit: float, limits: Limits) -> GateCheck:
    option = f"--min-speedup {limit:g}" + ("" if limits.at_batch is None else f" --at-batch {limits.at_batch}")
    latency = report.latency_at(evaluation, limits.at_batch)
    speedup = report.speedup(evaluation, limits.at_batch)
    reference = report.speed_reference(evaluation, limits.at_batch)
    if latency is None or speedup is None or reference is None:
        timed = ", ".join(str(timed.batch_size) for timed in evaluation.latencies)
        if timed:
            raise EvaluationError(
                f"{option}: {evaluation.name} was only timed at batch size {timed}: evaluate with --batch-sizes"
            )
        raise EvaluationError(f"{option}: {evaluation.name} was not timed: evaluate without --latency-s 0")
    _check_comparable(evaluation, reference, option)
    interval = latency.speedup_interval
    if interval is None:
        raise EvaluationError(
            f"{option}: the report has no interval of {evaluation.name}'s speed-up, which may be noise: evaluate with "
            f"{_SETTLE}"
        )
    words = f"speed-up {speedup:.3g}x over {reference.name} on {evaluation.backend}"
    details = [] if limits.at_batch is None else [f"batch size {latency.batch_size}"]
    details.append(f"95% interval {interval[0]:.3g} to {interval[1]:.3g}")
    words += f" ({', '.join(details)})"
    is_unsettled = compare_speed(report, evaluation, limits.at_batch).kind == "unsettled"
    found = _Comparison(speedup, limit, interval, at_least=True, confident=limits.confident or is_unsettled)
    check = _judge(evaluation, "speedup", option, words, found, remedy=_SETTLE, is_unsettled=is_unsettled)
    if limits.at_batch is not None:
        return check
    others = (compare_speed(report, evaluation, timed.batch_size) for timed in evaluation.sweep)
    sizes = [
        f"{verdict.speedup:.3g}x at {timed.batch_size}"
        for timed, verdict in zip(evaluation.sweep, others, strict=True)
        if verdict.speedup is not None and verdict.interval is not None and _contradicts(check, verdict.interval)
    ]
    if not sizes:
        return check
    words = f"; other batch sizes contradict it: {', '.join(sizes)} (--at-batch chooses one)"
    return replace(check, finding=check.finding + words)


def _contradicts(check: GateCheck, interval: tuple[float, float]) -> bool:
    """Whether the whole interval lies on the other side of the limit."""
    return interval[1] < check.bound if check.passed else interval[0] > check.bound


def _check_comparable(evaluation: Evaluation, reference: Evaluation, option: str) -> None:
    if not evaluation.representative:
        raise EvaluationError(
            f"{option}: {evaluation.name} was timed on a device it is not made for ({evaluation.backend}), which "
            "says nothing about its speed: gate another variant, such as int8-cpu or an engine"
        )
    if reference is evaluation or reference.is_quantized:
        raise EvaluationError(
            f"{option}: no float variant was timed as {evaluation.name} was ({evaluation.backend}): times of different "
            "devices are not comparable; evaluate with a float model or engine there"
        )
    if not reference.representative:
        raise EvaluationError(
            f"{option}: {reference.name}, with which {evaluation.name} is compared, was timed on a device that it is "
            "not made for: put the float variant that you would ship first"
        )


def _check_size(report: Report, evaluation: Evaluation, limit: float) -> GateCheck:
    if not report.baseline.size_bytes or not evaluation.size_bytes:
        raise EvaluationError(f"--max-size-ratio {limit:g}: the report does not contain the model sizes")
    ratio = evaluation.size_bytes / report.baseline.size_bytes
    words = f"size {ratio:.3g} of {report.baseline.name} ({evaluation.size_bytes / 1e6:.3g} MB)"
    return _judge(evaluation, "size", f"--max-size-ratio {limit:g}", words, _Comparison(ratio, limit))


@dataclass(frozen=True)
class _Comparison:
    """A measured value beside its limit.

    Attributes:
        value: the estimate.
        bound: what it must not exceed, or fall below if `at_least`.
        interval: its 95% interval.
        at_least: which side of the bound is allowed.
        confident: the unfavorable end of the interval must meet the limit, not the estimate alone.
    """

    value: float
    bound: float
    interval: tuple[float, float] | None = None
    at_least: bool = False
    confident: bool = False

    @property
    def compared(self) -> float:
        """The estimate, or the end of its interval that must meet the limit."""
        if self.interval is None or not self.confident:
            return self.value
        return self.interval[0 if self.at_least else 1]


def _judge(
    evaluation: Evaluation,
    kind: GateKind,
    limit: str,
    words: str,
    found: _Comparison,
    *,
    remedy: str = "more samples",
    is_unsettled: bool = False,
) -> GateCheck:
    compared, bound, interval = found.compared, found.bound, found.interval
    slack = _ROUNDING * max(1.0, abs(bound))
    passed = compared >= bound - slack if found.at_least else compared <= bound + slack
    undecided = interval is not None and interval[0] < bound - slack and interval[1] > bound + slack
    finding = f"{words} {'meets' if passed else 'violates'} {limit}"
    if compared != found.value:
        finding += f" at the end of the interval{'' if is_unsettled else ' (--confident)'}"
    if undecided and is_unsettled:
        finding += f"; not settled: {remedy} needed"
    elif undecided:
        finding += f"; undecided: the interval includes the limit ({remedy} needed)"
    return GateCheck(
        variant=evaluation.name,
        kind=kind,
        limit=limit,
        passed=passed,
        value=found.value,
        bound=bound,
        undecided=undecided,
        finding=finding,
        interval=interval,
    )


def _distance(value: float, bound: float, interval: tuple[float, float]) -> tuple[float, float]:
    """From the value to the bound, and to the end of its interval on that side."""
    return abs(value - bound), interval[1] - value if value < bound else value - interval[0]


def _samples(needed: int | None) -> str:
    return "more samples" if needed is None else f"about {needed:,} samples"


def _metric(report: Report, evaluation: Evaluation, name: str, option: str, why: str) -> float:
    value = evaluation.metrics.get(name)
    if value is None or not math.isfinite(value):
        state = "no" if value is None else f"{name} {value}, which is no"
        raise EvaluationError(
            f"{option}: {evaluation.name} has {state} {name if value is None else 'number'} in the report of "
            f"{report.model_name}: {why}"
        )
    return value


def _differing(evaluation: Evaluation) -> str:
    count = evaluation.metrics.get(DIFFERING)
    return "" if count is None else f" ({count:,.0f} of {evaluation.num_samples:,} samples differ)"


def _show(score: Score, value: float) -> str:
    return f"{_digits(100 * value, '%')}%" if score.is_fraction else _digits(value, "")


def _digits(number: float, mark: str) -> str:
    """Two decimals of percent and points; of a score's own unit four digits."""
    text = f"{number:.2f}" if mark else f"{number:.4g}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def _list(names: Sequence[str] | dict[str, Evaluation]) -> str:
    return ", ".join(names)
