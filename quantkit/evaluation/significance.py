"""Is a difference in accuracy more than chance? Paired statistics of two models on the same samples."""

from __future__ import annotations

import math

from quantkit.verdicts import paired_half_width, samples_needed

__all__ = ["difference_interval", "mcnemar_p_value", "samples_needed"]


def mcnemar_p_value(fixed: int, broken: int) -> float:
    """Exact two-sided p-value of McNemar's test: ``min(1, 2 P(X <= min(fixed, broken)))``, X ~ Binomial(sum, 1/2).

    Under "both models are equally good" a sample on which they disagree favours either with probability 1/2.
    A large value does not show that nothing was lost: look at the interval.

    >>> mcnemar_p_value(1, 9)
    0.021484375

    Args:
        fixed: samples that the baseline got wrong and the variant right.
        broken: samples that the baseline got right and the variant wrong.

    Returns:
        A probability, 1 where the models never differ.
    """
    total = fixed + broken
    if fixed == broken:
        return 1.0
    if total <= 1000:
        tail: int = sum(math.comb(total, i) for i in range(min(fixed, broken) + 1))
        return min(1.0, tail / (1 << (total - 1)))
    log_half = total * math.log(0.5)
    log_terms = (_log_comb(total, i) + log_half for i in range(min(fixed, broken) + 1))
    return min(1.0, 2 * math.fsum(math.exp(term) for term in log_terms))


def difference_interval(fixed: int, broken: int, *, num_samples: int) -> tuple[float, float]:
    """95 % interval of variant's minus baseline's accuracy on paired samples, fractions of 1.

    The adjusted Wald interval of Bonett and Price (2012, J. Educ. Behav. Stat. 37, 479-488): with
    ``f = (fixed + 1) / (N + 2)`` and ``b = (broken + 1) / (N + 2)`` it is
    ``f - b ± 1.96 sqrt((f + b - (f - b)^2) / (N + 2))``. Where some dozens of samples differ it agrees with a bootstrap
    over the samples. Where few or none do, the bootstrap (as the plain Wald interval) is too short, down to ±0 where
    the models never differ, which no finite number of samples can show; this one is not.

    >>> low, high = difference_interval(20, 30, num_samples=10_000)
    >>> round(100 * low, 2), round(100 * high, 2)
    (-0.24, 0.04)

    Args:
        fixed: samples that the baseline got wrong and the variant right.
        broken: samples that the baseline got right and the variant wrong.
        num_samples: all samples, those on which both do the same included.

    Returns:
        The lower and the upper end, within [-1, 1].
    """
    if num_samples < max(1, fixed + broken):
        raise ValueError(f"{fixed} fixed and {broken} broken of {num_samples} samples")
    n = num_samples + 2
    f, b = (fixed + 1) / n, (broken + 1) / n
    half = paired_half_width(fixed, broken, num_samples=num_samples)
    return max(f - b - half, -1.0), min(f - b + half, 1.0)


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
