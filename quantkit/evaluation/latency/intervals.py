"""95% intervals of times and of their ratios, where calls are not independent: neighbors in time resemble each other.

The calls are cut into at most 20 batches of consecutive rounds. How much the batches differ, beyond what as many
independent calls would, decides how long an interval is (batch means: Schmeiser 1982, Operations Research 30, 556-568,
who recommends 10 to 30 batches).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.bootstrap import draw_weights
from quantkit.paired_statistics import NORMAL_975
from quantkit.types.evaluation import Interval

Rounds = Sequence[Sequence[float]]
"""Times of one variant: one sequence for each round."""

_MOST_BATCHES = 20
_FEWEST_BATCHES = 5
"""With fewer, what the batches say of each other is too little to build on."""

_INTERRUPTED = 1.5
"""Mean over median, or the upper over the lower end of the median's interval, from which calls count as interrupted."""

_NUM_DRAWS = 2000


def rank_interval(rounds: Rounds, percent: float) -> Interval | None:
    """95% interval of a percentile: two of the times themselves, whatever their distribution.

    Woodruff's interval (1952, J. Am. Stat. Assoc. 47, 635-646): the ranks of `binomial_ranks`, for as many independent
    calls as tell as much as these. That is ``n / design effect``, the variance over batches of the share of calls up to
    the percentile over that of independent calls, with the correction of Korn and Graubard (1998, Survey Methodology
    24, 193-201) for the number of batches.

    Args:
        rounds: times, at least one in each round.
        percent: 50 for the median.

    Returns:
        Lower and upper end, in the unit of the times; None with fewer than 5 rounds, or too few calls for this
        percentile.
    """
    batches = _merge(rounds)
    if len(batches) < _FEWEST_BATCHES:
        return None
    ordered = np.sort(np.concatenate(batches))
    count = len(ordered)
    at = ordered[min(int(count * percent / 100), count - 1)]
    worth = int(_effective_count(batches, at))
    ranks = binomial_ranks(worth, percent / 100)
    if ranks is None:
        return None
    low = max(math.floor(ranks[0] * count / worth), 1)
    high = min(math.ceil(ranks[1] * count / worth), count)
    return float(ordered[low - 1]), float(ordered[high - 1])


def binomial_ranks(count: int, share: float) -> tuple[int, int] | None:
    """Ranks, from 1, of the two of `count` independent values between which a quantile lies with 95% at least.

    The number of values below the quantile is binomial; 2.5% at most are cut off on either side (David and Nagaraja,
    Order Statistics, 2003, section 7.1).

    >>> binomial_ranks(1000, 0.99), binomial_ranks(100, 0.99)
    ((983, 997), None)

    Args:
        count: of values.
        share: 0.99 for the 99th percentile.

    Returns:
        Lower and upper rank; None where the smallest or the largest value would not be far enough out.
    """
    if count < 1:
        return None
    spread = 12 * math.sqrt(count * share * (1 - share)) + 12
    first, last = max(0, math.floor(count * share - spread)), min(count, math.ceil(count * share + spread))
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log((count - k) / (k + 1)) + math.log(share / (1 - share))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    mass = np.exp(logs - logs.max())
    below = np.cumsum(mass) / mass.sum()
    low = first + int(np.argmax(below >= 0.025))
    high = first + int(np.argmax(below >= 0.975)) + 1
    return (low, high) if low >= 1 and high <= count else None


def find_references(names: Sequence[str], backends: Mapping[str, str] | None) -> dict[str, str]:
    """Whom each variant's speed is compared with: the first of the same backend, perhaps itself.

    Args:
        names: of the variants, in the order of the report.
        backends: variant → backend; None, or a variant that is not there, is one backend.
    """
    place = {name: (backends or {}).get(name, "") for name in names}
    return {name: next(other for other in names if place[other] == place[name]) for name in names}


