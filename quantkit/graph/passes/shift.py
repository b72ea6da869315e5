"""Subtracts an offset from an activation before it is quantized, and adds it back in the bias of its readers.

TensorRT quantizes activations symmetrically (zero point 0): a tensor of values in [0, 6] uses half of the codes. Around
the middle m of its range it uses all of them. The readers compute W (x - m) + (b + W m), which is exact where every
output sums over the whole kernel: in Gemm, in MatMul, and in a Conv without padding. The zeros that a Conv with padding
adds have to become -m: a Pad adds them before the subtraction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import Names, insert_behind, name_of
from quantkit.graph.passes.input_channels import (
    ChannelSite,
    add_to_bias,
    along_channels,
    as_stored,
    bias_input,
    channel_sites,
    constant_weight,
    float_type,
    main_graph_values,
)
from quantkit.graph.passes.prepare import is_standard
from quantkit.types import QdqPlan

_SHIFTED = "quantkit.shift"
"""Mark of a tensor that has been shifted."""


def shiftable_tensors(
    model: ir.Model, plan: QdqPlan, *, padded: bool = False, attention: bool = False, grouped: bool = False
) -> dict[str, ChannelSite]:
    """Activations from which an offset can be subtracted, by name; none that was shifted or scaled already.

    Args:
        model: prepared; edited or not.
        plan: of this graph.
        padded: also those that convolutions with padding read, all of them with the same. Their range has to hold
            zero, and they get a Pad. TensorRT-RTX fuses it with the activation function before it, like the Sub, but
            not with a Concat.
        attention: also the outputs of attention, where the Sub costs the fused kernel.
        grouped: also what shares its scale with others, whose Concat may move floats then.

    Raises:
        ModelError: the plan was made from another graph.
    """
    values = main_graph_values(model)
    nodes = {name_of(node): node for node in model.graph}
    found = {}
    for tensor, site in channel_sites(model, plan).items():
        readers = [nodes[name] for name in site.readers]
        pads = {_pads(node) for node in readers}
        if _SHIFTED in values[tensor].meta or not all(bias_input(node) for node in readers):
            continue
        if (site.is_attention_output and not attention) or (site.is_grouped and not grouped):
            continue
        if pads == {()} or (padded and len(pads) == 1 and None not in pads):
            found[tensor] = site
    return found


def apply_shifts(
    model: ir.Model, plan: QdqPlan, shifts: Mapping[str, float | npt.NDArray[np.float32]]
) -> dict[str, str]:
    """Subtracts offsets from activations in place; everything that is not quantized keeps its values.

    A Sub is inserted for the quantized readers; graph outputs and float readers keep the old tensor. An activation that
    gets factors too is shifted first: (x - m) * s.

    Args:
        model: prepared. It computes the same afterwards, up to rounding of its float type.
        plan: of this graph. It does not fit afterwards: see `follow_edits`.
        shifts: one offset, or one for each channel [C], by name of an activation of `shiftable_tensors`, any kind.

    Returns:
        Name of the activation → name of the tensor that is to be quantized in its place. Where the readers have
        padding, that is padded already: it holds zeros minus the offset at its border.

    Raises:
        ModelError: an activation cannot be shifted or has been shifted already, or its offset is not one or C numbers.
    """
    sites = shiftable_tensors(model, plan, padded=True, attention=True, grouped=True)
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
        site = sites[tensor]
        readers = [nodes[name] for name in site.readers]
        offset = as_stored(values[tensor], shifts[tensor])
        value = _pad(names, values[tensor], readers)
        operand = site.broadcast(offset).astype(float_type(value))
        new = (f"{tensor}_shifted", f"{tensor}_shift")
        shifted = insert_behind(names, value, "Sub", operand, result=new[0], constant=new[1], shape=value.shape)
        for reader in readers:
            add_to_bias(
                names,
                reader,
                constant_product(reader, constant_weight(reader), np.broadcast_to(offset, (site.channels,))),
            )
            reader.replace_input_with(0, shifted)
        shifted.meta[_SHIFTED] = True
        found[tensor] = name_of(shifted)
    return found


def _pads(node: ir.Node) -> tuple[int, ...] | None:
    """What a weighted `node` adds to its activation: () if nothing, else as in ONNX; None if that is not known."""
    if is_standard(node, "ConvTranspose"):
        return None  # near the border fewer weights meet
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        return () if all(size == 1 for size in constant_weight(node).shape[2:]) else None
    pads = tuple(node.attributes.get_ints("pads", ()))
    return pads if automatic == "NOTSET" and any(pads) else ()


def _pad(names: Names, value: ir.Value, readers: Sequence[ir.Node]) -> ir.Value:
    """`value` with the zeros that its `readers` add to it, which then do not add them."""
    pads = _pads(readers[0])
    if not pads:
        return value
    begins, ends = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    shape = None
    if value.shape is not None:
        added = [0, 0, *(begin + end for begin, end in zip(begins, ends, strict=True))]
        shape = ir.Shape(
            [d + a if isinstance(d, int) else (None if a else d) for d, a in zip(value.shape, added, strict=True)]
        )
    for reader in readers:
        reader.attributes.pop("pads")
    amounts = np.array([0, 0, *begins, 0, 0, *ends], np.int64)
    new = (f"{value.name}_padded", f"{value.name}_pads")
    return insert_behind(names, value, "Pad", amounts, result=new[0], constant=new[1], shape=shape)


def constant_product(
    node: ir.Node, weight: npt.NDArray[np.floating], values: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """What a weighted `node` would compute with `weight` of an activation that is `values` [C] everywhere: [C_out].

    Its bias, and the border of a convolution with padding, are left out.
    """
    terms = np.asarray(weight, np.float64) * along_channels(node, np.asarray(values, np.float64))
    if is_standard(node, "Conv"):
        return np.asarray(terms.reshape(len(terms), -1).sum(1))
    axis = 1 if node.attributes.get_int("transB", 0) else 0  # MatMul has no such attribute
    return np.asarray(terms.sum(axis) * node.attributes.get_float("alpha", 1.0))
