"""CUDA resources for running an engine: a stream, timing events, and growing buffers on host and device.

Everything here wants the `PrimaryContext` of `quantkit.backends.cuda.context` to be current, and its `driver`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import BackendError, OutOfDeviceMemoryError, joined_lines
from quantkit.types import Array

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, cuda.h: the legacy default stream does not wait for this one, nor this one for it."""


class DeviceBuffer:
    """Memory on the GPU. It grows when more is asked for, and its address changes when it does."""

    def __init__(self, driver: Any) -> None:
        self.size_bytes = 0
        self._driver = driver
        self._allocation: Any = None

    @property
    def address(self) -> int:
        """On the GPU; 0 before the first `reserve`."""
        return 0 if self._allocation is None else int(self._allocation)

    def reserve(self, size_bytes: int) -> int:
        """Makes room; what the buffer held is lost if it grows. Returns the address, which is never 0."""
        if self._allocation is None or size_bytes > self.size_bytes:
            self.free()
            self._allocation = self._driver.mem_alloc(max(size_bytes, 1))
            self.size_bytes = size_bytes
        return self.address

    def upload(self, source: Array, stream: Any) -> None:
        """Queues a copy; `source`, a view of pinned memory, stays as it is until the stream has done it."""
        if source.nbytes:
            self._driver.memcpy_htod_async(self._allocation, source, stream)

    def download(self, target: Array, stream: Any) -> None:
        """Queues a copy; `target`, a view of pinned memory, holds the values once the stream has done it."""
        if target.nbytes:
            self._driver.memcpy_dtoh_async(target, self._allocation, stream)

    def free(self) -> None:
        """Gives the memory back; calling it twice is fine."""
        if self._allocation is not None:
            allocation, self._allocation, self.size_bytes = self._allocation, None, 0
            allocation.free()


class PinnedBuffer:
    """Page-locked memory of the host, from and to which copies are asynchronous. It grows when more is asked for."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._bytes: npt.NDArray[np.uint8] | None = None

    @property
    def address(self) -> int:
        """On the host; 0 before the first `view`."""
        return 0 if self._bytes is None else int(self._bytes.ctypes.data)

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """The beginning of the buffer as an array, valid until the buffer grows or is freed."""
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self._bytes is None or size_bytes > self._bytes.size:
            self.free()
            self._bytes = self._driver.pagelocked_empty((max(size_bytes, 1),), np.uint8)
        return np.ndarray(shape, dtype, buffer=self._bytes)

    def free(self) -> None:
        """Gives the memory back; calling it twice is fine. No view may be used afterwards."""
        if self._bytes is not None:
            whole, self._bytes = self._bytes, None
            whole.base.free()  # type: ignore[union-attr]


@dataclass(frozen=True)
class QueryEvents:
    """The four moments of a query on its stream; waiting for one lets the processor sleep, as in trtexec."""

    start: Any
    uploaded: Any
    computed: Any
    end: Any

    @classmethod
    def make(cls, driver: Any) -> QueryEvents:
        """Four events that measure time."""
        return cls(*(driver.Event(driver.event_flags.BLOCKING_SYNC) for _ in range(4)))

    def parts_ms(self) -> tuple[float, float, float]:
        """Copy to the device, computation, copy back, in ms; waits for the query's end."""
        self.end.synchronize()
        return (
            float(self.uploaded.time_since(self.start)),
            float(self.computed.time_since(self.uploaded)),
            float(self.end.time_since(self.computed)),
        )


def make_stream(driver: Any) -> Any:
    """A stream beside the default one, on which TensorRT would have to synchronize more often."""
    return driver.Stream(_NON_BLOCKING)


@contextmanager
def report_cuda_errors(driver: Any, what: str) -> Iterator[None]:
    """Turns pycuda's errors into `BackendError`, which begins with `what` and states the free memory if it ran out."""
    try:
        yield
    except driver.MemoryError as error:
        raise OutOfDeviceMemoryError(
            f"{what}: out of memory ({joined_lines(error)}{_free_memory(driver)}): use a smaller batch, or free the GPU"
        ) from error
    except driver.Error as error:
        raise BackendError(f"{what}: CUDA fails: {joined_lines(error)}") from error


def _free_memory(driver: Any) -> str:
    try:
        free, total = driver.mem_get_info()
    except driver.Error:
        return ""
    return f", {free / 2**20:.0f} of {total / 2**20:.0f} MiB free"
