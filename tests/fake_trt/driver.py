"""Calling what we implement for TensorRT the way TensorRT does: in C++, through the bindings' own vtables."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from tests.fake_trt.abi import virtual_function

_BATCH_SIZE, _BATCH, _READ, _WRITE, _ALGORITHM = range(5)
"""Order of IInt8Calibrator's virtual functions; from TensorRT 10 on, four of IVersionedInterface come before them."""

_PY_OBJECT_HEAD = 16


def address_of(instance: Any) -> int:
    """The C++ object behind an instance of a class that is bound by pybind11."""
    address = ctypes.c_void_p.from_address(id(instance) + _PY_OBJECT_HEAD).value
    assert address, "the constructor of the bound class was not called"
    return address


class CalibratorDriver:
    """An IInt8Calibrator as libnvinfer sees it."""

    def __init__(self, address: int, *, major: int) -> None:
        base = 0 if major < 10 else 4
        strings = ctypes.POINTER(ctypes.c_char_p)
        pointers = ctypes.POINTER(ctypes.c_void_p)
        function = virtual_function
        self.batch_size = function(address, base + _BATCH_SIZE, ctypes.c_int32)
        self.algorithm = function(address, base + _ALGORITHM, ctypes.c_int32)
        self._batch = function(address, base + _BATCH, ctypes.c_bool, pointers, strings, ctypes.c_int32)
        self._read = function(address, base + _READ, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t))
        self._write = function(address, base + _WRITE, None, ctypes.c_void_p, ctypes.c_size_t)

    @classmethod
    def of(cls, trt: Any, calibrator: Any) -> CalibratorDriver:
        """The driver of a Python calibrator."""
        return cls(address_of(calibrator), major=int(trt.__version__.split(".")[0]))

    def batch(self, names: Sequence[str]) -> list[int] | None:
        """Device pointers, None at the end of the data."""
        pointers = (ctypes.c_void_p * len(names))()
        texts = (ctypes.c_char_p * len(names))(*[name.encode() for name in names])
        return [pointer or 0 for pointer in pointers] if self._batch(pointers, texts, len(names)) else None

    def read(self) -> bytes | None:
        """The cache that the calibrator offers."""
        length = ctypes.c_size_t(0)
        address = self._read(ctypes.byref(length))
        return ctypes.string_at(address, length.value) if address else None

    def write(self, cache: bytes) -> None:
        """Gives the calibrator a cache, in memory that is overwritten right after the call."""
        memory = ctypes.create_string_buffer(cache, len(cache))
        self._write(memory, len(cache))
        ctypes.memset(memory, 0xDD, len(cache))


def log(address: int, severity: int, message: str, *, major: int) -> None:
    """Calls ILogger::log on the C++ object at an address; an interface with a version itself from TensorRT 11 on."""
    virtual_function(address, 0 if major < 11 else 4, None, ctypes.c_int32, ctypes.c_char_p)(severity, message.encode())
