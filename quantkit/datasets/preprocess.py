"""From a Pillow image to a model input, exactly as `Preprocessing` says. Reading files is left to `image_files`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from quantkit.errors import DatasetError
from quantkit.machine import raise_if_out_of_memory
from quantkit.numerics import fit_image
from quantkit.types import Array, ColorOrder, Preprocessing

# EXIF 2.32, tag 0x0112: what brings the stored pixels upright, by value of the tag. 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset((5, 6, 7, 8))
_ORIENTATION = 0x0112
# Twice Pillow's limit for a warning: where Pillow itself refuses to read an image.
_MAX_RESIZED_PIXELS = 2 * 89_478_485
_KERNEL: Any = None
"""The compiled form of `look_up`; None where it was not built: NumPy looks up."""
with suppress(ImportError):
    _KERNEL = importlib.import_module("quantkit.datasets._pixels")

# Fewer levels than this out of 256 mean that float values were sent to an integer input.
_MIN_LEVELS = 16


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Array:
    """Turns an image into one sample of a model's input.

    The EXIF orientation is applied, the colors are converted to RGB or gray (ITU-R 601-2, as Pillow's "L"), the image
    is resized by Pillow on 8-bit pixels, and each pixel goes through `pixel_table`.

    Alpha is dropped, as `convert("RGB")` does: transparent pixels keep the color that is stored under them.
    16-bit greys (I;16*, and I, which holds them in some Pillow versions) are divided by 257; pixels of mode F are
    taken as 0 to 255; where `pixel_max` is declared, both are scaled so that it becomes 255, and cut off there. CMYK,
    YCbCr, LAB and HSV are converted by Pillow without a color profile.

    Args:
        image: of any Pillow mode and size; it is not changed.
        preprocessing: what to do.

    Returns:
        C-contiguous array of `preprocessing.dtype`, shape [C, H, W] or [H, W, C].

    Raises:
        DatasetError: pixels whose range is not known, or an image too narrow to be resized in memory.
    """
    return look_up(fit_pixels(upright(image), preprocessing), preprocessing)


def fit_pixels(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """An upright image in its model's colors and at its size, as levels; see `preprocess`.

    Returns:
        Array [H, W, C]; three colors are in the order RGB.
    """
    pixels = np.asarray(_resize(_colors(image, preprocessing.color, preprocessing.pixel_max), preprocessing))
    return pixels.reshape(*pixels.shape[:2], preprocessing.channels)


def look_up(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, out: Array | None = None) -> Array:
    """What `pixel_table` has for each level.

    Args:
        pixels: [H, W, C], C-contiguous, three colors in the order RGB.
        preprocessing: names the order of the colors, the layout and the type of the result.
        out: C-contiguous, of that type and shape, to write the result to.

    Returns:
        C-contiguous array of `preprocessing.dtype`, shape [C, H, W] or [H, W, C].
    """
    table = pixel_table(preprocessing)
    is_planar, is_reversed = preprocessing.layout == "NCHW", preprocessing.color == "BGR"
    result = np.empty(_shape(pixels, preprocessing), table.dtype) if out is None else out
    if _KERNEL is not None:
        _KERNEL.look_up(pixels, table, result, is_planar, is_reversed)
        return result
    channels = pixels.shape[-1]
    for c in range(channels):
        levels = pixels[:, :, channels - 1 - c if is_reversed else c]
        # uint8 is always within the 256 entries; mode "clip" spares numpy the check and a buffer.
        result[c if is_planar else (..., c)] = np.take(table[c], levels, mode="clip")
    return result


def _shape(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> tuple[int, ...]:
    height, width, channels = pixels.shape
    return (channels, height, width) if preprocessing.layout == "NCHW" else pixels.shape


class PixelInput(Mapping[str, Array]):
    """The inputs of a model that takes an image: levels, a quarter of the memory, until somebody takes the values.

    Attributes:
        shape: of the values, [C, H, W] or [H, W, C].
        dtype: of the values.
    """

    def __init__(self, name: str, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> None:
        self._name, self._pixels, self._preprocessing = name, pixels, preprocessing
        self.shape = _shape(pixels, preprocessing)
        self.dtype = np.dtype(preprocessing.dtype)

    def __getitem__(self, name: str) -> Array:
        if name != self._name:
            raise KeyError(name)
        return look_up(self._pixels, self._preprocessing)

    def __contains__(self, name: object) -> bool:
        return name == self._name  # a `Mapping` would take the values to find out

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1

    def write(self, out: Array) -> None:
        """Writes the values to a C-contiguous array of their shape and type."""
        look_up(self._pixels, self._preprocessing, out)


def upright(image: Image.Image) -> Image.Image:
    """The image as it is to be seen, its EXIF orientation applied."""
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def show_colors(image: Image.Image, pixel_max: float | None = None) -> Image.Image:
    """The image in mode "L" or "RGB", as `preprocess` sees it."""
    gray = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
    return _colors(image, "L" if gray else "RGB", pixel_max)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in pixels of an image as it is to be seen, its EXIF orientation applied."""
    width, height = image.size
    return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


@lru_cache(maxsize=64)
def pixel_table(preprocessing: Preprocessing) -> Array:
    """Value of each pixel level: ``(v * scale - mean) / std`` in float64, rounded once to `preprocessing.dtype`.

    Returns:
        Read-only array [channels, 256].

    Raises:
        DatasetError: the type cannot hold a value, or an integer type keeps too few levels to show an image.
    """
    levels = np.arange(256, dtype=np.float64)[None, :]
    mean, std = (_column(values, preprocessing.channels) for values in (preprocessing.mean, preprocessing.std))
    exact = (levels * preprocessing.scale - mean) / std
    dtype = np.dtype(preprocessing.dtype)
    shown = f"preprocessing maps pixels to {exact.min():g} .. {exact.max():g}"
    remedy = "take --preprocess none" + (" --mean 128" if dtype == np.int8 else "")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            table = exact.astype(dtype)
        if not np.isfinite(table).all():
            raise DatasetError(f"{shown}, which {dtype} cannot hold: change scale, mean or std")
    else:
        rounded, info = np.rint(exact), np.iinfo(dtype)
        if rounded.min() < info.min or rounded.max() > info.max:
            raise DatasetError(
                f"{shown}, outside the model's {dtype} input ({info.min} .. {info.max}): {remedy}, or change scale, "
                "mean or std"
            )
        table = rounded.astype(dtype)
        if min(len(np.unique(row)) for row in table) < _MIN_LEVELS:
            raise DatasetError(f"{shown}, too few levels for the model's {dtype} input: {remedy}")
    table.flags.writeable = False
    return table


def _column(values: tuple[float, ...], channels: int) -> npt.NDArray[np.float64]:
    return np.broadcast_to(np.asarray(values, np.float64), (channels,))[:, None]


def _orientation(image: Image.Image) -> int:
    image.load()  # TIFF turns itself upright on load and drops the tag
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow raises nearly anything on broken EXIF; the pixels are still good
        raise_if_out_of_memory(error)
        return 1
    return orientation if isinstance(orientation, int) else 1


def _colors(image: Image.Image, color: ColorOrder, pixel_max: float | None) -> Image.Image:
    """Mode "L" or "RGB", 8 bits."""
    wanted = "L" if color == "L" else "RGB"
    if "transparency" in image.info:
        image = image.copy()  # a color key or palette alpha is dropped, and convert would warn about it
        del image.info["transparency"]
    if pixel_max is not None and (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        scaled = np.rint(np.asarray(image, np.float64) * (255 / pixel_max))
        image = Image.fromarray(np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8))
    elif image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "F":
        image = Image.fromarray(_eight_bits_from_float(np.asarray(image)))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    elif wanted == "L" and image.mode not in ("1", "L", "LA", "RGB"):
        image = image.convert("RGB")  # Pillow converts LAB to RGB only
    return image if image.mode == wanted else image.convert(wanted)


def _eight_bits(pixels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise DatasetError(
            f"integer pixels from {low} to {high} are outside 0 .. 65535: say what is white, --pixel-max"
        )
    # 257 = 65535 / 255. It is odd, so no value lies halfway between two.
    scaled: npt.NDArray[np.float64] = pixels / 257
    return np.rint(scaled).astype(np.uint8)


def _eight_bits_from_float(pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 255):
        raise DatasetError(
            f"float pixels from {low:g} to {high:g} are outside 0 .. 255: say what is white, --pixel-max"
        )
    if 0 < high <= 1:
        raise DatasetError("float pixels from 0 to 1 would be black: say what is white, --pixel-max 1")
    rounded: npt.NDArray[np.floating] = np.rint(pixels)
    return rounded.astype(np.uint8)


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    fit = fit_image((image.height, image.width), preprocessing)
    (height, width), (top, left) = fit.resized, fit.offset
    if height * width > _MAX_RESIZED_PIXELS:
        raise DatasetError(f"{image.width} x {image.height} pixels are too narrow to be resized for a crop")
    image = image.resize((width, height), resample)
    if preprocessing.resize == "stretch":
        return image
    if preprocessing.resize == "crop":
        return image.crop((-left, -top, preprocessing.size[1] - left, preprocessing.size[0] - top))
    if fit.resized == fit.input_size:
        return image
    pad = preprocessing.pad_value
    canvas = Image.new(image.mode, fit.input_size[::-1], pad if image.mode == "L" else (pad,) * 3)
    canvas.paste(image, (left, top))
    return canvas
