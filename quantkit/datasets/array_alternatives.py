"""Other values that a model may expect where the data are arrays of images, which are fed as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantkit.datasets.presets import PRESETS
from quantkit.types import Array

_IMAGENET = PRESETS["imagenet"]


@dataclass(frozen=True)
class ArrayAlternative:
    """Arrays that differ from the given ones.

    Attributes:
        input: name of the input whose values change.
        factor: of all values, at first.
        mean: subtracted afterwards, by channel.
        std: what they are divided by then, by channel.
        reversed: channels in the reverse order, at last.
        axis: of the channels.
        changes: what differs, a clause each.
    """

    input: str
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reversed: bool
    axis: int
    changes: tuple[str, ...]

    @property
    def flags(self) -> str:
        """How the arrays should be saved."""
        return f"save the arrays with {' and '.join(self.changes)}"

    @property
    def has_same_values(self) -> bool:
        """Whether only channels differ."""
        return (self.factor, self.mean, self.std) == (1.0, (0.0,), (1.0,))

    def apply(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs of a batch, changed."""
        values = np.asarray(inputs[self.input])
        shape = [-1 if axis == self.axis else 1 for axis in range(values.ndim)]
        mean, std = (np.reshape(np.asarray(numbers, np.float32), shape) for numbers in (self.mean, self.std))
        changed = (values.astype(np.float32) * self.factor - mean) / std
        if self.reversed:
            changed = np.flip(changed, self.axis)
        return {**inputs, self.input: np.ascontiguousarray(changed.astype(values.dtype))}


def other_array_values(inputs: Mapping[str, Array]) -> list[ArrayAlternative]:
    """Other scales, means, stds and channel orders for the only input that looks like images; none without one.

    Args:
        inputs: of a batch as it is fed: images are floats [N, 1 or 3, H, W] or [N, H, W, 1 or 3].
    """
    found = {name: axis for name, array in inputs.items() if (axis := _channel_axis(np.asarray(array))) is not None}
    if len(found) != 1:
        return []
    ((name, axis),) = found.items()
    values = np.asarray(inputs[name])
    channels, high, low = values.shape[axis], float(values.max()), float(values.min())
    mean, std = (_of_channels(numbers, channels) for numbers in (_IMAGENET.mean, _IMAGENET.std))
    none: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    to_unit = 1 / 255 if high > 2 else 1.0
    numbers: list[tuple[float, tuple[float, ...], tuple[float, ...], str]] = []
    if high > 2:
        numbers.append((1 / 255, *none, "values divided by 255"))
    else:
        numbers.append((255.0, *none, "values times 255"))
    if low >= 0:
        words = "values divided by 255, then " if high > 2 else ""
        numbers.append((to_unit, mean, std, f"{words}the mean and std of ImageNet"))
        numbers.append((2 * to_unit, (1.0,), (1.0,), "values from -1 to 1"))
    elif high <= 2 and low >= -1.01:
        numbers.append((0.5, (-0.5,), (1.0,), "values from 0 to 1 instead of -1 to 1"))
    same = [(1.0, *none, "")]
    result = []
    for factor, mean_of, std_of, words in [*same, *numbers]:
        for turned in (False, True) if channels == 3 else (False,):
            changes = [*([words] if words else []), *(["channels in the reverse order"] if turned else [])]
            if changes:
                result.append(ArrayAlternative(name, factor, mean_of, std_of, turned, axis, tuple(changes)))
    return result


def _channel_axis(array: Array) -> int | None:
    if array.ndim != 4 or array.dtype.kind != "f":
        return None
    return next((axis for axis in (1, 3) if array.shape[axis] in (1, 3)), None)


def _of_channels(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return numbers if channels == len(numbers) else (sum(numbers) / len(numbers),)
