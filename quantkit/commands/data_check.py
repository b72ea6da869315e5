"""The check of a data set against a model: files, labels, and whether another preprocessing would fit better."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.commands.on_device import on_device, runnable
from quantkit.datasets import describe, lint, select
from quantkit.datasets.description import describe_choice
from quantkit.datasets.lint import Finding
from quantkit.datasets.open import on_split, open_samples, warn_of_batch_axes
from quantkit.datasets.yolo_data import Split
from quantkit.evaluation.preprocessing_probe import Probe, ProbeResult, probe_preprocessing
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.types import Dataset, PathLike, Preprocessing
from quantkit.types.option import make_options
from quantkit.types.options import CheckOptions
from quantkit.urls import data_path

if TYPE_CHECKING:
    from quantkit.datasets.lint import DataFacts


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


@accepts_tell
def check_data(
    model: PathLike | FloatModel,
    data: PathLike,
    options: CheckOptions | None = None,
    *,
    notify: Notify | None = None,
    **keywords: Any,
) -> DataCheck:
    """Looks for what spoils a calibration: bad files, wrong labels, shared images, a preprocessing that does not fit.

    Args:
        model: the FP32 model.
        data: what to check.
        options: settings; None takes the defaults of `CheckOptions`.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `CheckOptions`, instead of those in `options`.

    Raises:
        QuantKitError: the data or the model cannot be used at all.
    """
    options = make_options(CheckOptions, options, keywords)
    notify = announcing(notify)
    model = FloatModel.open(model)
    chosen = _open(model, data, options, "train")
    describe_choice(chosen, data, options.seed, notify)
    warn_of_batch_axes(model.inputs, chosen, options.preprocess, notify)
    dataset: Dataset = getattr(chosen, "dataset", chosen)
    with show_progress(None, "reading", len(dataset), options.progress) as bar:
        facts, findings = lint.check_samples(dataset, workers=options.workers, on_samples=bar.update)
    if Path(data).is_dir():
        findings += lint.check_files(Path(data))
    findings += lint.check_duplicates(dataset)
    if options.against is not None:
        other = _open(model, options.against, options, "val")
        findings += lint.check_overlap(dataset, getattr(other, "dataset", other), name=str(data_path(options.against)))
    tried = ProbeResult(reason="left out")
    if options.probe_samples and len(facts.unreadable) < len(dataset):
        with on_device(options, notify), runnable(model).open() as runner:
            unreadable = frozenset(facts.unreadable)
            samples = _choose(dataset, unreadable, options.probe_samples, options.seed)
            rest = sorted(set(_choose(dataset, unreadable, len(dataset), options.seed)) - set(samples))
            random.Random(options.seed).shuffle(rest)
            tried = probe_preprocessing(
                runner, dataset, samples, more=rest, workers=options.workers, progress=options.progress
            )
    findings += (*tried.findings, *lint.check_classes(dataset, tried.num_scores))
    grave = ("error", "warning", "note")
    return DataCheck(
        facts=facts,
        preprocessing=dataset.preprocessing,
        num_classes=int(describe(dataset)["num_classes"]),
        findings=tuple(sorted(findings, key=lambda f: grave.index(f.severity))),
        probe=tried.probe,
        probe_reason=tried.reason,
    )


def _open(model: FloatModel, data: PathLike, options: CheckOptions, split: Split) -> Dataset:
    prepared = on_split(options.preprocess, split, data)
    seed, classes = options.seed, options.classes
    return open_samples(runnable(model), data, prepared, classes, num_samples=None, seed=seed, order="given")


def _choose(dataset: Dataset, unreadable: frozenset[str], count: int, seed: int) -> tuple[int, ...]:
    """Readable samples, evenly over the classes."""
    chosen = select(dataset, num_samples=min(count + len(unreadable), len(dataset)), seed=seed)
    return tuple(i for i in chosen.indices if dataset.ids[i] not in unreadable)[:count]
