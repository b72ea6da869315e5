"""Subtracts an offset from an activation before it is quantized, and adds it back in the bias of its readers.

TensorRT quantizes activations symmetrically (zero point 0): a tensor of values in [0, 6] uses half of the codes. Around
the middle m of its range it uses all of them. The readers compute W (x - m) + (b + W m), which is exact where every
output sums over the whole kernel: in Gemm, in MatMul, and in a Conv without padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import Names, insert_elementwise, name_of
from quantkit.graph.passes.input_channels import (
    ChannelSite,
    add_to_bias,
    along_channels,
    as_stored,
    channel_sites,
    constant_weight,
    main_graph_values,
    takes_bias,
)
from quantkit.graph.passes.prepare import is_standard
from quantkit.types import QdqPlan

__all__ = ["apply_shifts", "shiftable_tensors"]

_SHIFTED = "quantkit.shift"
"""Mark of a tensor that has been shifted."""


def shiftable_tensors(model: ir.Model, plan: QdqPlan) -> dict[str, ChannelSite]:
    """Activations from which an offset can be subtracted, by name; none that was shifted or scaled already.

    Raises:
        ModelError: the plan was made from another graph.
    """
    values = main_graph_values(model)
    nodes = {name_of(node): node for node in model.graph}
    return {
        tensor: site
        for tensor, site in channel_sites(model, plan).items()
        if _SHIFTED not in values[tensor].meta and all(_takes_back(nodes[reader]) for reader in site.readers)
    }


def apply_shifts(
    model: ir.Model, plan: QdqPlan, shifts: Mapping[str, float | npt.NDArray[np.float32]]
) -> dict[str, str]:
    """Subtracts offsets from activations in place; everything that is not quantized keeps its values.

    A Sub is inserted for the quantized readers; graph outputs and float readers keep the old tensor. An activation that
    gets factors too is shifted first: (x - m) * s.

    Args:
        model: prepared. It computes the same afterwards, up to rounding of its float type.
        plan: of this graph. It does not fit afterwards: see `follow_edits`.
        shifts: one offset, or one for each channel [C], by name of an activation of `shiftable_tensors`.

    Returns:
        Name of the activation → name of the tensor that is to be quantized in its place.

    Raises:
        ModelError: an activation cannot be shifted or has been shifted already, or its offset is not one or C numbers.
    """
    sites = shiftable_tensors(model, plan)
    for tensor, shift in shifts.items():
        if tensor not in sites:
            raise ModelError(f"{tensor!r} cannot be shifted, or it was shifted or scaled before")
        if np.shape(shift) not in ((), (sites[tensor].channels,)) or not np.isfinite(shift).all():
            raise ModelError(f"{tensor!r} needs one finite offset or {sites[tensor].channels}, one for each channel")
    names = Names(model)
    values = main_graph_values(model)
    nodes = {name_of(node): node for node in model.graph}
    found = {}
    for tensor in (t for t in sites if t in shifts):
        site, value = sites[tensor], values[tensor]
        offset = as_stored(value, shifts[tensor])
        shifted = insert_elementwise(
            names, value, "Sub", site.broadcast(offset), result=f"{tensor}_shifted", constant=f"{tensor}_shift"
        )
        for reader in (nodes[name] for name in site.readers):
            add_to_bias(names, reader, _product(reader, np.broadcast_to(offset, (site.channels,))))
            reader.replace_input_with(0, shifted)
        shifted.meta[_SHIFTED] = True
        found[tensor] = name_of(shifted)
    return found


def _takes_back(node: ir.Node) -> bool:
    return not is_standard(node, "ConvTranspose") and not _is_padded(node) and takes_bias(node)


def _is_padded(node: ir.Node) -> bool:
    """Whether `node` is a convolution that may read beyond the border."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        return any(size != 1 for size in constant_weight(node).shape[2:])
    return automatic == "NOTSET" and any(node.attributes.get_ints("pads", ()))


def _product(node: ir.Node, offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What `node` computes of a constant activation `offset` [C], without its bias: [C_out]."""
    terms = constant_weight(node) * along_channels(node, offset)
    if is_standard(node, "Conv"):
        return np.asarray(terms.reshape(len(terms), -1).sum(1))
    axis = 1 if node.attributes.get_int("transB", 0) else 0  # MatMul has no such attribute
    return np.asarray(terms.sum(axis) * node.attributes.get_float("alpha", 1.0))
