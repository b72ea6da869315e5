"""Small pictures of samples, for people to look at."""

from __future__ import annotations

import base64
import io

from PIL import Image

from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.preprocess import show_colors
from quantkit.errors import FatalError
from quantkit.machine import raise_if_out_of_memory
from quantkit.types import Dataset

_SIDE = 112
"""Pixels: 56 on a screen of double density."""

_LOSSLESS_SIDE = 48
"""Images up to here are kept as they are: a JPEG of 32 x 32 pixels is mud."""


def thumbnail(dataset: Dataset, index: int) -> str:
    """A picture of sample `index` as data URI, at most 112 pixels wide and high; empty where there is none.

    No image that cannot be drawn is worth an error: the sample was read before.

    Raises:
        FatalError: it is not what was read before, or the machine failed.
    """
    while hasattr(dataset, "indices"):  # a selection of another
        index, dataset = dataset.indices[index], dataset.dataset  # type: ignore[attr-defined]
    if not isinstance(dataset, ImageFiles):
        return ""
    try:
        return _encode(show_colors(dataset.picture(index), dataset.preprocessing.pixel_max))
    except FatalError:
        raise
    except Exception as error:  # on damaged files Pillow raises nearly anything
        raise_if_out_of_memory(error)
        return ""


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS_SIDE:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=None)
        image.save(buffer, "JPEG", quality=80, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
