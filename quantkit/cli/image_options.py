"""How images are prepared: the same options on every command that reads images."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from quantkit.datasets.open import ImageOptions
from quantkit.types import ColorOrder, Interpolation, Layout, Resize

__all__ = ["with_image_options"]

_IMAGES = "Images"

_PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="Preset: imagenet (default for 3 channels), unit (0 to 1, for 1 channel), yolo, tf, clip, caffe, none.",
        rich_help_panel=_IMAGES,
    ),
]
_SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size", help="Height x width, such as 224 or 480x640 (default: the model's input).", rich_help_panel=_IMAGES
    ),
]
_ColorOption = Annotated[ColorOrder | None, typer.Option("--color", help="Channel order.", rich_help_panel=_IMAGES)]
_ResizeOption = Annotated[
    Resize | None,
    typer.Option(
        "--resize", help="How an image gets to that size; crop: shorter side, then centre.", rich_help_panel=_IMAGES
    ),
]
_ShorterSideOption = Annotated[
    int | None, typer.Option("--shorter-side", help="Pixels before the crop.", rich_help_panel=_IMAGES)
]
_InterpolationOption = Annotated[
    Interpolation | None, typer.Option("--interpolation", help="Pillow's filter.", rich_help_panel=_IMAGES)
]
_PadOption = Annotated[
    int | None, typer.Option("--pad-value", help="0 to 255, for letterbox.", rich_help_panel=_IMAGES)
]
_ScaleOption = Annotated[
    str | None, typer.Option("--scale", help="Factor on pixels 0 to 255, such as 1/255.", rich_help_panel=_IMAGES)
]
_MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean", help="Subtracted after scaling: one number, or one per channel: 0.5,0.5,0.5.", rich_help_panel=_IMAGES
    ),
]
_StdOption = Annotated[str | None, typer.Option("--std", help="Divisor, likewise.", rich_help_panel=_IMAGES)]
_LayoutOption = Annotated[
    Layout | None, typer.Option("--layout", help="Default: from the model's input.", rich_help_panel=_IMAGES)
]

_OPTIONS: dict[str, Any] = {
    "preprocess": _PresetOption,
    "size": _SizeOption,
    "color": _ColorOption,
    "resize": _ResizeOption,
    "shorter_side": _ShorterSideOption,
    "interpolation": _InterpolationOption,
    "pad_value": _PadOption,
    "scale": _ScaleOption,
    "mean": _MeanOption,
    "std": _StdOption,
    "layout": _LayoutOption,
}


def with_image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of images; what was said of them comes as its argument `images`, None for nothing.

    Typer reads options from a signature: this one is the command's without `images`, and the options at its end.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in _OPTIONS}
        command(**arguments, images=_image_options(**given))

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "images"]
    added = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=option)
        for name, option in _OPTIONS.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)} | {"return": None}
    return run


def _image_options(
    preprocess: str | None,
    size: str | None,
    color: ColorOrder | None,
    resize: Resize | None,
    shorter_side: int | None,
    interpolation: Interpolation | None,
    pad_value: int | None,
    scale: str | None,
    mean: str | None,
    std: str | None,
    layout: Layout | None,
) -> ImageOptions | None:
    """The options as given, or None where none was given."""
    options = ImageOptions(
        preset=preprocess,
        size=_parse_size(size),
        color=color,
        resize=resize,
        shorter_side=shorter_side,
        interpolation=interpolation,
        pad_value=pad_value,
        scale=_parse_scale(scale),
        mean=_parse_numbers("--mean", mean),
        std=_parse_numbers("--std", std),
        layout=layout,
    )
    return None if options == ImageOptions() else options


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is no size such as 224 or 480x640", param_hint="--size")
    return int(parts[0]), int(parts[-1])


def _parse_scale(text: str | None) -> float | None:
    if text is None:
        return None
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number such as 0.0039 or 1/255", param_hint="--scale") from None


def _parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number, nor numbers such as 0.5,0.5,0.5", param_hint=option) from None
