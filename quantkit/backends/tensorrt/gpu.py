"""Detects the GPU through the driver alone: without a CUDA package, and without creating a context."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from quantkit.backends.cuda.context import current_device

# CUdevice_attribute values of the driver API, cuda.h.
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76


_AMPERE = 80


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its compute capability such as "8.6"."""

    name: str
    compute_capability: str

    @property
    def target(self) -> str:
        """Name of its generation in TensorRT-RTX: "sm86"."""
        return f"sm{self.compute_capability.replace('.', '')}"

    @property
    def is_ampere_or_newer(self) -> bool:
        """Whether engines for "Ampere and newer" run on it."""
        return int(self.target[2:]) >= _AMPERE

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


def find_gpu() -> Gpu | None:
    """The GPU of `using_device`, else the first that CUDA lists (see CUDA_VISIBLE_DEVICES).

    Returns:
        None without a driver or such a GPU.
    """
    cuda = _load_driver()
    if cuda is None:
        return None
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), current_device())
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    )
    return None if failed else Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def find_gpu_address() -> str:
    """PCI bus number of the same GPU, "0000:01:00.0", which identifies it in other tools; empty if unknown.

    CUDA numbers the GPUs by speed and by CUDA_VISIBLE_DEVICES; nvidia-smi by bus.
    """
    cuda = _load_driver()
    device, address = ctypes.c_int(), ctypes.create_string_buffer(32)
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(device), current_device()):
        return ""
    return "" if cuda.cuDeviceGetPCIBusId(address, len(address), device) else address.value.decode(errors="replace")


def _load_driver() -> ctypes.CDLL | None:
    """The driver, initialized; None where there is none, or no GPU."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    return None if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value else cuda
