"""Ranges for each channel of an activation, and asymmetric ones, in graphs that know neither.

Channels are shifted and scaled before an activation is quantized, and the weights and biases of its readers take it
back exactly: `quantkit.graph.passes.shift` and `quantkit.graph.passes.channel_scale`. Where that pays is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quantkit.graph.passes.channel_scale import scalable_tensors
from quantkit.graph.passes.input_channels import ChannelSite, weight_amax
from quantkit.graph.passes.shift import shiftable_tensors
from quantkit.graph.pieces import GraphPieces
from quantkit.refinement.equalize import equalizing_scales
from quantkit.refinement.observation import channel_extremes
from quantkit.refinement.range_choice import RangeChoice
from quantkit.refinement.trials import Trials
from quantkit.types import QdqPlan, Refinement

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.refinement.samples import SampleBatches

__all__ = ["Transform", "TransformSites", "choose_transforms", "equalize_products", "find_sites", "with_transforms"]

_WORTH = 0.8
"""A transform is used where it leaves at most this share of the damage."""

_LEAST_SHARE = 0.1
"""Of the mean damage of an activation: whatever does less is left alone."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Transform:
    """What an activation becomes before it is quantized: (x - offset) * factors, within [-amax, amax].

    Attributes:
        offset: [C], or None.
        factors: [C], or None.
        amax: of the result.
    """

    offset: Floats | None
    factors: Floats | None
    amax: float


@dataclass(frozen=True)
class TransformSites:
    """Activations whose channels can be transformed, and what their channels hold.

    Attributes:
        scalable: by name, where channels can be scaled.
        shiftable: names, where an offset can be subtracted.
        low, high: smallest and largest value of each channel, by name.
    """

    scalable: Mapping[str, ChannelSite]
    shiftable: frozenset[str]
    low: Mapping[str, Floats]
    high: Mapping[str, Floats]


def find_sites(graph: ir.Model, plan: QdqPlan, samples: SampleBatches) -> TransformSites:
    """The inner activations of a plan that can be transformed. Model inputs are left as they come.

    So are readers of a shared weight: each would need a weight of its own, under a name that depends on what else is
    quantized, and rounded weights are kept by name.

    Args:
        graph: the float model, prepared.
        plan: of that graph.
        samples: to see the channels on.
    """
    pieces = GraphPieces(graph)
    weights = {edge.node: edge.tensor for edge in plan.weights}
    shared = {name for name, value in graph.graph.initializers.items() if len(value.uses()) > 1}
    scalable = {
        name: site
        for name, site in scalable_tensors(graph, plan).items()
        if site.channels > 1
        and name in pieces.producers
        and shared.isdisjoint(weights.get(reader, "") for reader in site.readers)
    }
    shiftable = frozenset(name for name in shiftable_tensors(graph, plan, padded=True) if name in scalable)
    extremes = channel_extremes(pieces, {name: site.axis for name, site in scalable.items()}, samples.batches)
    low, high = ({name: pair[side] for name, pair in extremes.items()} for side in (0, 1))
    return TransformSites(scalable, shiftable, low, high)


def choose_transforms(
    trials: Trials, sites: TransformSites, choices: Mapping[str, RangeChoice]
) -> tuple[dict[str, Transform], dict[str, RangeChoice]]:
    """Tries shifts, and scales where these are free: in front of depthwise convolutions.

    Returns:
        The transforms that pay, and the choices with the damage that they leave.
    """
    least = _LEAST_SHARE * sum(choice.damage for choice in choices.values()) / max(len(choices), 1)
    found: dict[str, Transform] = {}
    left = dict(choices)
    for name, site in sites.scalable.items():
        choice = choices.get(name)
        if choice is None or choice.damage <= least:
            continue
        best, damage = None, _WORTH * choice.damage
        with trials.of(name) as trial:
            for transform in _transforms(site, sites, choice.amax):
                step, offset = _broadcast(site, transform)
                if (after := trial.damage(step, offset)) < damage:
                    best, damage = transform, after
        if best is not None:
            found[name], left[name] = best, replace(choice, damage=damage)
    return found, left


def equalize_products(
    graph: ir.Model, sites: TransformSites, transforms: Mapping[str, Transform], *, alpha: float
) -> dict[str, Transform]:
    """The transforms, with scales at the inputs of matrix products that take part of the difficulty into the weights.

    Args:
        graph: the float model, prepared.
        sites: of it.
        transforms: chosen already.
        alpha: how much of the difficulty the weights take, 0 to 1 (SmoothQuant).
    """
    found = dict(transforms)
    for name, site in sites.scalable.items():
        if site.is_depthwise or site.axis != -1 or (name in found and found[name].factors is not None):
            continue
        offset = found[name].offset if name in found else None
        reach = _reach(sites.low[name], sites.high[name], offset)
        if not (np.isfinite(reach).all() and reach.any()):  # zero on all of these samples: nothing is known of it
            continue
        factors = equalizing_scales(reach, weight_amax(graph, site), alpha=alpha)
        found[name] = Transform(offset, factors, _largest(factors * reach))
    return found


def with_transforms(refinement: Refinement, transforms: Mapping[str, Transform]) -> Refinement:
    """A refinement with these transforms instead of its own."""
    return replace(
        refinement,
        shifts={name: t.offset for name, t in transforms.items() if t.offset is not None},
        channel_scales={name: t.factors for name, t in transforms.items() if t.factors is not None},
        amax={name: t.amax for name, t in transforms.items()},
    )


def _transforms(site: ChannelSite, sites: TransformSites, amax: float) -> Iterator[Transform]:
    """What can be tried on an activation whose chosen range is [-amax, amax]."""
    low = np.maximum(sites.low[site.tensor], np.float32(-amax))
    high = np.minimum(sites.high[site.tensor], np.float32(amax))
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).any()):
        return
    offsets: list[Floats | None] = [None]
    if site.tensor in sites.shiftable:
        # Zero has to stay in the range: padding is zeros.
        offsets.append(np.asarray((np.minimum(low, 0) + np.maximum(high, 0)) / 2, np.float32))
    for offset in offsets:
        reach = _reach(low, high, offset)
        if offset is not None:
            yield Transform(offset, None, _largest(reach))
        if site.is_depthwise:
            factors = equalizing_scales(reach)
            yield Transform(offset, factors, _largest(factors * reach))


def _reach(low: Floats, high: Floats, offset: Floats | None) -> Floats:
    """Largest magnitude of each channel behind the shift."""
    moved = np.float32(0) if offset is None else offset
    return np.asarray(np.maximum(np.abs(low - moved), np.abs(high - moved)), np.float32)


def _largest(reach: Floats) -> float:
    """As it is stored: in float32."""
    return float(np.float32(reach.max()))


def _broadcast(site: ChannelSite, transform: Transform) -> tuple[Floats, Floats]:
    """Step of the codes in units of the activation, and offset, in shapes that broadcast against it."""
    factors = np.ones(site.channels, np.float32) if transform.factors is None else transform.factors
    offset = np.zeros(site.channels, np.float32) if transform.offset is None else transform.offset
    step = site.broadcast(transform.amax / 127 / factors)
    return np.asarray(step, np.float32), np.asarray(site.broadcast(offset), np.float32)
