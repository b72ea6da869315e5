"""The check of a data set against a model: files, labels, and whether another preprocessing would fit better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets import describe, lint, select
from quantkit.datasets.description import describe_choice
from quantkit.datasets.lint import Finding
from quantkit.datasets.open import open_samples
from quantkit.errors import EvaluationError
from quantkit.evaluation.preprocessing_probe import Probe, probe_preprocessing
from quantkit.graph.model import input_specs, load_model
from quantkit.notices import Notify, accepts_tell, announcing
from quantkit.progress import show_progress
from quantkit.types import Dataset, PathLike, Preprocessing
from quantkit.types.options import ImageOptions

if TYPE_CHECKING:
    from quantkit.datasets.lint import DataFacts

__all__ = ["DataCheck", "check_data"]


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
    notify: Notify | None = None,
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
        notify: called with each `Notice`; without it, notices are only logged.

    Raises:
        QuantKitError: the data or the model cannot be used at all.
    """
    if probe_samples < 0:
        raise EvaluationError(f"--probe-samples {probe_samples} must be 0 or more")
    notify = announcing(notify)
    graph = load_model(model)
    chosen = open_samples(input_specs(graph), data, preprocessing, classes, num_samples=None, seed=seed, order="given")
    describe_choice(chosen, data, seed, notify)
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
            probe, num_scores, reason, more = probe_preprocessing(
                runner, dataset, samples, workers=workers, progress=progress
            )
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
