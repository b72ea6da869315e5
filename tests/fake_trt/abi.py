"""C++ objects with virtual functions, made in ctypes the way NVIDIA's bindings expect them. What they do: library.py.

An API object is {vptr, mImpl}, and mImpl points to {vptr}: the bindings call the functions of the latter. A class here
marks the functions that it has with `slot`; the others return 0 and are listed in `unimplemented`.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

POINTER_SIZE = 8
FUNCTION_TABLE_OFFSET = 16  # two words before the first function: offset to top, type information

unimplemented: list[tuple[str, str]] = []
"""Class and function of every call that has no fake."""

errors: list[str] = []
"""Tracebacks of exceptions inside fakes, which C++ cannot see."""

_alive: list[object] = []  # whatever C++ may still point to


def keep(thing: object) -> Any:
    """Keeps an object until the process ends."""
    _alive.append(thing)
    return thing


def slot(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a method as the virtual function of its name, with ctypes of result and arguments (without `this`)."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.signature = (result, arguments)  # type: ignore[attr-defined]
        return method

    return mark


def dims_slot(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a method that returns `Dims` by value: the caller passes, before `this`, where it wants them."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.signature = ("dims", arguments)  # type: ignore[attr-defined]
        return method

    return mark


class Abi:
    """What differs between TensorRT's major versions: the order of functions, and the layout of `Dims`."""

    trt: ClassVar[Any] = None  # the bindings
    slots: ClassVar[Mapping[str, Sequence[str]]] = {}
    major: ClassVar[int] = 0
    type_info: ClassVar[int] = 0

    @classmethod
    def choose(cls, trt: Any, slots: Mapping[str, Sequence[str]]) -> None:
        """Sets the version, once per process."""
        cls.trt, cls.slots, cls.major = trt, slots, int(trt.__version__.split(".")[0])
        cls.type_info = _make_type_info()


class DimsByValue(ctypes.Structure):
    """`Dims` of TensorRT 8, where an argument of that type is passed by value."""

    _fields_: ClassVar = [("count", ctypes.c_int32), ("sizes", ctypes.c_int32 * 8)]


def read_dims(address: int) -> list[int]:
    """Sizes at an address."""
    size_type, offset = (ctypes.c_int32, 4) if Abi.major < 10 else (ctypes.c_int64, 8)
    count = max(0, ctypes.c_int32.from_address(address).value)
    return list((size_type * count).from_address(address + offset))


def write_dims(address: int, sizes: Sequence[int] | None) -> int:
    """Sizes to an address; None makes the invalid dims, with -1 of them."""
    size_type, offset = (ctypes.c_int32, 4) if Abi.major < 10 else (ctypes.c_int64, 8)
    ctypes.c_int32.from_address(address).value = -1 if sizes is None else len(sizes)
    for i, size in enumerate(sizes or ()):
        size_type.from_address(address + offset + i * ctypes.sizeof(size_type)).value = size
    return address


def virtual_function(address: int, index: int, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Function number `index` of the C++ object at `address`, to be called without `this`."""
    table = ctypes.c_void_p.from_address(address).value or 0
    entry = ctypes.c_void_p.from_address(table + POINTER_SIZE * index).value
    function = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(entry)
    return lambda *values: function(address, *values)


class FakeObject:
    """A C++ object. `address` is what the API passes around."""

    cls: ClassVar[str]
    is_interface: ClassVar[bool] = False  # a pure interface: its own functions, without mImpl
    by_address: ClassVar[dict[int, Any]] = {}

    def __init__(self) -> None:
        self._object = (ctypes.c_void_p * 4)(self._make_table())
        self.address = ctypes.addressof(self._object)
        if not self.is_interface:
            destroy = keep(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda this: None))
            function = ctypes.cast(destroy, ctypes.c_void_p).value
            table = keep((ctypes.c_void_p * 4)(0, Abi.type_info, function, function))
            self._api = (ctypes.c_void_p * 4)(ctypes.addressof(table) + FUNCTION_TABLE_OFFSET, self.address)
            self.address = ctypes.addressof(self._api)
        self.by_address[self.address] = keep(self)

    def text(self, text: str | bytes) -> int:
        """Address of a C string that lives as long as the process."""
        return ctypes.addressof(keep(ctypes.create_string_buffer(text if isinstance(text, bytes) else text.encode())))

    def find(self, name: str) -> Callable[..., Any] | None:
        """The fake of a virtual function, None where there is none."""
        method = getattr(self, name, None)
        return method if hasattr(method, "signature") else None

    def _make_table(self) -> int:
        names = Abi.slots[self.cls]
        table = keep((ctypes.c_void_p * (len(names) + 2))())
        table[1] = Abi.type_info
        for i, name in enumerate(names):
            table[i + 2] = ctypes.cast(keep(self._make_function(name)), ctypes.c_void_p).value
        return ctypes.addressof(table) + FUNCTION_TABLE_OFFSET

    def _make_function(self, name: str) -> Any:
        method = self.find(name)
        if name.startswith("~"):
            return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda this: None)
        if method is None:
            return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
                lambda this: unimplemented.append((self.cls, name)) or 0
            )
        result, arguments = method.signature
        if result == "dims":
            return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *arguments)(
                lambda where, this, *values: write_dims(where, _guard(method, values))
            )
        empty = None if result is None else 0
        return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(
            lambda this, *values: empty if (value := _guard(method, values)) is None or result is None else value
        )


def _guard(method: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    try:
        return method(*values)
    except BaseException:
        errors.append(traceback.format_exc())
        sys.stderr.write(errors[-1])
        return None


def _make_type_info() -> int:
    """`std::type_info` of a class without bases: the bindings ask for the dynamic type of what they are given."""
    runtime = ctypes.CDLL("libstdc++.so.6")
    table = ctypes.addressof(ctypes.c_char.in_dll(runtime, "_ZTVN10__cxxabiv117__class_type_infoE"))
    name = keep(ctypes.create_string_buffer(b"10FakeObject"))
    info = keep((ctypes.c_void_p * 2)(table + FUNCTION_TABLE_OFFSET, ctypes.addressof(name)))
    return ctypes.addressof(info)
