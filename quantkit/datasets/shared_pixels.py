"""Memory that two processes share: one writes pixels of images there, the other reads them where they are."""

from __future__ import annotations

import mmap
import os
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint8]


def share_pixels(count: int, size_bytes: int) -> SharedPixels | None:
    """Places for images in memory that child processes write to, where the system has such memory: on Linux.

    Args:
        count: of places; memory is taken for those that are used.
        size_bytes: of each.
    """
    if not hasattr(os, "memfd_create"):
        return None
    with suppress(OSError):
        return SharedPixels(os.memfd_create("quantkit-pixels"), count, size_bytes)
    return None


class SharedPixels:
    """Places of one size in the memory of a file, whose descriptor it closes in the end; see `share_pixels`.

    Attributes:
        file: descriptor that the children inherit.
    """

    def __init__(self, file: int, count: int, size_bytes: int) -> None:
        self.file = file
        os.ftruncate(file, count * size_bytes)
        self._levels, self._size_bytes = map_levels(file), size_bytes
        self._free = deque(range(0, count * size_bytes, size_bytes))

    def take(self) -> PixelPlace | None:
        """A place that nobody uses, if there is one."""
        try:
            start = self._free.pop()
        except IndexError:
            return None
        return PixelPlace(self._levels[start : start + self._size_bytes], start, self._free)

    def __del__(self) -> None:
        os.close(self.file)


class PixelPlace:
    """Where the pixels of one image go. It is free again when nobody holds it any more, nor an array of it.

    Attributes:
        span: its first byte, and the one after its last.
    """

    def __init__(self, levels: Levels, start: int, free: deque[int]) -> None:
        self.span = (start, start + levels.size)
        self._levels, self._free = levels, free
        self.__array_interface__: dict[str, Any] = {}

    def read(self, shape: tuple[int, ...]) -> Levels:
        """What was written there, without a copy."""
        self.__array_interface__ = {**self._levels.__array_interface__, "shape": shape}
        return np.asarray(self)

    def __del__(self) -> None:
        self._free.append(self.span[0])


def map_levels(file: int, *, writable: bool = False) -> Levels:
    """All bytes of a file, shared with whoever maps it too."""
    return np.frombuffer(mmap.mmap(file, 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)), np.uint8)
