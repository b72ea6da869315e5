"""Hugging Face's `preprocessor_config.json`: what an image processor does, as image options.

Field names and defaults: transformers, image_processing_utils.py and the models' image_processing_*.py (4.x and 5.x).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from quantkit.errors import DatasetError
from quantkit.machine import decode_text, read_input
from quantkit.types import Interpolation
from quantkit.types.options import ImageOptions

# Pillow's Image.Resampling, which the field `resample` holds by number.
_FILTERS: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
_NOT_SAID = (
    "rescale_offset",
    "do_thumbnail",
    "do_align_long_axis",
    "do_image_splitting",
    "do_pan_and_scan",
)
"""Steps that no option describes."""
_ONLY_CROPS_BELOW = 384
"""ConvNeXt's processor: `crop_pct` has no meaning from this size on."""


def reads_config(preset: str | None) -> bool:
    """Whether --preprocess names such a file."""
    return preset is not None and preset.lower().endswith(".json")


def with_config(given: ImageOptions) -> ImageOptions:
    """The options of the file that `given.preset` names; what is given besides goes before.

    Raises:
        DatasetError: it cannot be read, is no configuration of images, or has a step that no option describes.
    """
    path = Path(str(given.preset))
    said = {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name) is not None}
    found = _read(path)
    if {"resize", "size"} & said.keys() and found.shorter_side is not None:
        ratio = found.shorter_side / max(found.size or (1, 1))
        side = round(max(given.size or found.size or (1, 1)) * ratio)
        found = replace(found, shorter_side=side if given.resize in (None, "crop") else None)
    return replace(found, **{**said, "preset": "none"})


def _read(path: Path) -> ImageOptions:
    stored = read_input(path, DatasetError)
    try:
        config = json.loads(decode_text(stored))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    config = config.get("image_processor", config) if isinstance(config, dict) else config
    if not isinstance(config, dict) or not {"image_mean", "do_resize", "do_rescale", "do_normalize"} & config.keys():
        raise DatasetError(f"{path} says nothing of images: a preprocessor_config.json of an image processor is needed")
    for name in _NOT_SAID:
        if config.get(name):
            raise _refuse(path, f"{name} is set")
    try:
        return _options(path, config)
    except (TypeError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: {type(error).__name__} {error}: not the form of an image processor") from error


def _options(path: Path, config: Mapping[str, Any]) -> ImageOptions:
    resample = config.get("resample", 2)
    if resample not in _FILTERS:
        raise _refuse(path, f"resample is {resample!r}")
    normalizes = config.get("do_normalize", "image_mean" in config)
    return replace(
        _geometry(path, config),
        color="BGR" if config.get("do_flip_channel_order") else "RGB",
        interpolation=_FILTERS[resample],
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        mean=_numbers(config["image_mean"]) if normalizes else (0.0,),
        std=_numbers(config["image_std"]) if normalizes else (1.0,),
    )


def _geometry(path: Path, config: Mapping[str, Any]) -> ImageOptions:
    """Size, resize mode and shorter side."""
    crops = bool(config.get("do_center_crop"))
    if config.get("do_pad"):
        raise _refuse(path, "do_pad is set")
    if not config.get("do_resize", True):
        raise _refuse(path, "do_resize is off: images keep their size")
    size = config["size"]
    if isinstance(size, int):  # before 4.26: the shorter side where a crop follows
        size = {"shortest_edge": size} if crops or "crop_pct" in config else {"height": size, "width": size}
    if "height" in size:
        target = (int(size["height"]), int(size["width"]))
        if crops and _crop_size(config) != target:
            raise _refuse(path, "images are stretched and then cropped")
        return ImageOptions(size=target, resize="stretch")
    if "shortest_edge" not in size or "longest_edge" in size:
        raise _refuse(path, f"size is {size}")
    side = int(size["shortest_edge"])
    if config.get("crop_pct") is not None:
        if side >= _ONLY_CROPS_BELOW:
            return ImageOptions(size=(side, side), resize="stretch")
        return ImageOptions(size=(side, side), resize="crop", shorter_side=int(side / config["crop_pct"]))
    if not crops:
        raise _refuse(path, f"size is {size} without a crop: images keep their aspect")
    return ImageOptions(size=_crop_size(config), resize="crop", shorter_side=side)


def _crop_size(config: Mapping[str, Any]) -> tuple[int, int]:
    size = config["crop_size"]
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (values if isinstance(values, list) else [values]))


def _refuse(path: Path, reason: str) -> DatasetError:
    return DatasetError(f"{path}: {reason}, which no image option describes: use --preprocess file.py:function")
