"""From a segmentation model's output to the class of each pixel of the image. Counting is left to `segmentation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantkit.errors import EvaluationError
from quantkit.numerics import ImageTransform
from quantkit.types import Array, Layout

NO_CLASS = -1
"""The class of a pixel whose scores hold NaN."""

_THRESHOLDS = {"logits": 0.0, "probabilities": 0.5}
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Head:
    """Where the class of a pixel stands in the outputs of a model.

    Attributes:
        output: its name.
        kind: "scores" [N, C, h, w], of which the highest wins; "indices" [N, h, w]; "logits" or "probabilities" of
            class 1 against 0.
        axis: of the channels, None if the output has none.
        num_classes: how many there are; None where indices do not tell.
    """

    output: str
    kind: Literal["scores", "indices", "logits", "probabilities"]
    axis: int | None
    num_classes: int | None


@dataclass(frozen=True)
class View:
    """The part of an image that a model saw, and where its pixels' centers lie in the model's input.

    Attributes:
        rows, columns: of the image.
        down, right: for each of these rows and columns, the center's place in the input as a fraction, int64 numerators
            of `denominators`: with integers no rounding moves a center over the edge of a pixel.
        denominators: of `down` and of `right`.
    """

    rows: slice
    columns: slice
    down: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    denominators: tuple[int, int]


def find_head(outputs: Mapping[str, Array], *, layout: Layout, binary: str | None, output: str | None = None) -> Head:
    """Takes `output`, or the first one that can be a class map, and tells what it holds.

    Args:
        outputs: [N, ...] by name, in the model's order.
        layout: of outputs with channels.
        binary: what a single channel holds, "logits" or "probabilities"; outputs with more are then passed over. None
            where there is no such output.
        output: its name, where it is not the first.

    Raises:
        EvaluationError: no such output, or one that has to be declared.
    """
    if output is not None and output not in outputs:
        raise EvaluationError(f"there is no output {output!r}: the model has {', '.join(map(repr, outputs))}")
    named = outputs if output is None else {output: outputs[output]}
    axis = 1 if layout == "NCHW" else 3
    refused: EvaluationError | None = None
    for name, array in named.items():
        try:
            head = _describe(name, array, axis, binary)
        except EvaluationError as error:
            refused = refused or error
            continue
        if head is not None and (binary is None or head.kind in _THRESHOLDS):
            return head
        if head is not None and refused is None:
            channels = "class indices" if head.kind == "indices" else f"{head.num_classes} channels as {layout}"
            refused = EvaluationError(
                f"--binary {binary}: output {name!r} {list(array.shape)} has {channels}; --binary is for one channel "
                "of floats, leave it out or check --layout"
            )
    if refused is not None:
        raise refused
    shown = ", ".join(f"{name!r} {array.dtype} {list(array.shape)}" for name, array in named.items())
    form = "[N, C, h, w]" if axis == 1 else "[N, h, w, C]"
    raise EvaluationError(f"no output is a class map: {form} scores or [N, h, w] class indices are needed, not {shown}")


def view_image(fit: ImageTransform) -> View:
    """Which pixels of an image come into a model's input, and where: those cut off by a crop do not."""
    (rows, down, height), (columns, right, width) = (_along(fit, axis) for axis in (0, 1))
    return View(rows, columns, down, right, (height, width))


def read_classes(
    output: Array, head: Head, view: View, *, upsampling: Literal["nearest", "bilinear"] = "nearest"
) -> npt.NDArray[np.int16]:
    """Class of every pixel of the image that the model saw.

    Args:
        output: of one sample, without the batch dimension.
        head: what it holds.
        view: what of the image the model saw.
        upsampling: "nearest" decides in the output's pixels and takes the one at a pixel's center; "bilinear" takes
            scores between the output's pixels (as ``align_corners=False`` does), those of padding left out, and decides
            in the image's.

    Returns:
        int16 [rows, columns], `NO_CLASS` where a score is NaN.

    Raises:
        EvaluationError: class indices that no class has.
    """
    planes = _planes(output, head)
    height, width = planes.shape[1:]
    if not (view.down.size and view.right.size):
        return np.empty((view.down.size, view.right.size), np.int16)  # every center lies beyond the crop
    if upsampling == "bilinear" and head.kind != "indices":
        return _decide_between(planes, head, view)
    rows = view.down * height // view.denominators[0]
    columns = view.right * width // view.denominators[1]
    placed: npt.NDArray[np.int16] = _decide(planes, head)[rows[:, None], columns[None, :]]
    return placed


