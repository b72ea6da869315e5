"""The variants of a report as rows of its tables: one row each, and one for each batch size that was timed."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.reporting.decision import EXPECTED, is_expected
from quantkit.reporting.formatting import single_line
from quantkit.types import Evaluation, Interval, Latency, Report


@dataclass(frozen=True)
class Variant:
    """One variant, and its latency at the batch size of the row; None where it was not timed."""

    report: Report
    evaluation: Evaluation
    latency: Latency | None

    @property
    def name(self) -> str:
        """On one line."""
        return single_line(self.evaluation.name)

    @property
    def backend(self) -> str:
        """On one line."""
        return single_line(self.evaluation.backend)

    @property
    def expected(self) -> str:
        """That it has not run on TensorRT, which it is for; empty where it has, or is for something else."""
        return EXPECTED if is_expected(self.report, self.evaluation) else ""

    @property
    def representative(self) -> bool:
        """False where the latency says nothing about the device that the variant is made for."""
        return self.evaluation.representative

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.evaluation is self.report.baseline

    @property
    def difference(self) -> float | None:
        """The score minus the baseline's; None for the baseline itself."""
        score = self.report.score
        return None if score is None or self.is_baseline else self.report.difference(self.evaluation, score.name)

    @property
    def difference_interval(self) -> Interval | None:
        """95% interval of `difference`."""
        return None if self.is_baseline else self.report.difference_interval(self.evaluation)

    @property
    def speedup(self) -> float | None:
        """None for the variant that the others are compared with."""
        size = self.latency.batch_size if self.latency else None
        if self.report.speed_reference(self.evaluation, size) is self.evaluation:
            return None
        return self.report.speedup(self.evaluation, size)

    def metric(self, name: str) -> float | None:
        """A metric by name; None where it was not measured."""
        return self.evaluation.metrics.get(name)


def variant_rows(report: Report) -> tuple[Variant, ...]:
    """Every variant at its first batch size, the baseline first."""
    return tuple(Variant(report, evaluation, evaluation.latency) for evaluation in report.evaluations)


def speed_rows(report: Report) -> tuple[Variant, ...]:
    """As `variant_rows`; empty where nothing was timed."""
    return variant_rows(report) if any(e.latency for e in report.evaluations) else ()


def sweep_rows(report: Report) -> tuple[Variant, ...]:
    """Every variant at every batch size that it was timed at, ascending; empty where none was timed at two."""
    if not any(e.sweep for e in report.evaluations):
        return ()
    sizes = sorted({latency.batch_size for e in report.evaluations for latency in e.latencies})
    found = ((e, report.latency_at(e, size)) for size in sizes for e in report.evaluations)
    return tuple(Variant(report, e, latency) for e, latency in found if latency)
