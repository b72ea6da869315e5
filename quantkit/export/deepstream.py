"""The [property] group of DeepStream's nvinfer: the model, and the preprocessing in its terms.

nvinfer computes ``net-scale-factor * (pixel - offset)``, with one factor for all channels and an offset for each.

Source: DeepStream's documentation of Gst-nvinfer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantkit.errors import DatasetError
from quantkit.types import Preprocessing

_COLORS = {"RGB": 0, "BGR": 1, "L": 2}
_FILTERS = {"nearest": 0, "bilinear": 1}
_BLACK = 0


@dataclass(frozen=True)
class NvinferProperties:
    """Keys and values, and where they differ from the preprocessing that the model was calibrated with."""

    values: Mapping[str, str]
    differences: tuple[str, ...]


def preprocessing_properties(how: Preprocessing) -> NvinferProperties:
    """The preprocessing of a table in nvinfer's terms.

    Raises:
        DatasetError: a user's function prepares the images.

    Example:
        >>> preprocessing_properties(Preprocessing((640, 640), resize="letterbox", scale=1 / 255)).values["offsets"]
        '0;0;0'
    """
    if how.function is not None:
        raise DatasetError(f"{how.function} prepares the images: DeepStream needs a preprocessing library of its own")
    channels = how.channels
    means, stds = (values * channels if len(values) == 1 else values for values in (how.mean, how.std))
    # (pixel * scale - mean) / std = scale / std * (pixel - mean / scale)
    std = sum(stds) / channels
    differences = []
    if len(set(stds)) > 1:
        worst = max(abs(value / std - 1) for value in stds)
        differences.append(
            f"nvinfer has one scale for all channels: {std:.6g} stands for std {_listed(stds)}, up to {worst:.1%} off"
        )
    if how.resize == "letterbox" and how.pad_value != _BLACK:
        differences.append(f"nvinfer pads with black, the model was calibrated with {how.pad_value}")
    if how.resize not in ("stretch", "letterbox"):
        differences.append(f"nvinfer has no resize like {how.resize!r}: images are stretched")
    if how.interpolation not in _FILTERS:
        differences.append(f"nvinfer has no {how.interpolation} filter: bilinear is taken")
    height, width = how.size
    values = {
        "net-scale-factor": f"{how.scale / std:.10g}",
        "offsets": ";".join(f"{mean / how.scale:.10g}" for mean in means),
        "model-color-format": str(_COLORS[how.color]),
        "infer-dims": f"{channels};{height};{width}",
        "network-input-order": "0" if how.layout == "NCHW" else "1",
        "maintain-aspect-ratio": str(int(how.resize == "letterbox")),
        "symmetric-padding": str(int(how.resize == "letterbox" and how.pad_position == "center")),
        "scaling-filter": str(_FILTERS.get(how.interpolation, _FILTERS["bilinear"])),
    }
    return NvinferProperties(values, tuple(differences))


def properties_text(values: Mapping[str, str], differences: tuple[str, ...]) -> str:
    """The group as a configuration file holds it; what differs is a comment above it."""
    return (
        "\n".join([*(f"# {text}" for text in differences), "[property]", *(f"{k}={v}" for k, v in values.items())])
        + "\n"
    )


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
