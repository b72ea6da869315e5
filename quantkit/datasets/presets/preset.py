"""What a preset says of a model's images, and the registry of presets."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.types import ColorOrder, Interpolation, Resize


@dataclass(frozen=True)
class Preset:
    """A `Preprocessing` before the model's size, layout and type are known.

    Attributes:
        color, resize, interpolation, pad_value, scale: as in `Preprocessing`.
        mean, std: likewise, in the order of `color`.
        shorter_side_ratio: shorter side over the larger side of the crop, for "crop".
        normalization: what `quantkit data check` calls its mean and std when it tries them on a model; "" if it does
            not, since another preset has the same.
    """

    color: ColorOrder = "RGB"
    resize: Resize = "stretch"
    shorter_side_ratio: float = 1.0
    interpolation: Interpolation = "bilinear"
    pad_value: int = 114
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    normalization: str = ""


PRESETS: dict[str, Preset] = {}
"""By the name that `--preprocess` takes; filled by the modules of this folder."""
