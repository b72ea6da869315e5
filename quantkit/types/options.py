"""The options of each command: frozen dataclasses, checked when they are made.

The command line, configuration files, the keywords of the Python functions and what a calibration table stores of its
settings come from these fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantkit.errors import DatasetError
from quantkit.types.data import ColorOrder, Interpolation, Layout, Resize
from quantkit.types.option import TextForm, check_choices, option

__all__ = ["ImageOptions"]


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"invalid size {text!r}, expected e.g. 224 or 480x640")
    return int(parts[0]), int(parts[-1])


def _parse_ratio(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"invalid number {text!r}, expected e.g. 0.0039 or 1/255") from None


def _parse_numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"invalid numbers {text!r}, expected e.g. 0.5 or 0.5,0.5,0.5") from None


def _join(values: Any) -> str:
    return ",".join(map(repr, values))


_SIZE = TextForm(_parse_size, lambda size: f"{size[0]}x{size[1]}")
_RATIO = TextForm(_parse_ratio, repr)
_NUMBERS = TextForm(_parse_numbers, _join)

_IMAGES = "Images"


@dataclass(frozen=True)
class ImageOptions:
    """How images are prepared, as far as a user says it; the rest comes from the preset and the model's input.

    Example:
        >>> ImageOptions("yolo", size=(640, 640)).resize is None
        True
    """

    preset: str | None = option(
        None,
        "Preprocessing preset.",
        group=_IMAGES,
        flag="--preprocess",
        registry="quantkit.datasets.presets:PRESETS",
        is_open=True,
        default_text="imagenet for 3 channels, unit for 1, none for uint8 inputs",
    )
    size: tuple[int, int] | None = option(
        None,
        "Image size, height x width, e.g. 224 or 480x640.",
        group=_IMAGES,
        form=_SIZE,
        default_text="the model's input",
    )
    color: ColorOrder | None = option(None, "Channel order.", group=_IMAGES)
    resize: Resize | None = option(
        None,
        "Resize mode: stretch to the size, center crop after resizing the shorter side, or letterbox.",
        group=_IMAGES,
    )
    shorter_side: int | None = option(
        None, "Resize the shorter side to this many pixels before the center crop.", group=_IMAGES, unit="pixels"
    )
    interpolation: Interpolation | None = option(None, "Interpolation filter of the resize (Pillow's).", group=_IMAGES)
    pad_value: int | None = option(None, "Letterbox padding value (0-255).", group=_IMAGES)
    scale: float | None = option(
        None, "Factor that pixel values (0-255) are multiplied by, e.g. 1/255.", group=_IMAGES, form=_RATIO
    )
    mean: tuple[float, ...] | None = option(
        None,
        "Per-channel mean, subtracted after scaling: one number or one per channel, e.g. 0.5,0.5,0.5.",
        group=_IMAGES,
        form=_NUMBERS,
    )
    std: tuple[float, ...] | None = option(
        None,
        "Per-channel standard deviation, divided by after the mean: one number or one per channel.",
        group=_IMAGES,
        form=_NUMBERS,
    )
    layout: Layout | None = option(None, "Input layout.", group=_IMAGES, default_text="inferred from the model")

    def __post_init__(self) -> None:
        check_choices(self, DatasetError)