def _describe(name: str, array: Array, axis: int, binary: str | None) -> Head | None:
    has_channels = array.ndim == 4
    channels = array.shape[axis] if has_channels else 1
    if array.ndim not in (3, 4):
        return None
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        return Head(name, "indices", axis if has_channels else None, None) if channels == 1 else None
    if not np.issubdtype(array.dtype, np.floating):
        return None
    if channels >= 2:
        return Head(name, "scores", axis, channels)
    shape = list(array.shape)
    if binary is None:
        raise EvaluationError(
            f"output {name!r} {shape} has one channel of {array.dtype}: pass --binary "
            "logits (class 1 above 0) or --binary probabilities (above 0.5)"
        )
    if binary not in _THRESHOLDS:
        raise EvaluationError(f"--binary: there is no {binary!r}: choose one of {', '.join(_THRESHOLDS)}")
    _check_binary(name, array, binary)
    return Head(name, "logits" if binary == "logits" else "probabilities", axis if has_channels else None, 2)


def _check_binary(name: str, array: Array, binary: str) -> None:
    """The wrong threshold would give a wrong score without any sign of it."""
    finite = array[np.isfinite(array)]
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    within = low >= 0 and high <= 1
    if within == (binary == "logits"):
        other = "probabilities" if within else "logits"
        raise EvaluationError(f"output {name!r} is from {low:.3g} to {high:.3g}: these are {other}, not {binary}")


def _along(fit: ImageTransform, axis: int) -> tuple[slice, npt.NDArray[np.int64], int]:
    size, resized, offset = fit.image_size[axis], fit.resized[axis], fit.offset[axis]
    # Center of pixel i in the input: (i + 1/2) * resized / size + offset; as a fraction of the input, over its size.
    centers = (2 * np.arange(size, dtype=np.int64) + 1) * resized + 2 * offset * size
    denominator = 2 * size * fit.input_size[axis]
    start, stop = (int(i) for i in np.searchsorted(centers, (0, denominator)))
    return slice(start, stop), centers[start:stop], denominator


def _planes(output: Array, head: Head) -> Array:
    """[C, h, w], contiguous, of a type that numpy compares fast."""
    planes = output[None] if head.axis is None else np.moveaxis(output, head.axis - 1, 0)
    return np.ascontiguousarray(planes.astype(np.float32) if planes.dtype == np.float16 else planes)


def _decide(planes: Array, head: Head) -> npt.NDArray[np.int16]:
    """[C, h, w] → class of each pixel, [h, w]. Ties go to the lower class."""
    if head.kind == "indices":
        return _as_indices(planes[0], head)
    if head.kind != "scores":
        above: npt.NDArray[np.int16] = (planes[0] > _THRESHOLDS[head.kind]).astype(np.int16)
        above[np.isnan(planes[0])] = NO_CLASS
        return above
    # Plane by plane: argmax along the first axis would copy the scores the other way round. maximum keeps NaN.
    best = planes[0].copy()
    classes = np.zeros(best.shape, np.int16)
    for index, plane in enumerate(planes[1:], start=1):
        np.putmask(classes, plane > best, index)
        np.maximum(best, plane, out=best)
    classes[np.isnan(best)] = NO_CLASS
    return classes


def _as_indices(plane: Array, head: Head) -> npt.NDArray[np.int16]:
    low, high = int(plane.min()), int(plane.max())
    limit = head.num_classes or 256
    if low < 0 or high >= limit:
        raise EvaluationError(
            f"output {head.output!r} contains class index {low if low < 0 else high}, outside 0 to {limit - 1}"
        )
    return np.asarray(plane, np.int16)


def _decide_between(planes: Array, head: Head, view: View) -> npt.NDArray[np.int16]:
    """Interpolated block by block of rows, so that memory does not grow with the image."""
    (_, height, width), values = planes.shape, planes.astype(np.float32, copy=False)
    y0, y1, down = _neighbors(view.down, view.denominators[0], height)
    x0, x1, right = _neighbors(view.right, view.denominators[1], width)
    result = np.empty((len(y0), len(x0)), np.int16)
    block = max(1, _BLOCK_VALUES // (len(planes) * max(width, len(x0))))
    for start in range(0, len(y0), block):
        part = slice(start, start + block)
        above, below = values[:, y0[part]], values[:, y1[part]]
        rows = above + (below - above) * down[part, None]
        left = rows[:, :, x0]
        result[part] = _decide(left + (rows[:, :, x1] - left) * right, head)
    return result


def _neighbors(
    centers: npt.NDArray[np.int64], denominator: int, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Output pixels before and after each center, of those that show the image, and how far it is to the second."""
    half = int(centers[1] - centers[0]) // 2 if centers.size > 1 else denominator
    first = max(0, (int(centers[0]) - half) * size // denominator)
    last = min(size, -(-(int(centers[-1]) + half) * size // denominator)) - 1
    position = np.clip(centers * size / denominator - 0.5, first, last)
    before = position.astype(np.int64)
    return before, np.minimum(before + 1, last), (position - before).astype(np.float32)
