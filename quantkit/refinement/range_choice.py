"""Method "auto": for each tensor the range that hurts the output least when this tensor alone is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from quantkit.calibration.methods import METHODS, bind_method
from quantkit.calibration.methods.mse import mean_squared_error
from quantkit.calibration.statistics import merge
from quantkit.numerics import QuantParams
from quantkit.progress import show_progress
from quantkit.refinement.trials import Trials
from quantkit.types import QdqEdge, QdqPlan, TensorRange, TensorStatistics

_PERCENTILES = (99.9, 99.999)
_NARROW = 0.7
"""Share of the range of least squared error: narrower than any method's, which pays in some detectors."""

_NARROW_NAME = f"mse x {_NARROW}"
_WORTH = 0.8
"""Share of the damage of any method's range that the narrow one must leave at most: few samples say little of it."""

_SAME = 0.04
"""Candidates closer than this share are one: the wider is kept."""

_TIE = 0.05
"""Damage within this share is equal: the wider range clips less of what was not seen."""

_SMALL_SHARE = 0.1
"""Share of the mean damage of a unit: one that does less need not be searched."""


@dataclass(frozen=True)
class RangeChoice:
    """The range of a unit, and what it was chosen from.

    Attributes:
        amax: chosen.
        method: whose range it is.
        damage: to the output, where this unit alone is quantized.
        tried: damage by method, of all that was tried.
    """

    amax: float
    method: str
    damage: float
    tried: Mapping[str, float]


def quantized_units(plan: QdqPlan) -> dict[str, tuple[QdqEdge, ...]]:
    """Edges that share a scale, by the name of their first tensor: all readers of a tensor, or of its group."""
    leader = {name: min(group) for group in plan.groups for name in group}
    units: dict[str, list[QdqEdge]] = {}
    for edge in plan.activations:
        units.setdefault(leader.get(edge.tensor, edge.tensor), []).append(edge)
    return {edges[0].tensor: tuple(edges) for edges in units.values()}


def range_candidates(statistics: TensorStatistics, others: Mapping[str, float] | None = None) -> dict[str, float]:
    """Amax by method, the widest first, without those that are nearly equal to a wider one.

    Args:
        statistics: of the tensor.
        others: candidates of another origin, by its name.
    """
    found = {name: bind_method(name, {})(statistics) for name in METHODS if name != "auto"} | dict(others or {})
    found |= {f"percentile {p}": bind_method("percentile", {"percentile": p})(statistics) for p in _PERCENTILES}
    found[_NARROW_NAME] = _NARROW * found["mse"]
    kept: dict[str, float] = {}
    for name, amax in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        if amax > 0 and all(amax < other * (1 - _SAME) for other in kept.values()):
            kept[name] = amax
    return kept


def choose_by_output(
    trials: Trials,
    candidates: Mapping[str, Mapping[str, float]],
    statistics: Mapping[str, TensorStatistics],
    *,
    progress: bool,
) -> dict[str, RangeChoice]:
    """Tries the candidates of every unit, one unit at a time with everything else in float.

    Each unit is tried with the range of least squared error first. Only those that do more than a small share of the
    damage are searched. What the few samples of the trials show is corrected by what all samples say: the damage counts
    as often as the squared error in the statistics is larger than that in the trial, since few samples hold few of the
    large values that a narrow range clips.

    Args:
        trials: the float model on a few samples.
        candidates: amax by method, for each unit.
        statistics: of each unit, over all samples.
        progress: show a progress bar.

    Returns:
        By unit, in network order.
    """
    tried: dict[str, dict[str, float]] = {}
    for unit, ranges in show_progress(candidates.items(), "trying ranges", len(candidates), progress):
        first = min(ranges, key=lambda name: (abs(ranges[name] - ranges.get("mse", 0.0)), name))
        tried[unit] = _try(trials, unit, ranges, [first], statistics[unit])
    mean = sum(min(damages.values()) for damages in tried.values()) / max(len(tried), 1)
    worth = [unit for unit in tried if len(candidates[unit]) > 1 and min(tried[unit].values()) > _SMALL_SHARE * mean]
    for unit in show_progress(worth, "searching ranges", len(worth), progress):
        rest = [name for name in candidates[unit] if name not in tried[unit]]
        tried[unit] |= _try(trials, unit, candidates[unit], rest, statistics[unit])
    return {unit: _choose(candidates[unit], damages) for unit, damages in tried.items()}


def _try(
    trials: Trials, unit: str, ranges: Mapping[str, float], methods: Iterable[str], statistics: TensorStatistics
) -> dict[str, float]:
    found = {}
    with trials.of(unit) as trial:
        for name in methods:
            scale = float(QuantParams.from_amax(ranges[name]).scale)
            seen = trial.squared_error(scale)
            expected = mean_squared_error(statistics, ranges[name])
            found[name] = trial.damage(scale) * max(expected / seen if seen > 0 else 1.0, 1.0)
    return found


def _choose(ranges: Mapping[str, float], tried: Mapping[str, float]) -> RangeChoice:
    known = {name: damage for name, damage in tried.items() if name != _NARROW_NAME}
    if known and tried.get(_NARROW_NAME, np.inf) >= _WORTH * min(known.values()):
        tried = known
    least = min(tried.values())
    name = next(n for n in sorted(tried, key=lambda n: -ranges[n]) if tried[n] <= least * (1 + _TIE))
    return RangeChoice(ranges[name], name, tried[name], tried)


def joined_statistics(statistics: Iterable[TensorStatistics]) -> TensorStatistics:
    """Statistics of tensors that share a scale. Those of TensorRT's rule do not merge: the widest stands for all."""
    found = list(statistics)
    if any(s.rule != "exact" for s in found):
        return max(found, key=lambda s: s.amax)
    return reduce(merge, found)


def ranges_of_methods(
    names: Iterable[str],
    own: Mapping[str, TensorRange],
    statistics: Mapping[str, TensorStatistics],
    others: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[str, dict[str, TensorRange]]]:
    """Each method or other origin with its ranges of these tensors."""
    for method in (*sorted(METHODS.keys() - {"auto"}), *others):
        amax = others.get(method)
        if amax is None:
            choose = bind_method(method, {})
            amax = {name: choose(statistics[name]) for name in names}
        yield method, {name: replace(own[name], amax=amax[name], method=method) for name in names if name in amax}
