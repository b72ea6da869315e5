"""Intervals of any score by resampling: the same samples, drawn again, for the baseline and every variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from quantkit.significance import FEWEST_DIFFERING, FEWEST_SAMPLES
from quantkit.types import Array

NUM_DRAWS = 1000
"""Draws behind an interval: its ends are then known to about a tenth of its length."""


def can_draw(num_samples: int, num_differing: int) -> bool:
    """Whether a bootstrap of a difference tells anything: of few samples, or where few differ, its intervals are too
    short, down to ±0.
    """
    return num_samples >= FEWEST_SAMPLES and num_differing >= FEWEST_DIFFERING


def explain_no_interval(
    label: str, differing: Mapping[str, int], *, num_samples: int, baseline: str, noun: str = "images"
) -> tuple[str, ...]:
    """Why there is no interval, a sentence for each variant; empty where `can_draw` holds for all.

    >>> explain_no_interval("mAP", {"int8": 3}, num_samples=5000, baseline="fp32")
    ("int8: no interval of mAP: only 3 of 5,000 images differ from fp32's",)

    Args:
        label: of the score.
        differing: variant → samples that differ from the baseline's in what the score depends on.
        num_samples: all of them.
        baseline: its name.
        noun: what samples are, plural.
    """
    if differing and num_samples < FEWEST_SAMPLES:
        return (f"no interval of {label}: {num_samples:,} {noun} are too few, {FEWEST_SAMPLES} are needed",)
    return tuple(
        f"{variant}: no interval of {label}: {f'only {count:,}' if count else 'none'} of {num_samples:,} {noun} differ "
        f"from {baseline}'s"
        for variant, count in differing.items()
        if count < FEWEST_DIFFERING
    )


def draw_weights(num_samples: int, *, num_draws: int = NUM_DRAWS) -> Iterator[npt.NDArray[np.int64]]:
    """How often each sample is in each of `num_draws` draws of `num_samples` with replacement; int64 [num_samples].

    The same number of samples gives the same draws: a difference is paired if both sides take the same.
    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap.

    >>> [int(weights.sum()) for weights in draw_weights(5, num_draws=3)]
    [5, 5, 5]
    """
    # The raw stream, because Generator's methods may change between versions of numpy.
    stream = np.random.PCG64(0)
    for _ in range(num_draws):
        drawn = stream.random_raw(num_samples) % np.uint64(num_samples)
        yield np.bincount(drawn.astype(np.int64), minlength=num_samples)


def mean_difference_interval(baseline: Array, variant: Array, *, num_draws: int = NUM_DRAWS) -> tuple[float, float]:
    """95% interval of the mean of ``variant - baseline``, paired, by a percentile bootstrap over samples.

    Args:
        baseline: score of each sample, [N].
        variant: likewise.
        num_draws: how many draws.

    Raises:
        ValueError: no samples, or different numbers of them.
    """
    differences = np.asarray(variant, np.float64) - np.asarray(baseline, np.float64)
    if differences.ndim != 1 or not differences.size:
        raise ValueError(f"scores of shape {differences.shape}")
    count = len(differences)
    draws = draw_weights(count, num_draws=num_draws)
    return percentile_interval([float(weights @ differences) / count for weights in draws])


def percentile_interval(values: list[float]) -> tuple[float, float]:
    """From the 2.5th to the 97.5th percentile of what the draws gave; draws that gave NaN are left out.

    Raises:
        ValueError: nothing is left.
    """
    finite = np.asarray([value for value in values if np.isfinite(value)], np.float64)
    if not finite.size:
        raise ValueError("no draw gave a number")
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)
