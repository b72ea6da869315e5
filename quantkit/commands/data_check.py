"""The check of a data set against a model: files, labels, and whether another preprocessing would fit better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets import Selection, describe, lint, select
from quantkit.datasets.alternatives import other_resizes, other_values
from quantkit.datasets.batching import make_batches
from quantkit.datasets.description import describe_choice
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.lint import Finding
from quantkit.datasets.open import ImageOptions, open_samples
from quantkit.errors import EvaluationError
from quantkit.evaluation import advantage, is_clearly_better, score_preprocessing
from quantkit.graph.model import input_specs, load_model
from quantkit.notices import Tell, ignore_messages
from quantkit.progress import show_progress
from quantkit.types import Dataset, PathLike, Preprocessing, Runner

if TYPE_CHECKING:
    from quantkit.datasets.alternatives import Alternative
    from quantkit.datasets.lint import DataFacts
    from quantkit.evaluation import PreprocessingScore

__all__ = ["DataCheck", "Probe", "Trial", "check_data"]

_SAME = 2.0
"""Standard errors within which two alternatives fit alike, so that the smaller change is named."""


@dataclass(frozen=True)
class Trial:
    """One preprocessing on the model.

    Attributes:
        changes: what differs from the declared one; empty for itself.
        flags: the options that make it.
        top1: share of samples that are right, None without labels.
        information: nats; how confident and how various the predictions are.
        is_better: clearly better than the declared one.
    """

    changes: tuple[str, ...]
    flags: str
    top1: float | None
    information: float
    is_better: bool


@dataclass(frozen=True)
class Probe:
    """What the model says under the declared preprocessing and under others.

    Attributes:
        num_samples: that were run each time.
        declared: the preprocessing as given.
        others: what was tried.
    """

    num_samples: int
    declared: Trial
    others: tuple[Trial, ...]


@dataclass(frozen=True)
class DataCheck:
    """The result of `check_data`.

    Attributes:
        facts: what was seen in the samples.
        preprocessing: as declared; None for arrays.
        num_classes: of the data, 0 without labels.
        findings: the gravest first.
        probe: None where no other preprocessing could be tried.
        probe_reason: why it was not.
    """

    facts: DataFacts
    preprocessing: Preprocessing | None
    num_classes: int
    findings: tuple[Finding, ...]
    probe: Probe | None
    probe_reason: str = ""

    @property
    def has_errors(self) -> bool:
        """Whether something was found that makes results wrong."""
        return any(finding.severity == "error" for finding in self.findings)


def check_data(
    model: PathLike,
    data: PathLike,
    *,
    against: PathLike | None = None,
    preprocessing: Preprocessing | ImageOptions | str | None = None,
    classes: Sequence[str] | None = None,
    probe_samples: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    tell: Tell | None = None,
) -> DataCheck:
    """Looks for what spoils a calibration: bad files, wrong labels, shared images, a preprocessing that does not fit.

    Args:
        model: the FP32 model.
        data: what to check.
        against: other data that must share no sample with it: validation, for calibration.
        preprocessing: of images, as it will be given to `calibrate`; None takes the default for the model's input.
        classes: class names by index.
        probe_samples: how many samples the model runs under each preprocessing; 0 leaves that out.
        seed: of their choice.
        workers: decoding threads.
        progress: show progress bars on a terminal.
        tell: called with one line for each thing that a user may want to know.

    Raises:
        QuantKitError: the data or the model cannot be used at all.
    """
    if probe_samples < 0:
        raise EvaluationError(f"--probe-samples {probe_samples} must be 0 or more")
    say = tell or ignore_messages
    graph = load_model(model)
    chosen = open_samples(input_specs(graph), data, preprocessing, classes, num_samples=None, seed=seed, order="given")
    describe_choice(chosen, data, seed, say)
    dataset: Dataset = getattr(chosen, "dataset", chosen)
    with show_progress(None, "reading", len(dataset), progress) as bar:
        facts, findings = lint.check_samples(dataset, workers=workers, on_samples=bar.update)
    if Path(data).is_dir():
        findings += lint.check_files(Path(data))
    findings += lint.check_duplicates(dataset)
    if against is not None:
        other = open_samples(
            input_specs(graph), against, preprocessing, classes, num_samples=None, seed=seed, order="given"
        )
        findings += lint.check_overlap(dataset, getattr(other, "dataset", other), name=str(against))
    probe, num_scores, reason = None, None, "left out"
    if probe_samples and len(facts.unreadable) < len(dataset):
        with OnnxRuntimeRunner(Path(model), name="the model") as runner:
            samples = _choose(dataset, frozenset(facts.unreadable), probe_samples, seed)
            probe, num_scores, reason, more = _probe(runner, dataset, samples, workers=workers, progress=progress)
            findings += more
    findings += lint.check_classes(dataset, num_scores)
    grave = ("error", "warning", "note")
    return DataCheck(
        facts=facts,
        preprocessing=dataset.preprocessing,
        num_classes=int(describe(dataset)["num_classes"]),
        findings=tuple(sorted(findings, key=lambda f: grave.index(f.severity))),
        probe=probe,
        probe_reason=reason,
    )


def _choose(dataset: Dataset, unreadable: frozenset[str], count: int, seed: int) -> tuple[int, ...]:
    """Readable samples, evenly over the classes."""
    chosen = select(dataset, num_samples=min(count + len(unreadable), len(dataset)), seed=seed)
    return tuple(i for i in chosen.indices if dataset.ids[i] not in unreadable)[:count]


def _probe(
    runner: Runner, dataset: Dataset, samples: tuple[int, ...], *, workers: int | None, progress: bool
) -> tuple[Probe | None, int | None, str, list[Finding]]:
    """The probe, the number of classes that the model scores, why there is no probe, and what was found."""

    def measure(preprocessing: Preprocessing | None) -> PreprocessingScore:
        view = _view(dataset, samples, preprocessing)
        return score_preprocessing(runner, make_batches(view, 32, strict=True, workers=workers, skipped={}))

    try:
        declared = measure(None)
    except EvaluationError as error:
        return None, None, str(error), []
    num_scores = declared.probabilities.shape[1]
    if dataset.preprocessing is None:
        return None, num_scores, "arrays are fed as they are", []
    unlabelled = declared.targets is not None and int(declared.targets.max()) >= num_scores
    first = other_values(dataset.preprocessing)
    with show_progress(None, "trying preprocessings", len(first) + 4, progress) as bar:
        tried = _measure_all(measure, first, bar)
        best = _choose_best(tried, declared, unlabelled=unlabelled)
        base = dataset.preprocessing if best is None else best.preprocessing
        tried += _measure_all(measure, other_resizes(dataset.preprocessing, base), bar)
    findings = []
    doubtful = not unlabelled and _is_chance(declared)
    best = _choose_best(tried, declared, unlabelled=unlabelled)
    if best is None and doubtful:
        unlabelled = True
        best = _choose_best(tried, declared, unlabelled=True)
        findings.append(_labels_finding(declared))
    if best is not None:
        fit = next(fit for alternative, fit in tried if alternative is best)
        findings.append(_misfit(best, fit, declared, unlabelled=unlabelled))
    trials = tuple(_trial(a, f, declared, unlabelled=unlabelled) for a, f in tried)
    return (
        Probe(len(samples), _trial(None, declared, declared, unlabelled=unlabelled), trials),
        num_scores,
        "",
        findings,
    )


def _measure_all(
    measure: Callable[[Preprocessing], PreprocessingScore], alternatives: Sequence[Alternative], bar: Any
) -> list[tuple[Alternative, PreprocessingScore]]:
    tried = []
    for alternative in alternatives:
        tried.append((alternative, measure(alternative.preprocessing)))
        bar.update(1)
    return tried


def _view(dataset: Dataset, samples: tuple[int, ...], preprocessing: Preprocessing | None) -> Dataset:
    if preprocessing is not None and isinstance(dataset, ImageFiles):
        dataset = replace(dataset, preprocessing=preprocessing)
    return Selection(dataset, samples)


def _choose_best(
    tried: Sequence[tuple[Alternative, PreprocessingScore]], declared: PreprocessingScore, *, unlabelled: bool
) -> Alternative | None:
    """Of those that are clearly better, the smallest change that fits as well as the best; None without one."""
    good = [_strip(f, unlabelled) for a, f in tried if _is_better(a, f, declared, unlabelled=unlabelled)]
    if not good:
        return None
    top = max(good, key=_value)
    # Among those that cannot be told from the best, also what alone is not yet clearly better than the declared one.
    alike = [a for a, f in tried if _strip(f, unlabelled) is top or advantage(top, _strip(f, unlabelled)) < _SAME]
    return min(alike, key=lambda a: len(a.changes))


def _is_better(
    alternative: Alternative, fit: PreprocessingScore, declared: PreprocessingScore, *, unlabelled: bool
) -> bool:
    fit, declared = _strip(fit, unlabelled), _strip(declared, unlabelled)
    if _is_chance(fit):  # labels in another order make a wrong input luckier than the right one
        return False
    same_values = all(change.startswith(("channels", "resize")) for change in alternative.changes)
    return is_clearly_better(fit, declared, same_values=same_values)


def _strip(fit: PreprocessingScore, unlabelled: bool) -> PreprocessingScore:
    return replace(fit, targets=None) if unlabelled and fit.targets is not None else fit


def _value(fit: PreprocessingScore) -> float:
    return fit.information if fit.targets is None else -float(fit.losses.mean())


def _is_chance(fit: PreprocessingScore) -> bool:
    """Whether guessing could be right as often, within three standard errors; False without labels."""
    if fit.targets is None:
        return False
    count, chance = len(fit.right), 1 / fit.probabilities.shape[1]
    error = math.sqrt(chance * (1 - chance) / count)
    return bool(float(fit.right.mean()) < chance + 3 * error)


def _trial(
    alternative: Alternative | None, fit: PreprocessingScore, declared: PreprocessingScore, *, unlabelled: bool
) -> Trial:
    return Trial(
        changes=() if alternative is None else alternative.changes,
        flags="" if alternative is None else alternative.flags,
        top1=None if _strip(fit, unlabelled).targets is None else float(fit.right.mean()),
        information=fit.information,
        is_better=alternative is not None and _is_better(alternative, fit, declared, unlabelled=unlabelled),
    )


def _labels_finding(declared: PreprocessingScore) -> Finding:
    share = f"{100 * float(declared.right.mean()):.1f} % of {len(declared.right)} samples"
    return Finding(
        "warning",
        "labels",
        f"the model is right on {share}, as guessing would be, under every preprocessing that was tried",
        (),
        "give the model's class names in its order with --classes, and check that the model is trained",
    )


def _misfit(best: Alternative, fit: PreprocessingScore, declared: PreprocessingScore, *, unlabelled: bool) -> Finding:
    fit, declared = _strip(fit, unlabelled), _strip(declared, unlabelled)
    if fit.targets is not None:
        numbers = f"top-1 {100 * declared.right.mean():.1f} % → {100 * fit.right.mean():.1f} %"
    else:
        numbers = f"information of the predictions {declared.information:.2f} → {fit.information:.2f} nats"
    return Finding(
        "warning" if fit.targets is None else "error",
        "preprocessing",
        f"the model fits better with {' and '.join(best.changes)}: {numbers} on {len(fit.probabilities)} samples",
        (),
        f"use {best.flags}",
    )
