"""Statistics of shares of samples: intervals, an exact test, and how many samples would decide."""

from __future__ import annotations

import math
from collections.abc import Callable

NORMAL_975 = 1.959963984540054
_NORMAL_80 = 0.8416212335729143

_POWER = (NORMAL_975 + _NORMAL_80) / NORMAL_975
"""Half-widths that must fit in for the interval to decide in 80 of 100 runs; at 1 it would in 50."""

_MOST_SAMPLES = 10**12


def difference_interval(fixed: int, broken: int, *, num_samples: int) -> tuple[float, float]:
    """95% interval of variant's minus baseline's accuracy on paired samples, fractions of 1.

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


def paired_half_width(fixed: float, broken: float, *, num_samples: float) -> float:
    """Half the length of the 95% interval of a difference of paired shares; see `difference_interval`."""
    n = num_samples + 2
    f, b = (fixed + 1) / n, (broken + 1) / n
    return NORMAL_975 * math.sqrt((f + b - (f - b) ** 2) / n)


def mcnemar_p_value(fixed: int, broken: int) -> float:
    """Exact two-sided p-value of McNemar's test: ``min(1, 2 P(X <= min(fixed, broken)))``, X ~ Binomial(sum, 1/2).

    Under "both models are equally good" a sample on which they disagree favors either with probability 1/2.
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


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95% score interval of a share of `count` samples (Wilson 1927): unlike Wald's it is not ±0 where all agree.

    >>> [round(end, 3) for end in wilson_interval(0.9, 10)]
    [0.596, 0.982]
    """
    z = NORMAL_975**2 / count
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(max(z * share * (1 - share) + z * z / 4, 0.0)) / (1 + z)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def is_chance(share: float, *, num_classes: float, num_samples: int) -> bool:
    """Whether guessing among the classes could be right as often, within three standard errors.

    >>> is_chance(0.12, num_classes=10, num_samples=100), is_chance(0.2, num_classes=10, num_samples=100)
    (True, False)
    """
    chance = 1 / num_classes
    return share < chance + 3 * math.sqrt(chance * (1 - chance) / num_samples)


def samples_needed(fixed: float, broken: float, *, num_samples: int, margin: float) -> int | None:
    """About how many samples decide whether a variant's accuracy is within `margin` of the baseline's, or worse.

    If the shares of fixed and broken samples stay as they are, the estimate of the loss is
    ``d = (broken - fixed) / N``; with n samples the interval of `paired_half_width` w(n) decides where
    ``1.43 w(n) <= max(margin - d, d)``: its upper end is below the margin, or its lower end above 0, in 80 of 100 runs
    (1.43 is (1.960 + 0.842) / 1.960, the usual power of 80%; Chow, Shao and Wang, Sample Size Calculations in Clinical
    Research, 2008, section 3.1). What is found is rounded to two digits, because d is itself not known better.

    >>> samples_needed(17, 23, num_samples=2000, margin=0.01)
    3300

    Args:
        fixed: samples that only the variant gets right.
        broken: samples that only the baseline gets right.
        num_samples: all of them.
        margin: loss that is allowed, a fraction of 1.

    Returns:
        A number of samples; None where none is enough (no margin and no loss).
    """
    loss = (broken - fixed) / num_samples
    return samples_by_counts(max(margin - loss, loss), fixed / num_samples, broken / num_samples)


def samples_to_tell(distance: float, width: float, *, num_samples: int) -> int | None:
    """About how many samples tell an estimate from a limit, for the ends of an interval draw near as ``1 / sqrt(n)``:
    ``n = N (1.43 width / distance)^2``, rounded to two digits; 1.43 as in `samples_needed`.

    >>> samples_to_tell(0.005, 0.010, num_samples=500)
    4100

    Args:
        distance: from the estimate to the limit.
        width: from the estimate to the end of its interval on that side.
        num_samples: behind the interval.

    Returns:
        A number of samples; None where none is enough: the estimate is at the limit.
    """
    if distance <= 0 or num_samples < 1:
        return None
    ratio = _POWER * max(width, 0.0) / distance
    return two_digits(num_samples * ratio**2) if ratio < 1e6 and num_samples * ratio**2 <= _MOST_SAMPLES else None


def samples_by_counts(distance: float, fixed: float, broken: float) -> int | None:
    """About how many samples have an interval that decides within a distance; None where none is enough.

    Args:
        distance: from the estimate of a difference to what it is told from.
        fixed: share of the samples that only the variant gets right.
        broken: share that only the baseline gets right.
    """
    return _smallest(lambda n: _POWER * paired_half_width(fixed * n, broken * n, num_samples=n) <= distance)


def _smallest(decides: Callable[[int], bool]) -> int | None:
    """About the smallest number that decides; `decides` is false up to a number and true from there on."""
    high = 1
    while not decides(high):
        high *= 2
        if high > _MOST_SAMPLES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return two_digits(high)


def two_digits(number: float) -> int:
    """A number of samples, rounded up to a whole one and then to two digits."""
    whole = max(math.ceil(number), 1)
    return round(whole, 2 - len(str(whole))) if whole > 99 else whole


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
