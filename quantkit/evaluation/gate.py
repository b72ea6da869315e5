"""Limits that a variant must keep, checked on a report: the gate of a continuous integration. Runs nothing itself."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.errors import EvaluationError, GateFailedError
from quantkit.types import Evaluation, GateCheck, Report

__all__ = ["Drop", "Limits", "check_limits", "parse_drop", "require_passed"]

_DROP = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>pt|%|)")
_ROUNDING = 1e-9
"""0.81 - 0.805 is a little more than 0.005 in binary; a limit that is just kept is kept."""

_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class Drop:
    """How much top-1 accuracy may be lost.

    Attributes:
        fraction: 0.005 is half a point, or half a percent of the baseline's accuracy.
        is_relative: whether `fraction` is of the baseline's accuracy, as in MLPerf's "99 % of FP32".
    """

    fraction: float
    is_relative: bool

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise EvaluationError(f"--max-drop {self} must be from 0 to 100")

    def __str__(self) -> str:
        return f"{100 * self.fraction:g}{'%' if self.is_relative else 'pt'}"


@dataclass(frozen=True)
class Limits:
    """What a variant must keep; None is no limit.

    Attributes:
        max_drop: largest loss of top-1 accuracy against the baseline.
        min_speedup: smallest speed-up over the first variant of the same backend.
        min_agreement: smallest share of samples with the baseline's class, a fraction of 1.
        max_size_ratio: largest size over the baseline's.
        confident: the worse end of the 95 % interval must keep `max_drop` and `min_agreement`, not the estimate alone.
    """

    max_drop: Drop | None = None
    min_speedup: float | None = None
    min_agreement: float | None = None
    max_size_ratio: float | None = None
    confident: bool = False

    def __post_init__(self) -> None:
        for name in ("min_speedup", "max_size_ratio"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise EvaluationError(f"--{name.replace('_', '-')} {value} must be a positive number")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise EvaluationError(f"--min-agreement {self.min_agreement} must be a fraction from 0 to 1, such as 0.98")
        if self.confident and self.max_drop is None and self.min_agreement is None:
            raise EvaluationError("--confident needs a limit that has an interval: --max-drop or --min-agreement")

    def __bool__(self) -> bool:
        return any(v is not None for v in (self.max_drop, self.min_speedup, self.min_agreement, self.max_size_ratio))


def parse_drop(text: str) -> Drop:
    """Reads "0.5pt" or "0.5" (points of top-1) and "1%" (of the baseline's top-1).

    >>> parse_drop("0.5pt"), parse_drop("1%")
    (Drop(fraction=0.005, is_relative=False), Drop(fraction=0.01, is_relative=True))

    Raises:
        EvaluationError: another spelling, or a number above 100.
    """
    match = _DROP.fullmatch(text.strip())
    if match is None:
        raise EvaluationError(
            f"--max-drop {text!r} is neither points of top-1, such as 0.5pt, nor relative, such as 1%"
        )
    return Drop(float(match["number"]) / 100, is_relative=match["unit"] == "%")


def check_limits(report: Report, limits: Limits, *, variants: Sequence[str] = ()) -> tuple[GateCheck, ...]:
    """Checks each limit on each variant.

    A number that is missing is an error, never a pass; so is a speed on a device that the variant is not made for.

    Args:
        report: what was measured.
        limits: at least one.
        variants: names; none takes every INT8 variant.

    Raises:
        EvaluationError: no limit, no such variant, or a limit whose number the report does not hold.
    """
    if not limits:
        raise EvaluationError(
            "the gate has no limit: give --max-drop, --min-speedup, --min-agreement or --max-size-ratio"
        )
    checks = []
    for evaluation in _choose(report, variants):
        if limits.max_drop is not None:
            checks.append(_check_drop(report, evaluation, limits.max_drop, confident=limits.confident))
        if limits.min_agreement is not None:
            checks.append(_check_agreement(report, evaluation, limits.min_agreement, confident=limits.confident))
        if limits.min_speedup is not None:
            checks.append(_check_speedup(report, evaluation, limits.min_speedup))
        if limits.max_size_ratio is not None:
            checks.append(_check_size(report, evaluation, limits.max_size_ratio))
    return tuple(checks)


def require_passed(checks: Sequence[GateCheck]) -> None:
    """Raises `GateFailedError` with the sentence of each check that failed."""
    failed = [check.sentence for check in checks if not check.passed]
    if failed:
        raise GateFailedError(f"gate failed: {'; '.join(failed)}")


def _choose(report: Report, variants: Sequence[str]) -> list[Evaluation]:
    by_name = {e.name: e for e in report.evaluations}
    for name in variants:
        if name not in by_name:
            raise EvaluationError(f"variant {name!r} is not in the report of {report.model_name}: {_list(by_name)}")
        if by_name[name] is report.baseline:
            raise EvaluationError(f"variant {name!r} is the baseline: there is nothing to compare it with")
    chosen = [by_name[name] for name in dict.fromkeys(variants)]
    chosen = chosen or [e for e in report.evaluations[1:] if e.precision == "int8"]
    if not chosen:
        raise EvaluationError(
            f"the report of {report.model_name} has no INT8 variant to gate, only {_list(by_name)}: "
            "evaluate with a calibration table, or name the variant to gate"
        )
    return chosen


def _check_drop(report: Report, evaluation: Evaluation, limit: Drop, *, confident: bool) -> GateCheck:
    base = _metric(report, report.baseline, "top1", "max-drop", "the data had no labels")
    top1 = _metric(report, evaluation, "top1", "max-drop", "the data had no labels")
    if limit.is_relative and base <= 0:
        raise EvaluationError(f"--max-drop {limit}: {report.baseline.name} has no sample right, of which to take 1 %")
    unit = base if limit.is_relative else 1.0
    interval: tuple[float, float] | None = None
    ends = [evaluation.metrics.get(f"top1_difference_{end}") for end in ("high", "low")]
    if confident or None not in ends:
        why = "the report holds no interval"
        low, high = (_metric(report, evaluation, f"top1_difference_{e}", "confident", why) for e in ("high", "low"))
        interval = (-low / unit, -high / unit)
    drop, mark = (base - top1) / unit, "%" if limit.is_relative else "pt"
    compared = interval[1] if confident and interval else drop
    words = f"top-1 drop {_hundredths(drop)}{mark} (from {_hundredths(base)} % to {_hundredths(top1)} %"
    if interval:
        words += f", 95 % interval {_hundredths(interval[0])} to {_hundredths(interval[1])}{mark}"
    return _judge(evaluation, f"--max-drop {limit}", words + ")", drop, limit.fraction, interval, compared=compared)


def _check_agreement(report: Report, evaluation: Evaluation, limit: float, *, confident: bool) -> GateCheck:
    agreement = _metric(report, evaluation, "agreement", "min-agreement", "the model has no class scores")
    interval = _wilson(agreement, evaluation.num_samples)
    words = (
        f"agreement with {report.baseline.name} {agreement:.4f} "
        f"(95 % interval {interval[0]:.4f} to {interval[1]:.4f}, {evaluation.num_samples} samples)"
    )
    compared = interval[0] if confident else agreement
    return _judge(
        evaluation, f"--min-agreement {limit:g}", words, agreement, limit, interval, compared=compared, at_least=True
    )


def _check_speedup(report: Report, evaluation: Evaluation, limit: float) -> GateCheck:
    option = f"--min-speedup {limit:g}"
    speedup, reference = report.speedup(evaluation), report.speed_reference(evaluation)
    if speedup is None or reference is None:
        raise EvaluationError(f"{option}: {evaluation.name} was not timed: evaluate without --latency-s 0")
    if not evaluation.representative:
        raise EvaluationError(
            f"{option}: {evaluation.name} was timed on a device that it is not made for ({evaluation.backend}), which "
            "says nothing about its speed: gate another variant, such as int8-cpu or an engine"
        )
    if reference is evaluation or reference.precision == "int8":
        raise EvaluationError(
            f"{option}: no float variant was timed as {evaluation.name} was ({evaluation.backend}): times of different "
            "devices are not comparable; evaluate with a float model or engine there"
        )
    if not reference.representative:
        raise EvaluationError(
            f"{option}: {reference.name}, with which {evaluation.name} is compared, was timed on a device that it is "
            "not made for: put the float variant that you would ship first"
        )
    words = f"speed-up {speedup:.3g}x over {reference.name} on {evaluation.backend}"
    return _judge(evaluation, option, words, speedup, limit, None, compared=speedup, at_least=True)


def _check_size(report: Report, evaluation: Evaluation, limit: float) -> GateCheck:
    if not report.baseline.size_bytes or not evaluation.size_bytes:
        raise EvaluationError(f"--max-size-ratio {limit:g}: the report does not hold the sizes of the models")
    ratio = evaluation.size_bytes / report.baseline.size_bytes
    words = f"size {ratio:.3g} of {report.baseline.name} ({evaluation.size_bytes / 1e6:.3g} MB)"
    return _judge(evaluation, f"--max-size-ratio {limit:g}", words, ratio, limit, None, compared=ratio)


def _judge(
    evaluation: Evaluation,
    limit: str,
    words: str,
    value: float,
    bound: float,
    interval: tuple[float, float] | None,
    *,
    compared: float,
    at_least: bool = False,
) -> GateCheck:
    """`compared` is the estimate, or the end of its interval that must keep the limit."""
    passed = compared >= bound - _ROUNDING if at_least else compared <= bound + _ROUNDING
    undecided = interval is not None and interval[0] < bound - _ROUNDING and interval[1] > bound + _ROUNDING
    verdict = "keeps" if passed else "breaks"
    sentence = f"{evaluation.name}: {words} {verdict} {limit}"
    if undecided and compared == value:
        sentence += "; the interval crosses the limit: more samples would decide"
    elif compared != value:
        sentence += " at the end of the interval (--confident)"
    return GateCheck(
        variant=evaluation.name,
        limit=limit,
        passed=passed,
        value=value,
        bound=bound,
        undecided=undecided,
        sentence=sentence,
        interval=interval,
    )


def _metric(report: Report, evaluation: Evaluation, name: str, option: str, why: str) -> float:
    value = evaluation.metrics.get(name)
    if value is None or not math.isfinite(value):
        state = "no" if value is None else f"{name} {value}, which is no"
        raise EvaluationError(
            f"--{option}: {evaluation.name} has {state} {name if value is None else 'number'} in the report of "
            f"{report.model_name}: {why}"
        )
    return value


def _wilson(share: float, num_samples: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927): unlike Wald's it is not ±0 where all samples agree."""
    if num_samples < 1:
        raise EvaluationError("the report says that no samples were evaluated")
    z = _NORMAL_975**2 / num_samples
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(max(z * share * (1 - share) + z * z / 4, 0.0)) / (1 + z)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _hundredths(fraction: float) -> str:
    text = f"{100 * fraction:.2f}"
    return "0.00" if text == "-0.00" else text


def _list(names: Sequence[str] | dict[str, Evaluation]) -> str:
    return ", ".join(names)
