"""Finds out what a runtime, a driver or a package can do here, each in a process of its own.

A broken installation may not only raise but take its process down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

_TIMEOUT_S = 120
"""The first import of a large runtime from a slow disk takes long."""


_PREAMBLE = "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"


_PROBES = {
    "packages": """
import importlib
from importlib import metadata
broken = {}
for name in ("numpy", "onnx", "onnx_ir", "onnxscript", "PIL", "msgspec", "jinja2", "tqdm"):
    try:
        importlib.import_module(name)
    except Exception as error:
        broken[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
if broken:
    print(json.dumps({"broken": "; ".join(f"{name}: {reason}" for name, reason in broken.items())}))
else:
    print(json.dumps({"shown": ", ".join(f"{n} {metadata.version(n)}" for n in ("numpy", "onnx", "onnx-ir"))}))
""",
    "onnxruntime": """
import onnxruntime
print(json.dumps({"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}))
""",
    "tensorrt": """
from quantkit.backends.tensorrt.library import load_library
library = load_library("tensorrt")
print(json.dumps({"version": ".".join(map(str, library.version)), "calibrators": library.has_calibrators}))
""",
    "tensorrt-rtx": """
from quantkit.backends.tensorrt.library import load_library
print(json.dumps({"version": ".".join(map(str, load_library("tensorrt-rtx").version))}))
""",
    "pycuda": """
import pycuda, pycuda.driver
print(json.dumps({"version": pycuda.VERSION_TEXT}))
""",
    "cuda": """
import ctypes
names = ["nvcuda.dll"] if sys.platform == "win32" else ["libcuda.so.1", "libcuda.so"]
cuda = None
for name in names:
    try:
        cuda = ctypes.CDLL(name)
        break
    except OSError as error:
        reason = str(error)
if cuda is None:
    print(json.dumps({"missing": reason}))
    sys.exit()
number, version = ctypes.c_int(), ctypes.c_int()
cuda.cuDriverGetVersion(ctypes.byref(version))
found = {"version": f"{version.value // 1000}.{version.value % 1000 // 10}", "gpus": []}
found["error"] = cuda.cuInit(0)
if not found["error"] and not cuda.cuDeviceGetCount(ctypes.byref(number)):
    for i in range(number.value):
        device, text, size = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), i)
        cuda.cuDeviceGetName(text, len(text), device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        name = text.value.decode(errors="replace")
        found["gpus"].append([name, f"{major.value}.{minor.value}", size.value])
print(json.dumps(found))
""",
}
"""Python that prints what it found as JSON, by runtime. 75 and 76 are the compute capability (cuda.h)."""

RUNTIMES = tuple(_PROBES)
"""What `probe` knows."""


def probe(runtime: str, *, python: str = sys.executable) -> dict[str, Any]:
    """What a process of its own finds out about a runtime.

    Args:
        runtime: one of `RUNTIMES`.
        python: the interpreter.

    Returns:
        "version" and more; or "missing", or "broken", with the reason.
    """
    command = [python, "-c", _PREAMBLE + _GUARD.format(code=_indented(_PROBES[runtime])), json.dumps(sys.path)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"broken": f"importing it takes more than {_TIMEOUT_S} s"}
    except OSError as error:
        return {"broken": f"cannot start {python}: {error.strerror or error}"}
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        data = json.loads(lines[-1])
    except (IndexError, ValueError):
        data = None
    if isinstance(data, dict) and done.returncode == 0:
        return data
    said = done.stderr.decode(errors="replace").strip().splitlines()
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {"broken": f"importing it ends the process ({ended}){': ' + said[-1][:200] if said else ''}"}


_GUARD = """
try:
{code}
except ModuleNotFoundError as error:
    print(json.dumps({{"missing": str(error)}}))
except BaseException as error:
    if isinstance(error, SystemExit) and not error.code:
        raise
    cause = error.__cause__
    key = "missing" if isinstance(cause, ModuleNotFoundError) else "broken"
    print(json.dumps({{key: (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}}))
"""


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.strip().splitlines())
