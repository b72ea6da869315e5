"""Whether NVIDIA's bindings have every name that the runner uses, and call its output allocator as it expects.

For a process that has one version of them. The allocator is called through its object's own table of virtual
functions, as the library itself would call it.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import quantkit.backends.tensorrt.runtime as package
from quantkit.backends.tensorrt.library import load_library
from quantkit.backends.tensorrt.runtime.bindings import _NUMPY_NAMES
from quantkit.backends.tensorrt.runtime.output_allocator import make_output_allocator

MODULES = ("runner", "execution", "engine_memory", "bindings", "output_allocator")

CLASSES = {
    "trt": None,
    "self._library.module": None,
    "self._runtime": "Runtime",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "trt.IOutputAllocator": "IOutputAllocator",
    "inspector": "EngineInspector",
}
"""How the runner's source names TensorRT's objects; None is the module itself."""

NEWER_THAN_8 = {("IOutputAllocator", "reallocate_output_async")}


def names_used() -> list[tuple[str, str, int]]:
    """(class or "", name, number of arguments or -1 where it is not called) in the runner's source, each once."""
    return sorted({(owner or "", name, -1 if count is None else count) for owner, name, count in _scan()})


def check_names(module: str) -> list[str]:
    """What is missing or called wrongly; empty if all is well."""
    trt = importlib.import_module(module)
    problems = []
    for owner, name, count in names_used():
        if trt.__version__.startswith("8.") and (owner, name) in NEWER_THAN_8:
            continue
        found = getattr(getattr(trt, owner) if owner else trt, name, None)
        if found is None:
            problems.append(f"there is no {owner}.{name}")
        elif owner and count >= 0 and name != "__init__" and not _takes(found, count):
            problems.append(f"{owner}.{name} does not take {count}: {found.__doc__}")
    return problems


def types_without_numpy(module: str) -> list[str]:
    """Element types that numpy does not have, by NVIDIA's own account; those that the runner knows are checked."""
    trt = importlib.import_module(module)
    lacking = []
    for name, value in trt.DataType.__members__.items():
        assert value.name == name
        try:
            dtype = np.dtype(trt.nptype(value))
        except TypeError:
            lacking.append(name)
        else:
            assert _NUMPY_NAMES[name] == dtype.name
    return sorted(lacking)


def call_allocator(module: str) -> dict[str, object]:
    """As the library does: reallocateOutput or reallocateOutputAsync, then notifyShape. What came of it."""
    library = load_library("tensorrt-rtx" if module == "tensorrt_rtx" else "tensorrt")
    driver = Driver()
    allocator = make_output_allocator(library, driver)
    plain, asynchronous, notify = _slots(allocator, library.version[0], is_rtx=library.is_rtx)
    pointers = [plain(b"y", None, 100, 256)]
    pointers.append(asynchronous(b"y", pointers[0], 64, 256, 0x1234))
    pointers.append(asynchronous(b"y", pointers[0], 200, 256, 0x1234))
    pointers.append(plain(b"z", None, 0, 256))
    is_old = library.version[0] == 8  # whose dimensions are of 32 bits
    dims = ((ctypes.c_int32 if is_old else ctypes.c_int64) * 9)(2, 5, 7)
    notify(b"y", ctypes.addressof(dims))
    refused = asynchronous(b"y", None, LIMIT + 1, 256, None)
    answer = {
        "pointers": pointers,
        "sizes": driver.sizes,
        "shapes": {name: list(shape) for name, shape in allocator.shapes.items()},
        "refused": refused,
        "error": repr(allocator.error),
    }
    allocator.free()
    return {**answer, "freed": driver.num_freed}


LIMIT = 1000
FIRST = 0x7F00_0000_0000


class Memory:
    """Of a GPU, as far as an allocator looks at it."""

    def __init__(self, driver: Driver, address: int) -> None:
        self.driver, self.address = driver, address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.driver.num_freed += 1


class Driver:
    """The one function of pycuda that an allocator needs."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.num_freed = 0

    def mem_alloc(self, size: int) -> Memory:
        if size > LIMIT:
            raise MemoryError("too much")
        self.sizes.append(size)
        return Memory(self, FIRST + 256 * (len(self.sizes) - 1))


def _scan() -> Iterator[tuple[str | None, str, int | None]]:
    folder = Path(package.__file__).parent
    for module in MODULES:
        tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        called = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called[id(node.func)] = len(node.args)
                if ast.unparse(node.func).rpartition(".")[0] in CLASSES:
                    assert not node.keywords, f"{ast.unparse(node)}: keywords differ between versions"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner in CLASSES:
                    yield CLASSES[owner], node.attr, called.get(id(node))
                elif match := re.fullmatch(r"(?:trt|self\._library\.module)\.(\w+)", owner):
                    yield match[1], node.attr, None


def _takes(function: object, count: int) -> bool:
    """Whether one of the signatures in pybind11's docstring takes so many arguments after self."""
    for line in (function.__doc__ or "").splitlines():
        match = re.match(r"(?:\d+\. )?\w+\(self: [\w.:]+(?P<rest>.*)\) -> ", line)
        if match:
            arguments = re.findall(r", (\w+): (?:[^,\[\]=]|\[[^\]]*\])+(= )?", match["rest"])
            required = sum(not default for _, default in arguments)
            if required <= count <= len(arguments):
                return True
    return False


def _slots(allocator: object, major: int, *, is_rtx: bool) -> tuple[Callable, Callable, Callable]:
    """reallocateOutput, reallocateOutputAsync and notifyShape, by their places in NvInferRuntime.h."""
    # The C++ object's pointer follows the two words that every Python object begins with (pybind11's simple holder).
    this = ctypes.c_void_p.from_address(id(allocator) + 16).value
    table = ctypes.c_void_p.from_address(this).value

    def slot(index: int, result: object, *arguments: object) -> Callable:
        address = ctypes.c_void_p.from_address(table + 8 * index).value
        return lambda *given: ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(address)(this, *given)

    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    four, five = (text, pointer, number, number), (text, pointer, number, number, pointer)
    if is_rtx:  # which has dropped the older of the two
        asynchronous = slot(4, pointer, *five)
        return lambda *given: asynchronous(*given, None), asynchronous, slot(5, None, text, pointer)
    if major == 8:
        plain = slot(1, pointer, *four)
        return plain, lambda *given: plain(*given[:4]), slot(2, None, text, pointer)
    # Two functions of IVersionedInterface and its two destructors come first.
    return slot(4, pointer, *four), slot(5, pointer, *five), slot(6, None, text, pointer)
