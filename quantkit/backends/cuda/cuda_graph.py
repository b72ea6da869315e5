"""CUDA graphs through the driver API, because pycuda lacks them: capture the work of a stream, and replay it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from quantkit.errors import BackendError

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, cuda.h: what other threads do does not spoil the capture; trtexec's mode."""


class CudaGraph:
    """A captured graph, ready to be launched. Made by `capture_graph`."""

    def __init__(self, driver: Any, executable: ctypes.c_void_p) -> None:
        self._driver = driver
        self._executable: ctypes.c_void_p | None = executable

    def launch(self, stream_handle: int) -> None:
        """Queues one replay.

        Raises:
            BackendError: CUDA rejects the launch.
        """
        _check(
            self._driver, "cuGraphLaunch", self._driver.cuGraphLaunch(self._executable, ctypes.c_void_p(stream_handle))
        )

    def close(self) -> None:
        """Frees the graph; calling it twice is fine."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            self._driver.cuGraphExecDestroy(executable)


def capture_graph(stream_handle: int, enqueue: Callable[[], bool]) -> CudaGraph:
    """Captures what `enqueue` gives to the stream. Nothing of it runs.

    Args:
        stream_handle: of a stream that is not the default one.
        enqueue: queues the work; False where it could not.

    Raises:
        BackendError: the work cannot be captured; the stream can be used as before.
    """
    driver = _load_driver()
    stream, graph, executable = ctypes.c_void_p(stream_handle), ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver, "cuStreamBeginCapture", driver.cuStreamBeginCapture_v2(stream, ctypes.c_int(_THREAD_LOCAL)))
    enqueued = False
    try:
        enqueued = enqueue()
    finally:
        # The capture has to be ended whatever happened, or the stream stays unusable.
        ended = driver.cuStreamEndCapture(stream, ctypes.byref(graph))
        if graph and (ended or not enqueued):
            driver.cuGraphDestroy(graph)
    _check(driver, "cuStreamEndCapture", ended)
    if not enqueued:
        raise BackendError("it does something that cannot be captured")
    made = driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    driver.cuGraphDestroy(graph)
    _check(driver, "cuGraphInstantiate", made)
    return CudaGraph(driver, executable)


def _load_driver() -> Any:
    """The driver's library, which is loaded already wherever a context is current."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise BackendError(f"the CUDA driver {name} does not load: {error}") from error
    if not hasattr(driver, "cuGraphInstantiateWithFlags"):
        raise BackendError("CUDA graphs need a driver for CUDA 11.4 or newer")
    return driver


def _check(driver: Any, function: str, result: int) -> None:
    if not result:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
    raise BackendError(f"{function} fails: {(text.value or b'').decode(errors='replace') or f'error {result}'}")
