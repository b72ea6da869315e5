"""Ranges for each channel of an activation, and asymmetric ones, in graphs that know neither.

Channels are shifted and scaled before an activation is quantized, and the weights and biases of its readers take it
back exactly: `quantkit.graph.passes.shift` and `quantkit.graph.passes.channel_scale`. Where that pays is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quantkit.graph.passes.channel_scale import is_foldable, scalable_tensors
from quantkit.graph.passes.input_channels import ChannelSite, WeightRows, main_graph_values, weight_amax, weight_rows
from quantkit.graph.passes.prepare import is_standard
from quantkit.graph.passes.shift import shiftable_tensors
from quantkit.graph.pieces import GraphPieces
from quantkit.numerics import QuantParams
from quantkit.refinement.equalize import equalizing_scales, least_error_scales, rounding_error
from quantkit.refinement.observation import ChannelValues, channel_values
from quantkit.refinement.range_choice import RangeChoice
from quantkit.refinement.trials import Trials
from quantkit.types import QdqPlan, QuantFormat, Refinement

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.refinement.samples import SampleBatches

_WORTH = 0.8
"""A transform is used where it leaves at most this share of the damage."""

_LEAST_SHARE = 0.1
"""Share of the mean damage of an activation: what does less is left alone."""

_POINTWISE = (
    *("Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus"),
    *("Gelu", "Mish", "Swish", "Erf", "Add", "Sub", "Mul", "Div", "LayerNormalization", "RMSNormalization"),
)
"""Operators whose kernels take one more factor along."""

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
        values: what their channels hold, by name.
    """

    scalable: Mapping[str, ChannelSite]
    shiftable: frozenset[str]
    values: Mapping[str, ChannelValues]


def find_sites(graph: ir.Model, plan: QdqPlan, samples: SampleBatches, *, padded: bool = True) -> TransformSites:
    """The inner activations of a plan that can be transformed. Model inputs are left as they come.

    So are readers of a shared weight: each would need a weight of its own, under a name that depends on what else is
    quantized, and rounded weights are kept by name.

    Args:
        graph: the float model, prepared.
        plan: of that graph.
        samples: to see the channels on.
        padded: shift also what convolutions with padding read, which takes a Pad.
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
    shiftable = frozenset(name for name in shiftable_tensors(graph, plan, padded=padded) if name in scalable)
    values = channel_values(pieces, {name: site.axis for name, site in scalable.items()}, samples.batches)
    return TransformSites(scalable, shiftable, values)


def choose_transforms(
    trials: Trials, sites: TransformSites, choices: Mapping[str, RangeChoice]
) -> tuple[dict[str, Transform], dict[str, RangeChoice]]:
    """Tries shifts, and for INT8 scales where these are free: in front of depthwise convolutions.

    The middle of the range becomes 0 for INT8; for FP8, whose step is relative to the value, the mean does.

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
            known = sites.values[name], choice.amax
            if trials.format.kind == "float":
                tried = _around_means(*known) if name in sites.shiftable else iter(())
            else:
                tried = _transforms(site, *known, is_shiftable=name in sites.shiftable)
            for transform in tried:
                after = trial.damage(*_broadcast(site, transform, trials.format))
                is_wider = best is None or transform.amax >= best.amax
                if after < (damage if is_wider else _WORTH * damage):
                    best, damage = transform, after
        if best is not None:
            found[name], left[name] = best, replace(choice, damage=damage)
    return found, left


def equalize(
    graph: ir.Model, sites: TransformSites, transforms: Mapping[str, Transform], alphas: Sequence[float]
) -> list[dict[str, Transform]]:
    """The transforms, with scales at the inputs of all matrix products that move difficulty into the weights
    (SmoothQuant): one set for each share.

    Args:
        graph: the float model, prepared.
        sites: of it.
        transforms: chosen already.
        alphas: how much of the difficulty the weights take, 0 to 1.
    """
    found = [dict(transforms) for _ in alphas]
    for name, plain, reach, rows in _unscaled(graph, sites, transforms):
        if sites.scalable[name].axis != -1:
            continue
        largest = weight_amax(rows, len(reach))
        for alpha, result in zip(alphas, found, strict=True):
            result[name] = _scaled(plain, equalizing_scales(reach, largest, alpha=alpha), reach)
    return found


def balance(
    graph: ir.Model,
    sites: TransformSites,
    transforms: Mapping[str, Transform],
    choices: Mapping[str, RangeChoice],
    weight_share: float,
) -> dict[str, Transform]:
    """The transforms, with scales where they take no kernel and leave clearly less error of the layers, as expected.

    Args:
        graph: the float model, prepared.
        sites: of it.
        transforms: chosen already.
        choices: range of each activation.
        weight_share: which share of the error of weights that are rounded to nearest will be left.
    """
    found = dict(transforms)
    for name, plain, reach, rows in _unscaled(graph, sites, transforms):
        site, variance = sites.scalable[name], sites.values[name].variance
        if name not in choices or not _is_cheap(graph, site):
            continue
        if name not in transforms:
            plain = replace(plain, amax=choices[name].amax)
        factors = least_error_scales(rows, variance, reach, weight_share=weight_share)
        scaled = _scaled(plain, factors, reach)
        errors = (rounding_error(rows, variance, _factors(site, t), t.amax) for t in (plain, scaled))
        before, after = (of_activation + weight_share * of_weights for of_activation, of_weights in errors)
        if after < _WORTH * before:
            found[name] = scaled
    return found


