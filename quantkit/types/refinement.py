"""What makes a quantized model better than ranges alone: rounded weights, corrected biases, channel scales, shifts, and
tensors in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantkit.types.quantization import QuantFormat, weight_format

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class RoundedWeight:
    """Quantized values of a weight that were not simply rounded to nearest.

    Attributes:
        codes: the shape of the weight, in the array type that stores them: int8 for integers of any number of bits.
        scale: float32, [C] along `axis`, or [] for one scale; of a format with blocks, one for each block.
        axis: dimension that the scales belong to; None for one scale.
        format: of the codes; None is `weight_format(axis)`.
    """

    codes: npt.NDArray[Any]
    scale: npt.NDArray[np.float32]
    axis: int | None
    format: QuantFormat | None = None

    @property
    def stored_format(self) -> QuantFormat:
        """`format`, decided."""
        return self.format or weight_format(self.axis)

    def fits(self, axis: int | None, fmt: QuantFormat) -> bool:
        """Whether a plan that asks for this format can use it; 7 bits were rounded as 8 with fewer codes."""
        known = (self.stored_format,) if self.format else (self.stored_format, weight_format(axis, bits=7))
        return self.axis == axis and fmt in known


@dataclass(frozen=True)
class Refinement:
    """What was found on calibration samples, beside the ranges of a calibration table.

    Attributes:
        weights: by name of the initializer.
        biases: float32 [C_out] by name of the weighted node: what is added to its bias.
        shifts: float32 [C] by name of an activation: what is subtracted from its channels before it is quantized, and
            added back by the bias of its readers.
        channel_scales: float32 [C] by name of an activation: its channels are multiplied by them then, and the weights
            of its readers divided.
        amax: range of what is quantized in place of an activation that is shifted or scaled, by its name.
        float_tensors: activations whose readers stay in float, with the reason; of INT8 the table itself has them.
    """

    weights: Mapping[str, RoundedWeight] = field(default_factory=dict)
    biases: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    channel_scales: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    shifts: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    amax: Mapping[str, float] = field(default_factory=dict)
    float_tensors: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.weights or self.biases or self.channel_scales or self.shifts or self.float_tensors)
