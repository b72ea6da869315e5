"""What is installed here, what will work with it, and what to install for the rest.

Each runtime is imported in a process of its own: a broken installation may not only raise but take its process down.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from quantkit._version import DISTRIBUTION, __version__
from quantkit.processor import products_saturate, read_cpuinfo

__all__ = ["Ability", "Diagnosis", "Part", "examine", "probe"]

Status = Literal["ok", "missing", "broken"]

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


@dataclass(frozen=True)
class Part:
    """Something that may be installed: what was found, and the line that installs or repairs it."""

    name: str
    status: Status
    version: str = ""
    detail: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Ability:
    """Something that quantkit can do, whether it will work here, and with what or why not."""

    name: str
    works: bool
    detail: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found."""

    parts: tuple[Part, ...]
    abilities: tuple[Ability, ...]

    @property
    def is_valid(self) -> bool:
        """Whether quantkit itself works: all packages that every command needs are there."""
        return all(part.status == "ok" for part in self.parts if part.name == "packages")


def examine() -> Diagnosis:
    """Looks at this machine. Never raises for what is missing or broken; nothing is changed."""
    with ThreadPoolExecutor(len(_PROBES)) as pool:
        found = dict(zip(_PROBES, pool.map(probe, _PROBES), strict=True))
    gpu = _gpu_part(found["cuda"])
    parts = (
        Part("quantkit", "ok", __version__, f"Python {platform.python_version()}, {platform.system()}"),
        _part("packages", found["packages"], "pip install --force-reinstall .", lambda data: str(data["shown"])),
        _processor_part(),
        _part("ONNX Runtime", found["onnxruntime"], f"pip install '{DISTRIBUTION}[cpu]' (or [cuda])", _providers),
        _part("TensorRT", found["tensorrt"], "pip install tensorrt pycuda", _calibrators),
        _part("TensorRT-RTX", found["tensorrt-rtx"], "pip install tensorrt-rtx", lambda data: "builds without a GPU"),
        _driver_part(found["cuda"]),
        gpu,
        _part("pycuda", found["pycuda"], "pip install pycuda  (compiles: needs the CUDA toolkit)", lambda data: ""),
    )
    return Diagnosis(parts, _abilities({part.name: part for part in parts}, found))


def probe(runtime: str, *, python: str = sys.executable) -> dict[str, Any]:
    """What a process of its own finds out about a runtime.

    Args:
        runtime: a key of the probes: "packages", "onnxruntime", "tensorrt", "tensorrt-rtx", "pycuda", "cuda".
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


def _part(name: str, found: Mapping[str, Any], fix: str, detail: Callable[[Mapping[str, Any]], str]) -> Part:
    if "missing" in found:
        return Part(name, "missing", fix=f"{name}: {fix}")
    if "broken" in found:
        return Part(name, "broken", detail=str(found["broken"]), fix=f"{name}: {fix}")
    return Part(name, "ok", str(found.get("version", "")), detail(found))


def _processor_part() -> Part:
    model, _ = read_cpuinfo()
    wide = (
        "INT8 products saturate at 16 bits (no VNNI or AMX): --target cpu uses 7-bit weights, and models made for "
        "TensorRT show a lower accuracy than on a GPU"
        if products_saturate()
        else "INT8 products do not saturate"
    )
    return Part("processor", "ok", platform.machine(), f"{model}; {wide}" if model else wide)


def _providers(data: Mapping[str, Any]) -> str:
    names = [str(p).removesuffix("ExecutionProvider") for p in data.get("providers", [])]
    return f"providers: {', '.join(names)}"


def _calibrators(data: Mapping[str, Any]) -> str:
    return "calibrates by itself" if data.get("calibrators") else "takes models with Q/DQ; has no calibrators"


def _driver_part(cuda: Mapping[str, Any]) -> Part:
    fix = "CUDA driver: install NVIDIA's driver (nvidia.com/drivers); in a container, start it with --gpus all"
    if "missing" in cuda:
        return Part("CUDA driver", "missing", fix=fix)
    if "broken" in cuda:
        return Part("CUDA driver", "broken", detail=str(cuda["broken"]), fix=fix)
    if cuda.get("error"):
        return Part("CUDA driver", "broken", str(cuda["version"]), f"cuInit fails with error {cuda['error']}", fix)
    return Part("CUDA driver", "ok", f"CUDA {cuda['version']}")


def _gpu_part(cuda: Mapping[str, Any]) -> Part:
    gpus = cuda.get("gpus", [])
    if not gpus:
        return Part("GPU", "missing")
    shown = [f"{name} (compute capability {capability}, {size / 2**30:.0f} GiB)" for name, capability, size in gpus]
    return Part("GPU", "ok", detail="; ".join(shown))


def _abilities(parts: Mapping[str, Part], found: Mapping[str, Mapping[str, Any]]) -> tuple[Ability, ...]:
    def needs(*names: str) -> str:
        return ", ".join(name for name in names if parts[name].status != "ok")

    def ability(name: str, detail: str, *required: str) -> Ability:
        lacking = needs("packages", *required)
        return Ability(name, not lacking, f"needs: {lacking}" if lacking else detail)

    calibrators = bool(found["tensorrt"].get("calibrators"))
    native = ability("calibrate with TensorRT's own calibrator", "", "TensorRT", "GPU", "pycuda")
    if native.works and not calibrators:
        native = Ability(native.name, False, "TensorRT 11 has none: quantkit's calibration and Q/DQ replace it")
    return (
        ability("calibrate, evaluate", "with ONNX Runtime", "ONNX Runtime"),
        ability("quantize", "from a calibration table; no runtime is needed"),
        ability("inspect models, caches, tables, inspector JSON", ""),
        native,
        ability("build a TensorRT engine", "", "TensorRT", "GPU"),
        ability("build a TensorRT-RTX engine", "no GPU is needed to build", "TensorRT-RTX"),
        ability("run and time a TensorRT engine", "", "TensorRT", "GPU", "pycuda"),
        ability(
            "run and time a TensorRT-RTX engine",
            _rtx_detail(found["cuda"].get("gpus", [])),
            "TensorRT-RTX",
            "GPU",
            "pycuda",
        ),
    )


def _rtx_detail(gpus: list[list[Any]]) -> str:
    """TensorRT-RTX 1.7 builds for SM75, 80, 86, 89, 120 and 121: not for data-centre GPUs such as H100."""
    unsupported = [name for name, capability, _ in gpus if capability in ("9.0", "10.0", "10.3")]
    return f"but not on {', '.join(unsupported)}: no such target" if unsupported else ""
