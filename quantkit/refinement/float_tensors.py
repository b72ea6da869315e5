"""Which tensors stay in float: those that do most of the damage, as long as leaving them out buys something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantkit.types import QdqEdge

__all__ = ["FloatChoice", "choose_float_tensors"]

_GAIN = 0.9
"""A unit is left in float where at most this share of the damage remains."""

_MOST_FAILURES = 6
"""The search ends behind so many units in a row that were not worth it."""


@dataclass(frozen=True)
class FloatChoice:
    """What stays in float, and what it does.

    Attributes:
        units: names, the most harmful first.
        before, after: damage with everything quantized, and with these units in float.
        share: of the multiply-adds that then run in float.
    """

    units: tuple[str, ...]
    before: float
    after: float
    share: float


def choose_float_tensors(
    ranking: Sequence[str],
    units: Mapping[str, Sequence[QdqEdge]],
    work: Mapping[str, int],
    measure: Callable[[tuple[str, ...]], float],
    *,
    limit: float,
    enough: float,
) -> FloatChoice:
    """Leaves unit after unit in float, by rank, while the damage falls.

    A unit that is not worth it, or would exceed the limit, is passed over: a better or cheaper one may come.

    Args:
        ranking: units, the most harmful first.
        units: their edges.
        work: multiply-adds of every weighted operator.
        measure: damage of the model with some units in float.
        limit: share of the multiply-adds that may run in float, 0 to 1.
        enough: damage at which nothing more is left in float.
    """
    total = max(sum(work.values()), 1)

    def share(names: Iterable[str]) -> float:
        nodes = {edge.node for name in names for edge in units[name]}
        return sum(work.get(node, 0) for node in nodes) / total

    before = damage = measure(())
    chosen: tuple[str, ...] = ()
    failures = 0
    for name in ranking:
        if damage <= enough or failures == _MOST_FAILURES:
            break
        if share([*chosen, name]) > limit:
            continue
        after = measure((*chosen, name))
        if after < damage * _GAIN:
            chosen, damage, failures = (*chosen, name), after, 0
        else:
            failures += 1
    return FloatChoice(chosen, before, damage, share(chosen))
