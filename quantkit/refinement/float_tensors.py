"""Which tensors stay in float: those that do most of the damage, as long as leaving them out buys something."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantkit.types import QdqEdge

_GAIN_PER_WORK = 2.0
"""What a unit in float must take from the damage, as a share of it, for each share of the multiply-adds that it costs:
less is better spent elsewhere."""

_LEAST_GAIN = 0.03
"""What it must take whatever it costs: less cannot be told from chance."""

_LARGEST = 1e30
"""Stands for damage that is not finite: whatever makes it finite pays."""

_FLOAT_WEIGHTS = 0.15
"""Up to this share of the weights, units in float are judged by their multiply-adds alone. Beyond, a unit must take its
share of the weights from the damage: they take four times the bytes."""

_TINY = 1e-6
"""Share of the multiply-adds: none at all is divided by."""

_WIDTH = 5
"""So many units, the most harmful alone, are tried in company before the best of them is taken."""

_MOST_UNITS = 12


Measure = Callable[[Sequence[tuple[str, ...]]], list[float]]
"""From sets of units to the damage of the model with each of them in float."""

Share = Callable[[Iterable[str]], float]
"""From units to their share of the model, 0 to 1."""


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
    ranking: Collection[str],
    units: Mapping[str, Sequence[QdqEdge]],
    work: Mapping[str, int],
    measure: Measure,
    *,
    limit: float,
    enough: float,
    weights: Mapping[str, int] | None = None,
) -> FloatChoice:
    """Leaves unit after unit in float while the damage falls: each time the one that saves most in company.

    What does most damage alone need not do so in company: of those that come next by rank, a few are tried, and later
    on only those again that might still be the best (lazy evaluation: Minoux, 1978). A unit that would exceed the limit
    is passed over: a cheaper one may come. Where none of them pays, the next few are tried, once.

    Args:
        ranking: units, the most harmful first.
        units: their edges.
        work: multiply-adds of every weighted operator.
        measure: damage of the model with sets of units in float.
        limit: share of the multiply-adds that may run in float, 0 to 1.
        enough: damage at which nothing more is left in float.
        weights: how many numbers every weighted operator stores; None where they shall not count.
    """
    share, stored = _share_of(units, work), _share_of(units, weights or {})
    (before,) = measure([()])
    damage = min(before, _LARGEST)
    chosen: tuple[str, ...] = ()
    waiting, has_looked_further = list(ranking), False
    saved: dict[str, float] = {}  # by a unit, in the company in which it was tried last
    while damage > enough and len(chosen) < _MOST_UNITS:
        affordable = [name for name in waiting if share([*chosen, name]) <= limit][:_WIDTH]
        tried: dict[str, float] = {}
        while True:
            paying = [n for n in affordable if saved.get(n, 0) > damage * _least_gain(share, stored, chosen, n)]
            best = max(paying, key=lambda n: saved[n], default=None)
            if best in tried:
                break
            # Those that have not been tried at all come first; of the others mostly the best one is enough.
            again = [n for n in affordable if n not in saved] or ([best] if best else affordable)
            if not (again := [n for n in again if n not in tried]):
                break
            for name, found in zip(again, measure([(*chosen, name) for name in again]), strict=True):
                tried[name] = min(found, _LARGEST)
                saved[name] = damage - tried[name]
        if best is not None:
            chosen, damage = (*chosen, best), tried[best]
            waiting.remove(best)
        elif affordable and not has_looked_further:
            waiting, has_looked_further = [n for n in waiting if n not in affordable], True  # the rank may mislead
        else:
            break
    return FloatChoice(chosen, before, damage if chosen else before, share(chosen))


def choose_additive(
    damages: Mapping[str, float],
    units: Mapping[str, Sequence[QdqEdge]],
    work: Mapping[str, int],
    measure: Measure,
    *,
    limit: float,
    enough: float,
    weights: Mapping[str, int] | None = None,
) -> FloatChoice:
    """The same where what units do alone adds up: those that save most for their multiply-adds, if the model is better.

    Args:
        damages: of the units alone.
        units: their edges.
        work: multiply-adds of every weighted operator.
        measure: damage of the model with sets of units in float.
        limit: share of the multiply-adds that may run in float, 0 to 1.
        enough: damage at which nothing more is left in float.
        weights: as there.
    """
    share, stored, left = _share_of(units, work), _share_of(units, weights or {}), sum(damages.values())
    chosen: tuple[str, ...] = ()
    for name in sorted(damages, key=lambda name: damages[name] / (share([name]) + _TINY), reverse=True):
        least = _least_gain(share, stored, chosen, name)
        if left > enough and share([*chosen, name]) <= limit and damages[name] >= left * least:
            chosen, left = (*chosen, name), left - damages[name]
    before, after = measure([(), chosen])
    return FloatChoice(chosen, before, after, share(chosen)) if after < before else FloatChoice((), before, before, 0)


def _share_of(units: Mapping[str, Sequence[QdqEdge]], work: Mapping[str, int]) -> Share:
    """Tells which share some units take of what the operators take (multiply-adds, weights)."""
    total = max(sum(work.values()), 1)

    def share(names: Iterable[str]) -> float:
        nodes = {edge.node for name in names for edge in units[name]}
        return sum(work.get(node, 0) for node in nodes) / total

    return share


def _least_gain(share: Share, stored: Share, chosen: tuple[str, ...], name: str) -> float:
    """What one unit more must take from the damage, as a share of it."""
    weights = stored((*chosen, name))
    for_weights = weights - stored(chosen) if weights > _FLOAT_WEIGHTS else 0.0
    return max(_LEAST_GAIN, _GAIN_PER_WORK * (share((*chosen, name)) - share(chosen)), for_weights)
