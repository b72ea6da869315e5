"""The decision that a report supports, in one line: ship, do not ship or not settled, for whom and by which limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantkit.notices import plural
from quantkit.paired_statistics import is_chance
from quantkit.reporting.formatting import single_line
from quantkit.significance import CLOSE, FEWEST_SAMPLES, compare_accuracy, compare_speed, names_one_class
from quantkit.types import Evaluation, Report, title_of
from quantkit.types.options import Target

Word = Literal["ship", "do not ship", "not settled"]

_LIMITS = f"at most {100 * CLOSE:.3g}% below {{baseline}}, and faster, by the whole 95% interval"
_PLACES: dict[Target, str] = {"tensorrt": "TensorRT", "cpu": "the CPU"}
EXPECTED = "expected on TensorRT"
"""What is said of a variant for which `is_expected`."""


@dataclass(frozen=True)
class Decision:
    """What a team can do with a variant.

    Attributes:
        target: what it is deployed on.
        variant: that is judged; empty where there is none for this target.
        word: the decision.
        sentence: all of it, with the reason and the limits.
    """

    target: Target
    variant: str
    word: Word
    sentence: str


def decide(report: Report) -> Decision | None:
    """The decision for `report.deploy`; without it for an engine, else what was timed on this CPU, else for TensorRT.

    Returns:
        None without a quantized variant.
    """
    found = [e for e in report.evaluations[1:] if e.is_quantized]
    if not found:
        return None
    target: Target = report.deploy or _guess(found)
    place = _PLACES[target]
    candidates = [e for e in found if target in _targets(e)]
    if not candidates:
        # For the CPU there is INT8 alone: what was evaluated may be in formats of GPUs.
        words = "INT8" if target == "cpu" else title_of(e.precision for e in found)
        return Decision(
            target, "", "not settled", f"For {place}: not settled: no {words} variant for it was evaluated."
        )
    judged = [(_judge(report, evaluation, target), evaluation) for evaluation in candidates]
    order: tuple[Word, ...] = ("ship", "not settled", "do not ship")
    (word, reason), evaluation = min(judged, key=lambda pair: order.index(pair[0][0]))
    name = single_line(evaluation.name)
    has_kept = report.float_tensors and evaluation.precision == "int8" and evaluation.target != "cpu"
    kept = f"; {plural(len(report.float_tensors), 'activation')} left in float" if has_kept else ""
    kept += f" ({len(report.plan.float_tensors)} by tune)" if kept and report.plan else ""
    limits = _LIMITS.format(baseline=single_line(report.baseline.name))
    head = f"{word} {name}" if word != "not settled" else f"not settled for {name}"
    return Decision(target, name, word, f"For {place}: {head}: {reason}{kept}. Limits: {limits}.")


def is_expected(report: Report, evaluation: Evaluation) -> bool:
    """Whether a variant, quantkit's or the user's own, is in a form for TensorRT, and ONNX Runtime alone ran it."""
    is_for_tensorrt = evaluation is not report.baseline and evaluation.target == "tensorrt"
    return is_for_tensorrt and not _ran_on_tensorrt(evaluation)


def chance_level(report: Report) -> float | None:
    """Accuracy of guessing, where the baseline's cannot be told from it; None otherwise."""
    top1, classes = report.baseline.metrics.get("top1"), report.baseline.metrics.get("num_classes", 0)
    count = report.baseline.num_samples
    # A handful of samples cannot tell an untrained model from a good one with bad luck.
    if top1 is None or classes < 2 or count < FEWEST_SAMPLES:
        return None
    return 1 / classes if is_chance(top1, num_classes=classes, num_samples=count) else None


def _guess(found: list[Evaluation]) -> Target:
    if any(_ran_on_tensorrt(e) for e in found):
        return "tensorrt"
    is_timed = any(e.representative and e.latency is not None for e in found)
    return "cpu" if is_timed or all(_targets(e) == ("cpu",) for e in found) else "tensorrt"


def _targets(evaluation: Evaluation) -> tuple[Target, ...]:
    """Engines are for TensorRT, models for what their form tells; where it does not tell, for either."""
    target = "tensorrt" if _ran_on_tensorrt(evaluation) else evaluation.target
    return ("tensorrt", "cpu") if target is None else (target,)


def _ran_on_tensorrt(evaluation: Evaluation) -> bool:
    """An engine; not a model that ONNX Runtime ran on the GPU."""
    return evaluation.device == "gpu" and evaluation.representative


def _judge(report: Report, evaluation: Evaluation, target: Target) -> tuple[Word, str]:
    """The decision and why; what fails goes before what is not known."""
    accuracy, accuracy_words = _accuracy(report, evaluation)
    if target == "tensorrt" and accuracy != "not settled" and not _ran_on_tensorrt(evaluation):
        accuracy_words += f" ({EXPECTED}, where it has not run)"
    speed, speed_words = _speed(report, evaluation, target)
    found = ((accuracy, accuracy_words), (speed, speed_words))
    met = [words for word, words in found if word == "ship"]
    for wanted in ("do not ship", "not settled"):
        if reasons := [words for word, words in found if word == wanted]:
            return wanted, ", but ".join([*met, " and ".join(reasons)])
    return "ship", " and ".join(met)


def _accuracy(report: Report, evaluation: Evaluation) -> tuple[Word, str]:
    if evaluation.metrics.get("non_finite", 0) > 0:
        return "do not ship", "its outputs are NaN or infinite"
    baseline = single_line(report.baseline.name)
    if names_one_class(report):
        return "not settled", f"{baseline} names a single class on all samples"
    if chance_level(report) is not None:
        return "not settled", f"{baseline} is no better than chance"
    verdict = compare_accuracy(report, evaluation)
    if verdict.kind in ("within", "better"):
        return "ship", "accurate enough"
    if verdict.is_beyond_margin:
        return "do not ship", "it loses too much accuracy"
    if verdict.kind == "unknown":
        return "not settled", "its accuracy has no score" if report.score is None else "its accuracy has no interval"
    needed = f" (about {verdict.needed:,} samples would)" if verdict.needed else ""
    return "not settled", f"the samples do not settle its accuracy{needed}"


def _speed(report: Report, evaluation: Evaluation, target: Target) -> tuple[Word, str]:
    is_elsewhere = target == "tensorrt" and not _ran_on_tensorrt(evaluation)
    if is_elsewhere or evaluation.latency is None:
        how = "build an engine and pass --engine" if is_elsewhere else "evaluate with --latency-s"
        return "not settled", f"its speed was not measured there ({how})"
    kind = compare_speed(report, evaluation).kind
    if kind == "faster":
        return "ship", "faster"
    if kind in ("slower", "same"):
        return "do not ship", "it is not faster"
    return "not settled", "its speed is not settled (use a longer --latency-s)"
