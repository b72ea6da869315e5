"""Images that have the model's size already: a preset's enlarging and cropping would only lose their borders."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from quantkit.datasets.image_decoding import READ_FORMATS, silence_pillow
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.stored_files import image_source
from quantkit.machine import raise_if_out_of_memory
from quantkit.numerics import fit_image

_MOST = 64
"""Headers that are read: of a large data set they stand for all."""


def keep_native_size(images: ImageFiles, *, is_said: bool) -> ImageFiles:
    """Images of the model's size as they are, where a preset would enlarge and crop them; what was said stays.

    Args:
        images: whose headers are looked at, a few evenly over all.
        is_said: the resize mode was given by the user, or a table was made with it: it is doubted, not changed.
    """
    p = images.preprocessing
    if p.function is not None or p.resize != "crop" or images.boxes is not None:
        return images
    if fit_image(p.size, p).resized == p.size:
        return images
    share = _share_of_size(images, p.size)
    if not share:
        return images
    size, side = f"{p.size[0]}x{p.size[1]}", p.shorter_side
    whose = "the images" if share == 1 else f"{100 * share:.0f}% of the images"
    if is_said:
        doubt = f"{whose} already have the model's size {size}, and are enlarged to {side} pixels and cropped"
        return replace(images, doubts=(*images.doubts, f"{doubt}: pass --resize stretch to take them as they are"))
    if share == 1:
        kept = replace(p, resize="stretch", shorter_side=None)
    elif p.size[0] == p.size[1]:
        kept = replace(p, shorter_side=p.size[0])
    else:
        return images
    remark = f"{whose} already have the model's size {size}: not enlarged to {side} pixels and cropped"
    return replace(images, preprocessing=kept, remarks=(*images.remarks, f"{remark} (--resize crop does that)"))


def _share_of_size(images: ImageFiles, size: tuple[int, int]) -> float:
    silence_pillow()
    count, same = 0, 0
    for path in images.paths[:: max(1, len(images.paths) // _MOST)][:_MOST]:
        try:
            with Image.open(image_source(path), formats=READ_FORMATS) as image:
                same += (image.height, image.width) == size
                count += 1
        except Exception as error:  # on damaged files Pillow raises nearly anything; they are told when they are read
            raise_if_out_of_memory(error)
            continue
    return same / count if count else 0.0
