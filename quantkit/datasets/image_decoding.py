"""Encoded images to pixels: what is decoded, and how. Which files there are is left to folder and list."""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from quantkit.datasets.preprocess import fit_pixels, upright
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing

UNREAD: dict[str, str] = {}
"""What reads the images of suffixes that nothing installed here reads."""


def _optional_formats() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Suffixes and formats that Pillow or a plugin reads here; what is missing goes to `UNREAD`."""
    suffixes: list[str] = []
    formats: list[str] = []
    if "avif" in features.modules and features.check_module("avif"):  # older ones warn when they are asked
        suffixes.append(".avif")
        formats.append("AVIF")
    else:
        UNREAD[".avif"] = "pip install 'pillow>=11.3'"
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        suffixes += [".heic", ".heif"]
        formats.append("HEIF")
    else:
        UNREAD.update(dict.fromkeys((".heic", ".heif"), "pip install pillow-heif"))
    return tuple(suffixes), tuple(formats)


_OPTIONAL = _optional_formats()
IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *_OPTIONAL[0],
)
# Only these decoders are tried, whatever the name says: others run programs (EPS) or are rarely hardened.
READ_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", *_OPTIONAL[1])
Box = tuple[float, float, float, float]
_PIL_MODULES = re.compile(r"PIL\.")


class Pixels(NamedTuple):
    """A decoded image.

    Attributes:
        levels: [H, W, C], as `fit_pixels` gives them.
        size: (height, width) of the upright image, or of its part, before it was resized.
    """

    levels: npt.NDArray[np.uint8]
    size: tuple[int, int]


def decode_pixels(content: bytes, box: Box | None, preprocessing: Preprocessing) -> Pixels:
    """Decodes an image, or the part of it that lies in a box, and resizes it. Raises as `opened_image`."""
    with opened_image(content, box) as image:
        turned = upright(image)
        return Pixels(fit_pixels(turned, preprocessing), (turned.height, turned.width))


@contextmanager
def opened_image(content: bytes, box: Box | None) -> Iterator[Image.Image]:
    """The decoded image of a file's content, or the part that lies in a box.

    Args:
        content: of the file.
        box: left, top, right, bottom in pixels of the upright image; None for all of it.

    Raises:
        DatasetError: the box holds no pixel.
        Exception: on damaged files Pillow's decoders raise nearly anything.
    """
    silence_pillow()
    # No draft mode: decoding a JPEG at a fraction of its size is faster, but gives other pixels.
    with Image.open(io.BytesIO(content), formats=READ_FORMATS) as image:
        image.load()
        yield image if box is None else crop(image, box)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part of the upright image that lies in the box, rounded to whole pixels."""
    image = upright(image)
    left, top = (max(0, round(edge)) for edge in box[:2])
    right, bottom = (min(size, round(edge)) for edge, size in zip(box[2:], image.size, strict=True))
    if left >= right or top >= bottom:
        raise DatasetError(f"box {box} holds no pixel of the image, {image.width} x {image.height}")
    part = image.crop((left, top, right, bottom))
    part.info = {key: value for key, value in image.info.items() if key == "transparency"}  # no second orientation
    return part


def silence_pillow() -> None:
    """Keeps the warnings that Pillow's own modules raise (large images, odd tags) off stderr.

    `warnings.catch_warnings` is not safe in threads, so the filter stays; it concerns no code outside Pillow.
    """
    wanted = ("ignore", None, Warning, _PIL_MODULES, 0)
    if not warnings.filters or warnings.filters[0] != wanted:
        warnings.filterwarnings("ignore", category=Warning, module=_PIL_MODULES.pattern)


def describe_content(start: bytes, expected: str) -> str:
    """What a file is that is not what was expected, by its first bytes."""
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image: run git lfs pull"
    return f"not {expected}"


def first_line(error: BaseException) -> str:
    """The first line of what a decoder says."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
