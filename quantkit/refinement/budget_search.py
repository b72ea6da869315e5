"""The smallest set of units to leave in float that meets a budget, by few evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

_MOST_PRUNED = 6
"""Units that are tried in INT8 again at the end."""


def find_smallest_set(
    ranking: Sequence[str],
    costs: Callable[[tuple[str, ...]], Mapping[str, float]],
    is_met: Callable[[tuple[str, ...]], bool],
) -> tuple[str, ...] | None:
    """Leaves the first units of a ranking in float: as few as meet the budget, then without those that need not be.

    1, 2, 4, 8, ... units until the budget is met, bisection in between, then the costliest of them back into INT8, one
    at a time. Takes about ``2 log2(n) + 6`` evaluations.

    Args:
        ranking: names of units, the most harmful first.
        costs: what leaving each of these units in float costs; one without a cost stays in float.
        is_met: whether the budget is met with these units in float.

    Returns:
        Names in the order of the ranking; None where even all of them do not meet it.

    Example:
        >>> alike = lambda units: dict.fromkeys(units, 1.0)
        >>> find_smallest_set("abcdefgh", alike, lambda units: {"b", "e"} <= set(units))
        ('b', 'e')
    """
    if is_met(()):
        return ()
    if not ranking:
        return None
    low, high = 0, 1
    while not is_met(tuple(ranking[:high])):
        if high >= len(ranking):
            return None
        low, high = high, min(2 * high, len(ranking))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_met(tuple(ranking[:middle])) else (middle, high)
    chosen = tuple(ranking[:high])
    # The last one is needed: without it the budget was missed.
    cost = costs(chosen) if len(chosen) > 1 else {}
    for name in sorted(cost.keys() & set(chosen[:-1]), key=lambda name: (-cost[name], chosen.index(name)))[
        :_MOST_PRUNED
    ]:
        rest = tuple(other for other in chosen if other != name)
        if is_met(rest):
            chosen = rest
    return chosen
