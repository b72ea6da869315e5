"""What the headers of chosen images tell before a run: more than 8 bits whose range is not known, several pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from quantkit.datasets.image_decoding import READ_FORMATS, silence_pillow
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.sampling import Selection
from quantkit.datasets.stored_files import image_source
from quantkit.errors import DatasetError
from quantkit.machine import raise_if_out_of_memory

_MOST = 256
"""Files that are looked at: of a large data set they stand for all."""
_SEVERAL_PAGES = frozenset({".gif", ".tif", ".tiff", ".webp", ".png", ".avif"})
_DEEP = frozenset({".tif", ".tiff", ".png"})
_WHITE = 65535
_NEARLY_BLACK = 4
"""The largest of all pixels is below white over this: 14 bits or fewer are used."""


def look_at_headers(chosen: Selection) -> Selection:
    """The selection, whose data set now says which files have several pages.

    Raises:
        DatasetError: images of more than 8 bits hardly use their 16, or go beyond: what white is must be said.
    """
    images = chosen.dataset
    if not isinstance(images, ImageFiles):
        return chosen
    silence_pillow()
    paths = list(dict.fromkeys(images.paths[i] for i in chosen.indices))
    several, deepest, deep = [], 0.0, []
    for path in [p for p in paths if p.suffix.lower() in _SEVERAL_PAGES][:_MOST]:
        try:
            with Image.open(image_source(path), formats=READ_FORMATS) as image:
                if getattr(image, "is_animated", False):
                    several.append(path.name)
                if path.suffix.lower() in _DEEP and (image.mode == "I" or image.mode.startswith("I;16")):
                    deepest = max(deepest, float(np.asarray(image).max()))
                    deep.append(path.name)
        except Exception as error:  # on damaged files Pillow raises nearly anything; they are told when they are read
            raise_if_out_of_memory(error)
            continue
    p = images.preprocessing
    if deep and deepest > 0 and p.function is None and p.pixel_max is None:
        _ask(deepest, deep)
    if not several:
        return chosen
    rest = f" (and {len(several) - 1} more)" if len(several) > 1 else ""
    remark = f"of several pages or frames the first is used: {several[0]}{rest}"
    return replace(chosen, dataset=replace(images, remarks=(*images.remarks, remark)))


def _ask(largest: float, names: list[str]) -> None:
    if _WHITE / _NEARLY_BLACK <= largest <= _WHITE:
        return
    bits = int(largest).bit_length()
    said = "would be nearly black" if largest <= _WHITE else "go beyond 16 bits"
    other = f", or --pixel-max {_WHITE}" if largest <= _WHITE else ""
    images = names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
    raise DatasetError(
        f"pixels of {images} have more than 8 bits: they reach {largest:g} and {said}: say which value is "
        f"white, --pixel-max {2**bits - 1} if they have {bits} bits{other}"
    )
