"""Copies arrays of the host to a GPU, through page-locked memory and into device memory that is used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.device_array import DeviceArray
from quantkit.backends.cuda.streams import DeviceBuffer, PinnedBuffer, make_stream, report_cuda_errors
from quantkit.types import Array


class Uploader:
    """Copies arrays to a GPU. Other threads may run meanwhile: nothing of it holds Python's lock for long.

    Args:
        context: the GPU.
    """

    def __init__(self, context: PrimaryContext) -> None:
        self._context, self._driver = context, context.driver
        self._free: list[DeviceBuffer] = []
        with context:
            self._stream: Any = make_stream(self._driver)
        self._pinned = PinnedBuffer(self._driver)

    def upload(self, array: Array) -> DeviceArray:
        """The array on the GPU, complete; its memory is used again when nobody holds it any more.

        Raises:
            BackendError: memory is short, or the GPU fails.
        """
        buffer = self._free.pop() if self._free else DeviceBuffer(self._driver)
        with self._context, report_cuda_errors(self._driver, "copying a batch to the GPU"):
            address = buffer.reserve(max(array.nbytes, 1))
            if array.nbytes:
                staged = self._pinned.view(array.shape, array.dtype)
                np.copyto(staged, array)
                buffer.upload(staged, self._stream)
                self._stream.synchronize()
        return DeviceArray(address, array.shape, array.dtype, _Lease(buffer, self._free), self._context)

    def close(self) -> None:
        """Gives the memory back that nobody holds; calling it twice is fine."""
        with self._context:
            while self._free:
                self._free.pop().free()
            self._pinned.free()


@dataclass(eq=False)
class _Lease:
    """Hands a buffer back to those that are free when it is collected."""

    buffer: DeviceBuffer
    free: list[DeviceBuffer]

    def __del__(self) -> None:
        self.free.append(self.buffer)
