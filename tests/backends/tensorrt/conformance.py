"""Run as a script with the name of one of NVIDIA's modules: is every name that the runner uses there, and used right?

It prints a line for each check. The C++ side is called through the objects' own tables of virtual functions, the way
the library itself would call them.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import quantkit.backends.tensorrt as package
from quantkit.backends.tensorrt.library import Library, parse_version
from quantkit.backends.tensorrt.output_allocator import make_output_allocator

MODULES = ("runner", "execution", "engine_memory", "bindings", "output_allocator")

CLASSES = {
    "trt": None,
    "self._library.module": None,
    "self._runtime": "Runtime",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "trt.IOutputAllocator": "IOutputAllocator",
}
"""How the runner's source names TensorRT's objects; None is the module itself."""

NEWER_THAN_8 = {("IOutputAllocator", "reallocate_output_async")}


def used() -> Iterator[tuple[str | None, str, int | None]]:
    """(class, name, number of arguments if it is called) in the runner's source."""
    folder = Path(package.__file__).parent
    for module in MODULES:
        tree = ast.parse((folder / f"{module}.py").read_text())
        called = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not any(
            isinstance(n, ast.Call) and n.keywords and ast.unparse(n.func).rpartition(".")[0] in CLASSES
            for n in ast.walk(tree)
        ), "keyword arguments differ between versions"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (owner := ast.unparse(node.value)) in CLASSES:
                yield CLASSES[owner], node.attr, called.get(id(node))
            elif isinstance(node, ast.Attribute) and re.fullmatch(r"trt\.\w+", ast.unparse(node.value)):
                yield ast.unparse(node.value)[4:], node.attr, None


def takes(function: object, count: int) -> bool:
    """Whether one of the signatures in pybind11's docstring takes so many arguments after self."""
    for line in (function.__doc__ or "").splitlines():
        match = re.match(r"(?:\d+\. )?\w+\(self: [\w.:]+(?P<rest>.*)\) -> ", line)
        if match:
            arguments = re.findall(r", (\w+): (?:[^,\[\]=]|\[[^\]]*\])+(= )?", match["rest"])
            required = sum(not default for _, default in arguments)
            if required <= count <= len(arguments):
                return True
    return False


class Memory:
    """The two things of pycuda that an allocator needs."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        print("freed")


class Driver:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def mem_alloc(self, size: int) -> Memory:
        if size > 1000:
            raise MemoryError("too much")
        self.sizes.append(size)
        return Memory(0x7F00_0000_0000 + 256 * len(self.sizes))


def call_from_cpp(trt, is_old: bool) -> None:
    """As the library does: reallocateOutput(Async), then notifyShape, by their slots in NvInferRuntime.h."""
    driver = Driver()
    allocator = make_output_allocator(Library(trt, "tensorrt", parse_version(trt.__version__)), driver)
    # The C++ object's pointer follows the two words of every Python object (pybind11's simple holder).
    this = ctypes.c_void_p.from_address(id(allocator) + 16).value
    table = ctypes.c_void_p.from_address(this).value

    def slot(index, result, *arguments):
        address = ctypes.c_void_p.from_address(table + 8 * index).value
        return lambda *a: ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(address)(this, *a)

    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    if is_old:
        plain = slot(1, pointer, text, pointer, number, number)
        notify = slot(2, None, text, pointer)
        asynchronous = lambda *a: plain(*a[:4])  # noqa: E731
    else:
        # Two of IVersionedInterface and its two destructors come first.
        print("slots", flush=True)
        plain = slot(4, pointer, text, pointer, number, number)
        asynchronous = slot(5, pointer, text, pointer, number, number, pointer)
        notify = slot(6, None, text, pointer)
    first = plain(b"y", None, 100, 256)
    assert first == 0x7F00_0000_0100, first
    assert asynchronous(b"y", first, 64, 256, 0x1234) == first, "what is there is large enough"
    assert asynchronous(b"y", first, 200, 256, 0x1234) == 0x7F00_0000_0200
    assert plain(b"z", None, 0, 256), "an empty output needs an address too"
    print("reallocated", driver.sizes)
    dims = (ctypes.c_int32 * 9)(2, 5, 7) if is_old else (ctypes.c_int64 * 9)(2, 5, 7)
    notify(b"y", ctypes.addressof(dims))
    assert allocator.shapes == {"y": (5, 7)}, allocator.shapes
    print("notified", allocator.shapes)
    assert asynchronous(b"y", None, 2000, 256, None) is None
    assert isinstance(allocator.error, MemoryError)
    print("kept", repr(allocator.error))
    allocator.free()


def main(name: str) -> None:
    trt = importlib.import_module(name)
    is_old = trt.__version__.startswith("8.")
    checked = sorted({(c or "", n, -1 if a is None else a) for c, n, a in used()})
    for owner, attribute, count in checked:
        if is_old and (owner, attribute) in NEWER_THAN_8:
            continue
        where = getattr(trt, owner) if owner else trt
        assert hasattr(where, attribute), f"{trt.__version__} has no {owner}.{attribute}"
        found = getattr(where, attribute)
        if owner and count >= 0 and attribute != "__init__":
            assert takes(found, count), f"{owner}.{attribute} does not take {count}: {found.__doc__}"
        print(f"{owner}.{attribute}")
    dtypes = set(trt.DataType.__members__)
    from quantkit.backends.tensorrt.bindings import _NUMPY_NAMES

    for dtype in set(_NUMPY_NAMES) & dtypes:
        assert trt.nptype(getattr(trt.DataType, dtype)) is not None
    # Those left out are exactly those that numpy does not have.
    for dtype in dtypes - set(_NUMPY_NAMES):
        try:
            trt.nptype(getattr(trt.DataType, dtype))
        except TypeError:
            print(f"{dtype} has no numpy type")
        else:
            raise AssertionError(f"{dtype} has a numpy type")
    assert trt.DataType.FLOAT.name == "FLOAT"
    call_from_cpp(trt, is_old)
    print(f"all {len(checked)} names of {name} {trt.__version__}")


if __name__ == "__main__":
    main(sys.argv[1])
