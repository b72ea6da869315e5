"""Limits that a variant must keep, as the command line gives them. Checking a report is left to `gate`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from quantkit.errors import EvaluationError, LimitError
from quantkit.registry import suggest
from quantkit.significance import MLPERF_MARGINS
from quantkit.types import Score
from quantkit.types.option import TextForm, option

Unit = Literal["pt", "%", ""]

GATES = {f"mlperf-{name.removesuffix('%')}": share for name, share in MLPERF_MARGINS.items()}
"""Gates by name, and the share of the baseline's score that each lets go."""

_DROP = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>pt|%|)")


@dataclass(frozen=True)
class Drop:
    """How much worse than the baseline's a score may be.

    Attributes:
        number: in the unit.
        unit: "pt": hundredths of a score that is a fraction, percentage points. "%": hundredths of the baseline's
            score, as in MLPerf's "99% of FP32". Empty: points of a fraction; of any other score, its own unit.
    """

    number: float
    unit: Unit = "pt"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.number) and self.number >= 0) or (self.unit and self.number > 100):
            raise LimitError(f"--max-drop {self} must be from 0 to 100")

    def __str__(self) -> str:
        return f"{self.number:g}{self.unit}"

    def mark(self, score: Score) -> Unit:
        """The unit in which a loss of this score is compared with it, to stand behind a number.

        Raises:
            EvaluationError: there are no points of this score, or not so many.
        """
        if self.unit == "pt" and not score.is_fraction:
            raise EvaluationError(
                f"--max-drop {self}: {score.label} is not a fraction and has no points: use a percentage of the "
                "baseline's score, such as 1%, or a number in its own unit"
            )
        if score.is_fraction and self.number > 100:
            raise EvaluationError(f"--max-drop {self}: {score.label} is a fraction, which has at most 100 points")
        return "pt" if score.is_fraction and not self.unit else self.unit


_GATE = "Gate"


@dataclass(frozen=True)
class Limits:
    """What a variant must keep; None is no limit.

    Attributes:
        confident: the worse end of the 95% interval must keep the limit, not the estimate alone; the size has none.
        allow_partial: judge the report of an interrupted run too.
    """

    max_drop: Drop | None = option(
        None,
        "Maximum drop of the score below FP32's: 0.5pt (or 0.5) in points, 1% relative to FP32's score.",
        group=_GATE,
        form=TextForm(lambda text: parse_drop(text)),
        unit="drop",
    )
    min_speedup: float | None = option(
        None,
        "Minimum speed-up over the float model on the same backend, e.g. 1.2. Where the speed is not settled, the "
        "whole 95% interval must meet it.",
        group=_GATE,
    )
    min_agreement: float | None = option(
        None, "Minimum fraction of samples with the same class as FP32, e.g. 0.98.", group=_GATE
    )
    max_size_ratio: float | None = option(None, "Maximum size relative to FP32, e.g. 0.3.", group=_GATE)
    confident: bool = option(
        False,
        "Require the limit to hold for the whole 95% confidence interval (--max-drop, --gate, --min-speedup, "
        "--min-agreement).",
        group=_GATE,
    )
    gates: Sequence[str] = option(
        (),
        "Named gate: mlperf-99 or mlperf-99.9 (the score is at least 99% or 99.9% of FP32's). Repeatable.",
        group=_GATE,
        flag="--gate",
        repeatable=True,
    )
    at_batch: int | None = option(
        None, "Batch size that --min-speedup applies to.", group=_GATE, default_text="the first that was timed"
    )
    allow_partial: bool = False

    def __post_init__(self) -> None:
        for name in ("min_speedup", "max_size_ratio"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise LimitError(f"--{name.replace('_', '-')} {value} must be a positive number")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise LimitError(f"--min-agreement {self.min_agreement} must be a fraction from 0 to 1, such as 0.98")
        object.__setattr__(self, "gates", tuple(name.lower() for name in self.gates))
        if unknown := [name for name in self.gates if name not in GATES]:
            raise LimitError(f"--gate: there is no {unknown[0]!r}: {suggest(unknown[0], GATES)}")
        if self.at_batch is not None and (self.at_batch < 1 or self.min_speedup is None):
            raise LimitError(f"--at-batch {self.at_batch} must be a batch size of at least 1, with --min-speedup")
        with_interval = (self.max_drop, self.min_speedup, self.min_agreement)
        if self.confident and not self.gates and all(limit is None for limit in with_interval):
            raise LimitError(
                "--confident needs a limit that has an interval: --max-drop, --gate, --min-speedup or --min-agreement"
            )

    def __bool__(self) -> bool:
        limits = (self.max_drop, self.min_speedup, self.min_agreement, self.max_size_ratio)
        return bool(self.gates) or any(limit is not None for limit in limits)


def parse_drop(text: str) -> Drop:
    """Reads "0.5pt" (points), "1%" (of the baseline's score) and "0.5" (points, or the score's own unit).

    >>> parse_drop("0.5pt"), parse_drop("1%")
    (Drop(number=0.5, unit='pt'), Drop(number=1.0, unit='%'))

    Raises:
        LimitError: anything else.
    """
    match = _DROP.fullmatch(text.strip())
    if match is None:
        raise LimitError(
            f"--max-drop {text!r} is neither points, e.g. 0.5pt, nor a percentage of the baseline's score, e.g. 1%"
        )
    return Drop(float(match["number"]), cast(Unit, match["unit"]))
