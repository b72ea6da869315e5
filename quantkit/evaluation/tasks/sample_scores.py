"""A score that is the mean of the samples' scores, and its intervals, paired with the baseline's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.bootstrap import can_draw, explain_no_interval, mean_difference_interval
from quantkit.significance import DIFFERING


class SampleScores:
    """Scores of all samples by variant, the baseline first.

    >>> scores = SampleScores("psnr", "PSNR")
    >>> for variant, value in (("fp32", 30.0), ("int8", 29.0)):
    ...     scores.add(variant, np.full(4, value))
    >>> scores.compute()["int8"]["psnr"], scores.notes()
    (29.0, ('no interval of PSNR: 4 samples are too few, 30 are needed',))
    """

    def __init__(self, name: str, label: str) -> None:
        self._name, self._label = name, label
        self._parts: dict[str, list[npt.NDArray[np.float64]]] = {}
        self._differing: dict[str, int] = {}

    def add(self, variant: str, scores: npt.NDArray[np.floating]) -> None:
        """Adds the scores of a batch, [N]."""
        self._parts.setdefault(variant, []).append(np.asarray(scores, np.float64))

    def compute(self) -> dict[str, dict[str, float]]:
        """For each variant: the mean, how many samples differ and, where enough do, the interval of the difference."""
        whole = {variant: np.concatenate(parts) for variant, parts in self._parts.items()}
        result = {variant: {self._name: float(scores.mean())} for variant, scores in whole.items()}
        (_, reference), *others = whole.items()
        for variant, scores in others:
            self._differing[variant] = count = int(np.count_nonzero(scores != reference))
            result[variant][DIFFERING] = float(count)
            if can_draw(len(scores), count):
                low, high = mean_difference_interval(reference, scores)
                result[variant] |= {f"{self._name}_difference_low": low, f"{self._name}_difference_high": high}
        return result

    def notes(self) -> tuple[str, ...]:
        """Why there is no interval; known after `compute`."""
        if not self._parts:
            return ()
        (baseline, parts), *_ = self._parts.items()
        count = sum(map(len, parts))
        return explain_no_interval(self._label, self._differing, num_samples=count, baseline=baseline, noun="samples")