def speedup_intervals(rounds: Mapping[str, Rounds], references: Mapping[str, str]) -> dict[str, Interval | None]:
    """95% intervals of the median time of each variant's reference over its own.

    A bootstrap over batches of rounds: both take the same batches, so that what slows a round down for both cancels.
    The percentiles are moved outwards for the number of batches (the expanded percentile interval: Hesterberg 2015, The
    American Statistician 69, 371-386).

    Where calls of either were interrupted by other work (their mean is over 1.5 times the median, or the median lies in
    a gap between undisturbed and interrupted calls), the rounds, which all hold as many of both kinds, say too little:
    the interval then reaches to the ratios of the ends of both medians' own intervals.

    Args:
        rounds: times by variant, all with the same number of rounds.
        references: from `find_references`.

    Returns:
        By variant; None for one that is its own reference, with fewer than 5 rounds, and where calls were interrupted
        and a median has no interval.
    """
    batches = {name: _merge(times) for name, times in rounds.items()}
    found: dict[str, Interval | None] = dict.fromkeys(rounds)
    count = min(len(batch) for batch in batches.values())
    if count < _FEWEST_BATCHES:
        return found
    weights = np.stack(list(draw_weights(count, num_draws=_NUM_DRAWS))).astype(np.float64)
    needed = {n for name in rounds if references[name] != name for n in (name, references[name])}
    drawn = {name: _drawn_medians(batches[name], weights) for name in needed}
    medians = {name: float(np.median(np.concatenate(batches[name]))) for name in needed}
    for name, reference in references.items():
        if name != reference and drawn[name].min() > 0:
            ratios = drawn[reference] / drawn[name]
            low, high = np.quantile(ratios, _expanded_levels(count))
            ratio = medians[reference] / medians[name]
            found[name] = min(float(low), ratio), max(float(high), ratio)
            if any(_is_interrupted(rounds[n], batches[n]) for n in (name, reference)):
                found[name] = _widened(
                    found[name], rank_interval(rounds[reference], 50), rank_interval(rounds[name], 50)
                )
    return found


def _merge(rounds: Rounds) -> list[npt.NDArray[np.float64]]:
    """Consecutive rounds joined into at most 20 batches of as many rounds, to within one."""
    cuts = np.array_split(np.arange(len(rounds)), min(len(rounds), _MOST_BATCHES))
    return [np.concatenate([np.asarray(rounds[i], np.float64) for i in cut]) for cut in cuts if len(cut)]


def _is_interrupted(rounds: Rounds, batches: Sequence[npt.NDArray[np.float64]]) -> bool:
    """Whether other work took time from the calls, but not from all calls of a round alike."""
    times = np.concatenate(batches)
    median = float(np.median(times))
    if times.mean() > _INTERRUPTED * median:
        return True
    interval = rank_interval(rounds, 50)
    if interval is None or interval[1] <= _INTERRUPTED * interval[0]:
        return False
    # Calls that are slow by whole rounds are no interruptions: that cancels in a ratio, which the bootstrap knows.
    return _effective_count(batches, median) * _student_975(len(batches) - 1) ** 2 >= len(times) * NORMAL_975**2 / 2


def _widened(interval: Interval | None, reference: Interval | None, variant: Interval | None) -> Interval | None:
    if interval is None or reference is None or variant is None or not variant[0]:
        return None
    return min(interval[0], reference[0] / variant[1]), max(interval[1], reference[1] / variant[0])


def _effective_count(batches: Sequence[npt.NDArray[np.float64]], at: float) -> float:
    """How many independent calls would tell the share of calls up to `at` as well as these do."""
    num = len(batches)
    sizes = np.array([len(batch) for batch in batches], np.float64)
    below = np.array([np.count_nonzero(batch <= at) for batch in batches], np.float64)
    count = sizes.sum()
    share = below.sum() / count
    independent = share * (1 - share) / count
    found = num / (num - 1) * float(((below - share * sizes) ** 2).sum()) / count**2
    effect = max(1.0, found / independent) if independent else 1.0
    return float(count / effect * (NORMAL_975 / _student_975(num - 1)) ** 2)


def _drawn_medians(
    batches: Sequence[npt.NDArray[np.float64]], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Median of all calls of each draw of batches: weights [D, B] → [D].

    Not every call is looked at in every draw: first where the medians lie, on a coarse grid, then there on a fine one.
    """
    batches = [np.sort(batch) for batch in batches]
    half = weights @ np.array([len(batch) for batch in batches], np.float64) / 2
    values = np.sort(np.concatenate(batches))
    for size in (128, 512):
        grid = np.unique(values[np.linspace(0, len(values) - 1, size).round().astype(np.int64)])
        counts = np.stack([np.searchsorted(batch, grid, side="right") for batch in batches])
        places = ((weights @ counts.astype(np.float64)) < half[:, None]).sum(axis=1)
        lowest, highest = grid[max(places.min() - 1, 0)], grid[places.max()]
        values = values[np.searchsorted(values, lowest) : np.searchsorted(values, highest, side="right")]
    medians: npt.NDArray[np.float64] = grid[places]
    return medians


def _expanded_levels(num: int) -> tuple[float, float]:
    level = math.erfc(math.sqrt(num / (num - 1)) * _student_975(num - 1) / math.sqrt(2)) / 2
    return level, 1 - level


def _student_975(degrees: int) -> float:
    """97.5th percentile of Student's t, to half a percent from 4 degrees on (Abramowitz and Stegun 26.7.5)."""
    z = NORMAL_975
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))
