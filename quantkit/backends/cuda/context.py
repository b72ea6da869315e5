"""The GPU's primary context through pycuda, usable from any thread.

TensorRT, PyTorch and ONNX Runtime all live in the primary context, and a pointer of another context is invalid there.
So the primary one is retained; `pycuda.autoinit`, which makes a context of its own, is never imported.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from quantkit.errors import BackendError, BackendUnavailableError

if TYPE_CHECKING:
    from typing_extensions import Self

_PIP_LINE = "pip install pycuda"


class PrimaryContext:
    """Makes the primary context of a GPU current in the thread that enters it, until that thread leaves.

    Entering may be nested, and several threads may be inside at once. The context is retained when the process first
    needs it and released when the process ends: `detach` in pycuda pushes a primary context once more without popping
    it, and would leave it current in the caller's thread.

    Args:
        device: index of the GPU, in CUDA's order; None is that of `using_device`.

    Raises:
        BackendUnavailableError: pycuda is not installed.
        BackendError: there is no driver, or no such GPU.
    """

    def __init__(self, device: int | None = None) -> None:
        self.driver = load_driver()
        self.device = current_device() if device is None else device
        self._context = _retain(self.driver, self.device)

    def __enter__(self) -> Self:
        self._context.push()
        return self

    def __exit__(self, *exc: object) -> None:
        self._context.pop()

    def synchronize(self) -> None:
        """Waits until everything that was given to the GPU in this context, by whichever library, is done.

        Raises:
            BackendError: some of it failed.
        """
        with self:
            try:
                self.driver.Context.synchronize()
            except self.driver.Error as error:
                raise BackendError(f"GPU {self.device} failed: {_reason(error)}") from error

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU, in bytes, over all processes."""
        with self:
            free, total = self.driver.mem_get_info()
        return int(free), int(total)


@contextmanager
def using_device(device: int | None) -> Iterator[None]:
    """What is done meanwhile in this thread on "the GPU" is done on this one.

    Args:
        device: index in CUDA's order; None: the same as before, which is the first unless somebody said another.
    """
    before = _device.set(current_device() if device is None else device)
    try:
        yield
    finally:
        _device.reset(before)


_device: ContextVar[int] = ContextVar("device", default=0)


def current_device() -> int:
    """Index of the GPU of `using_device`."""
    return _device.get()


def on_current_device() -> AbstractContextManager[object]:
    """Makes libraries that take CUDA's current device take that of `using_device`; the first needs no pycuda for it."""
    return PrimaryContext() if current_device() else nullcontext()


def load_driver() -> Any:
    """The module `pycuda.driver`, initialized.

    Raises:
        BackendUnavailableError: pycuda is not installed.
        BackendError: it cannot load NVIDIA's driver, or finds no GPU.
    """
    try:
        import pycuda.driver as driver  # optional: the extra "tensorrt"
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(f"{error.name or 'pycuda'} is not installed: {_PIP_LINE}") from error
    except (ImportError, OSError) as error:
        raise BackendError(f"pycuda does not load ({_reason(error)}): is NVIDIA's driver installed?") from error
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise BackendError(f"CUDA finds no GPU ({_reason(error)}): nvidia-smi must list one") from error
    if count == 0:
        raise BackendError("CUDA finds no GPU: nvidia-smi must list one, and CUDA_VISIBLE_DEVICES must not hide it")
    return driver


_retained: dict[int, Any] = {}
_lock = threading.Lock()


def _retain(driver: Any, device: int) -> Any:
    """One pycuda object per GPU: pycuda frees memory only where the very object that it was made under is current."""
    count = driver.Device.count()
    if not 0 <= device < count:
        raise BackendError(f"there is no GPU {device}: CUDA finds {count}, counted from 0")
    with _lock:
        if device not in _retained:
            try:
                context = driver.Device(device).retain_primary_context()
            except driver.Error as error:
                raise BackendError(f"GPU {device} cannot be used: {_reason(error)}") from error
            _retained[device] = context
            atexit.register(context.detach)
        return _retained[device]


def _reason(error: BaseException) -> str:
    """First line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
