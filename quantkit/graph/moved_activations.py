"""Which activations of a quantized model are shifted or scaled, and how they follow from those of the float model.

A Pad, Sub or Mul that was inserted for the quantized readers is in the graph. A factor that was folded into constants
is not: the model's metadata tells it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.passes.prepare import constant_of, is_standard

FOLDED_KEY = "quantkit.folded_channel_scales"
"""In the metadata of a quantized model, as JSON: by activation the axis of its channels, from the end, and factors."""

_MOST_AXES = 16
"""Behind that of the channels; no activation has more."""


@dataclass(frozen=True, eq=False)
class Movement:
    """What is quantized in place of an activation x: ``x * factor + offset``; a border of padding is left out.

    Attributes:
        tensor: name of the activation, in both models.
        folded: the quantized model holds ``x * folded`` under that name.
        factor, offset: broadcast against x.
    """

    tensor: str
    folded: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]

    @property
    def text(self) -> str:
        """What `factor` and `offset` do: "shifted", "scaled", "shifted, scaled", or nothing."""
        return ", ".join(["shifted"] * bool(self.offset.any()) + ["scaled"] * bool((self.factor != 1).any()))


UNMOVED = Movement("", np.ones((), np.float32), np.ones((), np.float32), np.zeros((), np.float32))
"""An activation that is quantized as it is."""


def remember_folded(model: ir.Model, factors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Writes factors that were folded into constants, [C, 1, ...], to the metadata of a quantized model."""
    entries = {
        name: {"axis": -factor.ndim, "factors": [float(str(number)) for number in factor.reshape(-1)]}
        for name, factor in factors.items()
    }
    if entries:
        model.metadata_props[FOLDED_KEY] = json.dumps(entries)


def find_movement(
    value: ir.Value, known: Container[str], folded: Mapping[str, npt.NDArray[np.float32]]
) -> Movement | None:
    """What `value`, which a model quantizes, is of an activation of the float model; None if it is none of them.

    Args:
        value: of the quantized model.
        known: names of the float model's activations.
        folded: factors from `folded_factors`.
    """
    factor, offset = UNMOVED.factor, UNMOVED.offset
    while (name := str(value.name)) not in known:
        node = value.producer()
        if node is None or not is_standard(node, "Pad", "Sub", "Mul"):
            return None
        before, constant = node.inputs[0], constant_of(node.inputs[1])
        if before is None or constant is None:
            return None
        # What lies behind this node is in factor and offset already.
        if node.op_type == "Sub":
            offset = offset - factor * np.asarray(constant.numpy(), np.float32)
        elif node.op_type == "Mul":
            factor = factor * np.asarray(constant.numpy(), np.float32)
        value = before
    within = folded.get(name, UNMOVED.folded)
    whole = np.asarray(factor * within, np.float32)
    if not (np.isfinite(whole).all() and (whole > 0).all()):
        return None
    return Movement(name, within, whole, np.asarray(offset, np.float32))


def folded_factors(model: ir.Model) -> dict[str, npt.NDArray[np.float32]]:
    """Factors by activation, as `remember_folded` left them; none where they cannot be read."""
    try:
        found = json.loads(model.metadata_props.get(FOLDED_KEY, "{}"))
        return {
            name: np.asarray(entry["factors"], np.float32).reshape(-1, *(1,) * min(-entry["axis"] - 1, _MOST_AXES))
            for name, entry in found.items()
        }
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
