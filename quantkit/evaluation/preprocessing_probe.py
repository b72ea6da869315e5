"""Tries other preprocessings than the declared one on a model, and names the one that fits clearly better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantkit.datasets import Selection
from quantkit.datasets.alternatives import Alternative, other_resizes, other_values
from quantkit.datasets.array_alternatives import ArrayAlternative, other_array_values
from quantkit.datasets.batching import make_batches
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.lint import Finding
from quantkit.errors import EvaluationError
from quantkit.evaluation.preprocessing_score import (
    PreprocessingScore,
    advantage,
    gain_interval,
    is_clearly_better,
    may_be_better,
    score_preprocessing,
)
from quantkit.paired_statistics import is_chance
from quantkit.progress import show_progress
from quantkit.types import Batch, Dataset, Preprocessing, Runner

AnyAlternative = Alternative | ArrayAlternative

_SAME = 2.0
"""Standard errors within which two alternatives fit alike, so that the smaller change is named."""


@dataclass(frozen=True)
class PreprocessingTrial:
    """One preprocessing on the model.

    Attributes:
        changes: what differs from the declared one; empty for itself.
        flags: the options that make it.
        top1: share of samples that are right, None without labels.
        information: nats; how confident and how various the predictions are.
        is_better: clearly better than the declared one.
        gain_interval: 95% interval of what it gains over the declared one: in top-1, without labels in nats.
    """

    changes: tuple[str, ...]
    flags: str
    top1: float | None
    information: float
    is_better: bool
    gain_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Probe:
    """What the model says under the declared preprocessing and under others.

    Attributes:
        num_samples: that were run each time.
        declared: the preprocessing as given.
        others: what was tried.
        best: of `others`, whether it is better or not; None where nothing else could be tried.
        num_settling: samples behind `declared` and `best`, more where the first ones did not settle it.
    """

    num_samples: int
    declared: PreprocessingTrial
    others: tuple[PreprocessingTrial, ...]
    best: PreprocessingTrial | None = None
    num_settling: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """What came of trying preprocessings.

    Attributes:
        probe: None where nothing could be tried.
        num_scores: how many classes the model scores; None where that was not found out.
        reason: why there is no probe; empty with one.
        findings: labels or a preprocessing that do not fit the model.
    """

    probe: Probe | None = None
    num_scores: int | None = None
    reason: str = ""
    findings: tuple[Finding, ...] = ()


def probe_preprocessing(
    runner: Runner,
    dataset: Dataset,
    samples: tuple[int, ...],
    *,
    more: Sequence[int] = (),
    workers: int | None,
    progress: bool,
) -> ProbeResult:
    """Scores the declared preprocessing and its alternatives on the same samples.

    Args:
        runner: of the float model.
        dataset: as declared.
        samples: indices of those that are run, all readable.
        more: others, which are run too while it is not settled whether the best alternative is better.
        workers: decoding threads.
        progress: show a progress bar on a terminal.
    """

    def read(chosen: tuple[int, ...], alternative: AnyAlternative | None = None) -> Iterator[Batch]:
        view = _view(dataset, chosen, alternative.preprocessing if isinstance(alternative, Alternative) else None)
        return make_batches(view, 32, strict=True, workers=workers, skipped={})

    def measure(alternative: AnyAlternative | None, chosen: tuple[int, ...] = samples) -> PreprocessingScore:
        batches: Iterable[Batch] = read(chosen, alternative)
        if isinstance(alternative, ArrayAlternative):
            batches = (replace(batch, inputs=alternative.apply(batch.inputs)) for batch in batches)
        return score_preprocessing(runner, batches)

    try:
        declared = measure(None)
    except EvaluationError as error:
        return ProbeResult(reason=str(error))
    num_scores = declared.probabilities.shape[1]
    declared_as = dataset.preprocessing
    first, reason = _first_alternatives(declared_as, lambda: next(read(samples[:16])))
    if reason and not first:
        return ProbeResult(num_scores=num_scores, reason=reason)
    unlabeled = declared.targets is not None and int(declared.targets.max()) >= num_scores
    with show_progress(None, "trying preprocessings", len(first) + 4, progress) as bar:
        tried = _measure_all(measure, first, bar)
        best = _choose_best(tried, declared, unlabeled=unlabeled)
        if declared_as is not None:
            base = best.preprocessing if isinstance(best, Alternative) else declared_as
            tried += _measure_all(measure, other_resizes(declared_as, base), bar)
        tried_first, declared_first = tried, declared
        leader = _leader(tried, declared, unlabeled=unlabeled)
        while leader is not None and more and may_be_better(*_pair(leader[1], declared, unlabeled)):
            samples, more = (*samples, *more[: len(samples)]), more[len(samples) :]
            declared = measure(None, samples)
            leader = leader[0], measure(leader[0], samples)
        if leader is not None and declared is not declared_first:
            tried = [leader]
    findings = []
    doubtful = not unlabeled and _is_chance(declared)
    best = _choose_best(tried, declared, unlabeled=unlabeled)
    if best is None and doubtful:
        unlabeled = True
        best = _choose_best(tried, declared, unlabeled=True)
        findings.append(_labels_finding(declared))
    if best is not None:
        fit = next(fit for alternative, fit in tried if alternative is best)
        findings.append(_misfit(best, fit, declared, unlabeled=unlabeled))
    probe = Probe(
        num_samples=len(declared_first.probabilities),
        declared=_trial(None, declared, declared, unlabeled=unlabeled),
        others=tuple(_trial(a, f, declared_first, unlabeled=unlabeled) for a, f in tried_first),
        best=None if leader is None else _trial(*leader, declared, unlabeled=unlabeled),
        num_settling=len(samples),
    )
    return ProbeResult(probe, num_scores, findings=tuple(findings))


def _first_alternatives(
    declared: Preprocessing | None, read: Callable[[], Batch]
) -> tuple[Sequence[AnyAlternative], str]:
    """Other values than the declared ones, or than those of arrays; without any, the reason."""
    if declared is not None and declared.function is not None:
        return (), f"{declared.function} prepares the images"
    if declared is not None:
        return other_values(declared), ""
    return other_array_values(read().inputs), "arrays that do not look like images are fed as they are"


def _measure_all(
    measure: Callable[[AnyAlternative], PreprocessingScore], alternatives: Sequence[AnyAlternative], bar: Any
) -> list[tuple[AnyAlternative, PreprocessingScore]]:
    tried = []
    for alternative in alternatives:
        tried.append((alternative, measure(alternative)))
        bar.update(1)
    return tried


def _view(dataset: Dataset, samples: tuple[int, ...], preprocessing: Preprocessing | None) -> Dataset:
    if preprocessing is not None and isinstance(dataset, ImageFiles):
        dataset = replace(dataset, preprocessing=preprocessing)
    return Selection(dataset, samples)


def _choose_best(
    tried: Sequence[tuple[AnyAlternative, PreprocessingScore]], declared: PreprocessingScore, *, unlabeled: bool
) -> AnyAlternative | None:
    """Of those that are clearly better, the smallest change that fits as well as the best; None without one."""
    good = [_strip(f, unlabeled) for a, f in tried if _is_better(a, f, declared, unlabeled=unlabeled)]
    if not good:
        return None
    top = max(good, key=_value)
    # Among those that cannot be told from the best, also what alone is not yet clearly better than the declared one.
    alike = [a for a, f in tried if _strip(f, unlabeled) is top or advantage(top, _strip(f, unlabeled)) < _SAME]
    return min(alike, key=lambda a: len(a.changes))


def _is_better(
    alternative: AnyAlternative, fit: PreprocessingScore, declared: PreprocessingScore, *, unlabeled: bool
) -> bool:
    fit, declared = _strip(fit, unlabeled), _strip(declared, unlabeled)
    if _is_chance(fit):  # labels in another order make a wrong input luckier than the right one
        return False
    same_values = alternative.has_same_values
    return is_clearly_better(fit, declared, same_values=same_values)


def _leader(
    tried: Sequence[tuple[AnyAlternative, PreprocessingScore]], declared: PreprocessingScore, *, unlabeled: bool
) -> tuple[AnyAlternative, PreprocessingScore] | None:
    """The alternative that would be chosen; where none is clearly better, the one that gains most.

    One whose inputs are the declared ones is none: letterbox for images that have the model's size.
    """
    best = _choose_best(tried, declared, unlabeled=unlabeled)
    if best is not None:
        return next((a, f) for a, f in tried if a is best)
    others = [(a, f) for a, f in tried if not np.array_equal(f.probabilities, declared.probabilities)]
    return max(others, key=lambda pair: sum(gain_interval(*_pair(pair[1], declared, unlabeled))), default=None)


def _pair(
    fit: PreprocessingScore, declared: PreprocessingScore, unlabeled: bool
) -> tuple[PreprocessingScore, PreprocessingScore]:
    return _strip(fit, unlabeled), _strip(declared, unlabeled)


def _strip(fit: PreprocessingScore, unlabeled: bool) -> PreprocessingScore:
    return replace(fit, targets=None) if unlabeled and fit.targets is not None else fit


def _value(fit: PreprocessingScore) -> float:
    return fit.information if fit.targets is None else -float(fit.losses.mean())


def _is_chance(fit: PreprocessingScore) -> bool:
    """Whether guessing could be right as often; False without labels."""
    if fit.targets is None:
        return False
    return is_chance(float(fit.right.mean()), num_classes=fit.probabilities.shape[1], num_samples=len(fit.right))


def _trial(
    alternative: AnyAlternative | None, fit: PreprocessingScore, declared: PreprocessingScore, *, unlabeled: bool
) -> PreprocessingTrial:
    return PreprocessingTrial(
        changes=() if alternative is None else alternative.changes,
        flags="" if alternative is None else alternative.flags,
        top1=None if _strip(fit, unlabeled).targets is None else float(fit.right.mean()),
        information=fit.information,
        is_better=alternative is not None and _is_better(alternative, fit, declared, unlabeled=unlabeled),
        gain_interval=None if alternative is None else gain_interval(*_pair(fit, declared, unlabeled)),
    )


def _labels_finding(declared: PreprocessingScore) -> Finding:
    share = f"{100 * float(declared.right.mean()):.1f}% of {len(declared.right)} samples"
    return Finding(
        "warning",
        "labels",
        f"the model is right on {share}, as guessing would be, under every preprocessing that was tried",
        (),
        "pass the class names in the model's order with --classes, and check that the model is trained",
    )


def _misfit(best: AnyAlternative, fit: PreprocessingScore, declared: PreprocessingScore, *, unlabeled: bool) -> Finding:
    fit, declared = _strip(fit, unlabeled), _strip(declared, unlabeled)
    if fit.targets is not None:
        numbers = f"top-1 {100 * declared.right.mean():.1f}% → {100 * fit.right.mean():.1f}%"
    else:
        numbers = f"information of the predictions {declared.information:.2f} → {fit.information:.2f} nats"
    return Finding(
        "warning" if fit.targets is None else "error",
        "preprocessing",
        f"the model fits better with {' and '.join(best.changes)}: {numbers} on {len(fit.probabilities)} samples",
        (),
        best.flags if isinstance(best, ArrayAlternative) else f"use {best.flags}",
    )
