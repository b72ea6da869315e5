"""Multiplies the channels of an activation by factors before it is quantized, and divides the weights of its readers.

One scale for all channels of an activation rounds the channels of small range away. Factors that make their ranges
equal keep them; the model computes the same in exact arithmetic. At depthwise convolutions they cost nothing, since
each channel has its own weight scale (cross-layer equalization, Nagel et al., ICCV 2019); elsewhere they move the
difficulty into the weights (SmoothQuant, Xiao et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import Names, insert_behind, name_of
from quantkit.graph.passes.input_channels import (
    SCALED,
    ChannelSite,
    along_channels,
    as_stored,
    channel_sites,
    float_type,
    main_graph_values,
)
from quantkit.graph.passes.scale_folding import ConstantFactor, find_folding
from quantkit.types import QdqPlan


def scalable_tensors(
    model: ir.Model, plan: QdqPlan, *, attention: bool = False, grouped: bool = False
) -> dict[str, ChannelSite]:
    """Activations whose channels can be scaled, by name; not those that `apply_channel_scales` has scaled already.

    Args:
        model: prepared; edited or not.
        plan: of this graph.
        attention: also the outputs of attention, where the Mul costs the fused kernel.
        grouped: also what shares its scale with others, whose Concat may move floats then.

    Raises:
        ModelError: the plan was made from another graph.
    """
    return {
        tensor: site
        for tensor, site in channel_sites(model, plan).items()
        if (attention or not site.is_attention_output) and (grouped or not site.is_grouped)
    }


def is_foldable(model: ir.Model, site: ChannelSite) -> bool:
    """Whether factors of `site` go into constants before it; otherwise they take a Mul."""
    return _folding(main_graph_values(model)[site.tensor], site, np.ones(site.channels)) is not None


def apply_channel_scales(
    model: ir.Model, plan: QdqPlan, scales: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, str]:
    """Scales the channels of activations in place; everything that is not quantized keeps its values.

    The factor is folded into constants before the activation where that is exact and only the quantized readers read
    it. Elsewhere a Mul is inserted for the quantized readers: graph outputs and float readers keep the old tensor.

    Args:
        model: prepared. It computes the same afterwards, up to rounding of its float type.
        plan: of this graph. It does not fit afterwards: see `follow_edits`.
        scales: positive factors [C] by name of an activation of `scalable_tensors`, any kind.

    Returns:
        Name of the activation → name of the tensor that holds the scaled values, which is to be quantized in its place.
        Where the factor was folded it is the same name: the activation itself is scaled. Either way the range of
        channel c is `scales[c]` times what it was.

    Raises:
        ModelError: an activation cannot be scaled or has been scaled already, or its factors are not [C] and positive.
    """
    sites = scalable_tensors(model, plan, attention=True, grouped=True)
    for tensor, factors in scales.items():
        if tensor not in sites:
            raise ModelError(f"the channels of {tensor!r} cannot be scaled, or they were scaled before")
        if np.shape(factors) != (sites[tensor].channels,) or not (np.isfinite(factors) & (factors > 0)).all():
            raise ModelError(f"{tensor!r} needs a positive factor for each of its {sites[tensor].channels} channels")
    names = Names(model)
    values = main_graph_values(model)
    nodes = {name_of(node): node for node in model.graph}
    # In the order of the plan: which reader of a shared weight gets a copy must not depend on the caller.
    found = {}
    for tensor in (t for t in sites if t in scales):
        site = sites[tensor]
        exact = as_stored(values[tensor], scales[tensor])
        scaled = _scale(names, values[tensor], site, exact)
        for reader in site.readers:
            ConstantFactor(nodes[reader], 1, 1 / along_channels(nodes[reader], exact)).apply(names)
            nodes[reader].replace_input_with(0, scaled)
        scaled.meta[SCALED] = True
        found[tensor] = name_of(scaled)
    return found


def _scale(names: Names, value: ir.Value, site: ChannelSite, factors: npt.NDArray[np.float64]) -> ir.Value:
    """The scaled tensor: `value` itself, if the factors can be folded."""
    folding = _folding(value, site, factors)
    if folding is not None:
        for constant in folding:
            constant.apply(names)
        return value
    operand = site.broadcast(factors).astype(float_type(value))
    new = (f"{site.tensor}_scaled", f"{site.tensor}_channel_scale")
    return insert_behind(names, value, "Mul", operand, result=new[0], constant=new[1], shape=value.shape)


def _folding(value: ir.Value, site: ChannelSite, factors: npt.NDArray[np.float64]) -> list[ConstantFactor] | None:
    is_read_otherwise = value.is_graph_output() or len(value.uses()) != len(site.readers)
    return None if is_read_otherwise else find_folding(value, site.axis, factors)
