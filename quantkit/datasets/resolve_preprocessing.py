"""How a preset is resolved for a model's input; `preprocess` applies the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantkit.datasets.preprocess import pixel_table
from quantkit.datasets.preprocessor_config import reads_config, with_config
from quantkit.datasets.presets import PRESETS, Preset
from quantkit.errors import DatasetError
from quantkit.registry import suggest
from quantkit.types import ColorOrder, Layout, Preprocessing, TensorSpec
from quantkit.types.option import make_options
from quantkit.types.options import ImageOptions


def resolve_preprocessing(spec: TensorSpec, options: ImageOptions | None = None, **keywords: Any) -> Preprocessing:
    """Fits a preset to a model's input. What is given explicitly goes before the preset.

    Without a preset, three channels take "imagenet", one channel "unit", and uint8 inputs "none". A preset's three
    means and stds become their average for a one-channel input, and are reversed where `color` reverses its channels.
    Explicit means and stds are in the order of `color`.

    Args:
        spec: the model's only input, of shape [N, C, H, W] or [N, H, W, C].
        options: what is given explicitly.
        keywords: fields of `ImageOptions`, instead of those in `options`; an integer `size` is the side of a square.

    Raises:
        DatasetError: an unknown preset, an input that images cannot fill, or a setting that contradicts the model.

    Example:
        >>> import numpy as np
        >>> resolve_preprocessing(TensorSpec("x", np.dtype("float32"), ("n", 3, 8, 8)), preset="clip").interpolation
        'bicubic'
    """
    given = make_options(ImageOptions, options, keywords)
    if reads_config(given.preset):
        given = with_config(given)
    channels, layout = _channels(spec, given.layout, given.color)
    preset = given.preset
    if preset is None:
        preset = "none" if spec.dtype == "uint8" else ("imagenet" if channels == 3 else "unit")
    base = _preset(preset)
    color = given.color or (("RGB" if base.color == "L" else base.color) if channels == 3 else "L")
    height, width = _size(spec, layout, given.size)
    resize, shorter_side = given.resize or base.resize, given.shorter_side
    if resize == "crop" and shorter_side is None:
        shorter_side = round(max(height, width) * base.shorter_side_ratio)
    dtype = spec.dtype.name
    if dtype not in ("float32", "float16", "float64", "uint8", "int8"):
        raise DatasetError(f"images cannot fill input {spec.name!r} of type {dtype}: save its samples as .npz")
    preprocessing = Preprocessing(
        size=(height, width),
        color=color,
        resize=resize,
        shorter_side=shorter_side,
        interpolation=given.interpolation or base.interpolation,
        pad_value=base.pad_value if given.pad_value is None else given.pad_value,
        pad_position=given.pad_position or ("top-left" if resize == "height" else "center"),
        multiple_of=given.multiple_of,
        pixel_max=given.pixel_max,
        scale=base.scale if given.scale is None else given.scale,
        mean=_per_channel(base.mean, base.color, color) if given.mean is None else tuple(given.mean),
        std=_per_channel(base.std, base.color, color) if given.std is None else tuple(given.std),
        layout=layout,
        dtype=dtype,
    )
    check_varying(preprocessing, spec)
    pixel_table(preprocessing)  # refuses a mapping that the type cannot hold, before any image is read
    return preprocessing


def check_varying(preprocessing: Preprocessing, spec: TensorSpec) -> None:
    """Refuses images of their own size for a model that takes only one."""
    dims = spec.shape[2:4] if preprocessing.layout == "NCHW" else spec.shape[1:3]
    for side, dim, varies in zip(("height", "width"), dims, preprocessing.varying, strict=True):
        if varies and isinstance(dim, int):
            how = "--resize limit" if preprocessing.resize == "limit" else f"--multiple-of {preprocessing.multiple_of}"
            raise DatasetError(
                f"{how} gives each image a {side} of its own, but input {spec.name!r} of shape {_show(spec.shape)} has "
                "a fixed one: take --resize letterbox without --multiple-of"
            )


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise DatasetError(f"--preprocess: there is no {name!r}: {suggest(name.lower(), PRESETS)}")
    return PRESETS[name]


def _per_channel(values: tuple[float, ...], known: ColorOrder, wanted: ColorOrder) -> tuple[float, ...]:
    if len(values) == 1:
        return values
    if wanted == "L":
        return (sum(values) / len(values),)
    return values if known == wanted else values[::-1]


def _channels(spec: TensorSpec, layout: Layout | None, color: ColorOrder | None) -> tuple[int, Layout]:
    shape, name = spec.shape, f"input {spec.name!r} of shape {_show(spec.shape)}"
    if len(shape) != 4:
        raise DatasetError(f"images do not match {name}: it is not [N, C, H, W] or [N, H, W, C]; use .npy or .npz data")
    if layout is None:
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first and last:
            raise DatasetError(f"{name} can be NCHW or NHWC: say which with --layout")
        if not first and not last:
            if any(isinstance(n, int) for n in (shape[1], shape[3])):
                raise DatasetError(
                    f"images do not match {name}: no dimension holds 1 or 3 channels; use .npy or .npz data"
                )
            raise DatasetError(f"{name} does not say where its channels are: use --layout NCHW or NHWC")
        layout = "NCHW" if first else "NHWC"
    count = shape[1 if layout == "NCHW" else 3]
    if not isinstance(count, int):
        count = 1 if color == "L" else 3
    if count not in (1, 3):
        raise DatasetError(f"images do not match {name}: {layout} gives it {count} channels; use .npy or .npz data")
    if color is not None and (color == "L") != (count == 1):
        raise DatasetError(f"color {color} has {1 if color == 'L' else 3} channels, but {name} has {count}")
    return count, layout


def _size(spec: TensorSpec, layout: Layout, size: int | tuple[int, int] | None) -> tuple[int, int]:
    dims = spec.shape[2:4] if layout == "NCHW" else spec.shape[1:3]
    given = (size, size) if isinstance(size, int) else size
    if given is None:
        if not (isinstance(dims[0], int) and isinstance(dims[1], int)):
            raise DatasetError(f"input {spec.name!r} of shape {_show(spec.shape)} has no fixed image size: pass --size")
        return dims[0], dims[1]
    if any(isinstance(dim, int) and dim != value for dim, value in zip(dims, given, strict=True)):
        raise DatasetError(
            f"--size {given[0]}x{given[1]} contradicts input {spec.name!r} of shape {_show(spec.shape)} ({layout}): "
            "leave it out"
        )
    return given


def _show(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"
