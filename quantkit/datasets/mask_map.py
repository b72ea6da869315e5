"""What the values or colors of a mask mean, where they are no class indices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quantkit.errors import DatasetError

IGNORE = "ignore"
_PAIR = re.compile(r"(\d{1,5}|#[0-9a-fA-F]{6}|\*)=(\d{1,3}|ignore)")
# cocodataset.org: 80 of the ids 1 to 90 are used.
_COCO_UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_COCO_IDS = tuple(i for i in range(1, 91) if i not in _COCO_UNUSED)
# cityscapesScripts, helpers/labels.py: id of each train id.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@dataclass(frozen=True)
class MaskMap:
    """Class of each value or color.

    Attributes:
        text: as it was given, for messages and fingerprints.
        classes: by value, or by color as ``red << 16 | green << 8 | blue``; None is ignored.
        is_color: whether keys are colors.
        rest: of what is not named: a class, None for ignored; "" where it is an error.
    """

    text: str
    classes: Mapping[int, int | None] = field(hash=False)
    is_color: bool = False
    rest: int | str | None = ""

    def __call__(self, keys: npt.NDArray[np.integer], ignored: int | None, where: str) -> npt.NDArray[np.uint8]:
        """Classes of values or packed colors [height, width].

        Raises:
            DatasetError: a value that is not named, or one that is to be ignored where nothing can be.
        """
        found, inverse = np.unique(keys, return_inverse=True)
        result = np.empty(len(found), np.uint8)
        for place, key in enumerate(found.tolist()):
            meaning = self.classes.get(key, self.rest)
            if isinstance(meaning, str):
                shown = f"#{key:06x}" if self.is_color else str(key)
                raise DatasetError(
                    f"{where}: --mask-map {self.text} does not say what {shown} is: add {shown}=CLASS or *=ignore"
                )
            if meaning is None and ignored is None:
                raise DatasetError(f"{where}: --mask-map {self.text} ignores pixels, and --ignored -1 does not")
            result[place] = meaning if meaning is not None else ignored or 0
        return result[inverse].reshape(keys.shape)


def parse_mask_map(text: str) -> MaskMap:
    """Reads a name of `MASK_MAPS`, or pairs like "0=0,255=1", "#000000=0,#ff0000=1", "7=0,*=ignore".

    Example:
        >>> dict(parse_mask_map("0=0,255=1").classes)
        {0: 0, 255: 1}

    Raises:
        DatasetError: something else, or values beside colors.
    """
    if text in MASK_MAPS:
        return MASK_MAPS[text]
    classes: dict[int, int | None] = {}
    rest: int | str | None = ""
    kinds = set()
    for word in text.replace(" ", "").split(","):
        match = _PAIR.fullmatch(word)
        if match is None or (match[2] != IGNORE and int(match[2]) > 255):
            raise DatasetError(
                f"--mask-map {text}: {word!r} is no VALUE=CLASS, #rrggbb=CLASS or *=CLASS (CLASS to 255, or ignore); "
                f"known maps: {', '.join(MASK_MAPS)}"
            )
        meaning = None if match[2] == IGNORE else int(match[2])
        if match[1] == "*":
            rest = meaning
            continue
        kinds.add(match[1][0] == "#")
        classes[int(match[1][1:], 16) if match[1][0] == "#" else int(match[1])] = meaning
    if len(kinds) != 1:
        raise DatasetError(f"--mask-map {text}: name either values or colors")
    return MaskMap(text, classes, kinds == {True}, rest)


def _voc_color(index: int) -> int:
    """Color 0xRRGGBB of an index in Pascal VOC's map: its bits 3k, 3k+1, 3k+2 are bit 7-k of red, green and blue."""
    channels = [sum(((index >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3)]
    return channels[0] << 16 | channels[1] << 8 | channels[2]


MASK_MAPS: dict[str, MaskMap] = {
    "coco": MaskMap("coco", {category: i for i, category in enumerate(_COCO_IDS)}, rest=None),
    "cityscapes": MaskMap("cityscapes", {label: i for i, label in enumerate(_CITYSCAPES_IDS)}, rest=None),
    "ade20k": MaskMap("ade20k", {0: None, **{i: i - 1 for i in range(1, 151)}}),
    "voc": MaskMap("voc", {**{_voc_color(i): i for i in range(21)}, 0xE0E0C0: None}, is_color=True),
}
"""Published data sets: values (COCO's category ids, Cityscapes' label ids, ADE20K's from 1) or colors (Pascal VOC)."""