def _unscaled(
    graph: ir.Model, sites: TransformSites, transforms: Mapping[str, Transform]
) -> Iterator[tuple[str, Transform, Floats, list[WeightRows]]]:
    """Activations without scales, unless for depthwise readers: name, transform so far, reach, weights that read it."""
    for name, site in sites.scalable.items():
        plain, values = transforms.get(name) or Transform(None, None, 0.0), sites.values[name]
        if site.is_depthwise or plain.factors is not None:
            continue
        reach = _reach(values.low, values.high, plain.offset)
        if np.isfinite(reach).all() and reach.any():  # else zero on all of these samples: nothing is known of it
            yield name, plain, reach, weight_rows(graph, site)


def _scaled(plain: Transform, factors: Floats, reach: Floats) -> Transform:
    return Transform(plain.offset, factors, _largest(factors * reach))


def _factors(site: ChannelSite, transform: Transform) -> Floats:
    return np.ones(site.channels, np.float32) if transform.factors is None else transform.factors


def _is_cheap(graph: ir.Model, site: ChannelSite) -> bool:
    """Whether scaling the activation takes no kernel: it goes into constants, or into what is computed pointwise."""
    if is_foldable(graph, site):
        return True
    producer = main_graph_values(graph)[site.tensor].producer()
    return producer is not None and is_standard(producer, *_POINTWISE)


def with_transforms(refinement: Refinement, transforms: Mapping[str, Transform]) -> Refinement:
    """A refinement with these transforms instead of its own."""
    return replace(
        refinement,
        shifts={name: t.offset for name, t in transforms.items() if t.offset is not None},
        channel_scales={name: t.factors for name, t in transforms.items() if t.factors is not None},
        amax={name: t.amax for name, t in transforms.items()},
    )


def transforms_of(refinement: Refinement) -> dict[str, Transform]:
    """The transforms of a refinement: the inverse of `with_transforms`."""
    shifts, scales = refinement.shifts, refinement.channel_scales
    return {name: Transform(shifts.get(name), scales.get(name), amax) for name, amax in refinement.amax.items()}


def are_same_transforms(one: Mapping[str, Transform], other: Mapping[str, Transform]) -> bool:
    """Whether both do the same to every activation."""

    def values(transform: Transform) -> list[list[float] | None]:
        return [None if a is None else a.tolist() for a in (transform.offset, transform.factors)]

    return one.keys() == other.keys() and all(values(one[name]) == values(other[name]) for name in one)


def _transforms(site: ChannelSite, values: ChannelValues, amax: float, *, is_shiftable: bool) -> Iterator[Transform]:
    """What can be tried on an activation whose chosen range is [-amax, amax]: for all that was seen, and within that.

    Other samples hold larger values: a range that clips channels must be clearly better on these.
    """
    seen = values.low, values.high
    clipped = np.maximum(values.low, np.float32(-amax)), np.minimum(values.high, np.float32(amax))
    for low, high in (seen,) if np.array_equal(clipped, seen) else (seen, clipped):
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).any()):
            continue
        # Zero has to stay in the range: padding is zeros.
        middle = np.asarray((np.minimum(low, 0) + np.maximum(high, 0)) / 2, np.float32)
        for offset in (None, middle) if is_shiftable else (None,):
            reach = _reach(low, high, offset)
            if offset is not None:
                yield Transform(offset, None, _largest(reach))
            if site.is_depthwise:
                factors = equalizing_scales(reach)
                yield Transform(offset, factors, _largest(factors * reach))


def _around_means(values: ChannelValues, amax: float) -> Iterator[Transform]:
    """Subtracts the mean of each channel where much of the mean square is in it: the error of FP8 is a share of that.

    A wide range costs FP8 nothing: it holds whatever [-amax, amax] becomes.
    """
    offset = np.asarray(values.mean, np.float32)
    square = (values.variance + np.square(values.mean)).sum()
    if np.isfinite(offset).all() and values.variance.sum() <= _WORTH * square:
        yield Transform(offset, None, float(np.float32(amax + np.abs(offset).max())))


def _reach(low: Floats, high: Floats, offset: Floats | None) -> Floats:
    """Largest magnitude of each channel behind the shift."""
    moved = np.float32(0) if offset is None else offset
    return np.asarray(np.maximum(np.abs(low - moved), np.abs(high - moved)), np.float32)


def _largest(reach: Floats) -> float:
    """As it is stored: in float32."""
    return float(np.float32(reach.max()))


def _broadcast(site: ChannelSite, transform: Transform, fmt: QuantFormat) -> tuple[Floats, Floats]:
    """Step of the codes in units of the activation, and offset, in shapes that broadcast against it."""
    offset = np.zeros(site.channels, np.float32) if transform.offset is None else transform.offset
    step = site.broadcast(QuantParams.from_amax(transform.amax, fmt).scale / _factors(site, transform))
    return np.asarray(step, np.float32), np.asarray(site.broadcast(offset), np.float32)
