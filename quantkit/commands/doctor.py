"""What is installed here, what will work with it, and what to install for the rest."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from quantkit._version import DISTRIBUTION, __version__
from quantkit.backends.installation import RUNTIMES, probe
from quantkit.backends.tensorrt.library import PIP_LINE_OF_CALIBRATORS
from quantkit.processor import products_saturate, read_cpuinfo

Status = Literal["ok", "missing", "broken"]


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
    with ThreadPoolExecutor(len(RUNTIMES)) as pool:
        found = dict(zip(RUNTIMES, pool.map(probe, RUNTIMES), strict=True))
    gpu = _gpu_part(found["cuda"])
    parts = (
        Part("quantkit", "ok", __version__, f"Python {platform.python_version()}, {platform.system()}; {_counting()}"),
        _part("packages", found["packages"], "pip install --force-reinstall .", lambda data: str(data["shown"])),
        _processor_part(),
        _part("ONNX Runtime", found["onnxruntime"], f"pip install '{DISTRIBUTION}[cpu]' (or [cuda])", _providers),
        _driver_part(found["cuda"]),
        gpu,
        _part("TensorRT", found["tensorrt"], _tensorrt_fix(gpu), _calibrators),
        _part(
            "TensorRT-RTX",
            found["tensorrt-rtx"],
            "pip install tensorrt-rtx",
            lambda data: "builds engines without a GPU",
        ),
        _part("pycuda", found["pycuda"], "pip install pycuda  (compiles: needs the CUDA toolkit)", lambda data: ""),
    )
    return Diagnosis(parts, _abilities({part.name: part for part in parts}, found))


def _counting() -> str:
    """What `quantkit.calibration.statistics` counts with."""
    if importlib.util.find_spec("quantkit.calibration._magnitudes") is None:
        return "histograms by NumPy, slower (no C compiler when it was installed)"
    return "histograms compiled"


def _part(name: str, found: Mapping[str, Any], fix: str, detail: Callable[[Mapping[str, Any]], str]) -> Part:
    if "missing" in found:
        return Part(name, "missing", fix=f"{name}: {fix}")
    if "broken" in found:
        return Part(name, "broken", detail=str(found["broken"]), fix=f"{name}: {fix}")
    return Part(name, "ok", str(found.get("version", "")), detail(found))


def _processor_part() -> Part:
    model, _ = read_cpuinfo()
    wide = (
        "INT8 products saturate at 16 bits (no VNNI or AMX): --target cpu uses 7 to 8 bits for weights; an INT8 "
        "model for TensorRT is less accurate in ONNX Runtime here than on a GPU (evaluate computes it as a GPU does)"
        if products_saturate()
        else "INT8 products do not saturate"
    )
    return Part("processor", "ok", platform.machine(), f"{model}; {wide}" if model else wide)


def _providers(data: Mapping[str, Any]) -> str:
    names = [str(p).removesuffix("ExecutionProvider") for p in data.get("providers", [])]
    return f"providers: {', '.join(names)}"


def _tensorrt_fix(gpu: Part) -> str:
    lines = f"pip install tensorrt, or with its own calibrators {PIP_LINE_OF_CALIBRATORS}"
    return lines if gpu.status == "ok" else f"needs an NVIDIA GPU first; then {lines}"


def _calibrators(data: Mapping[str, Any]) -> str:
    return "has calibrators" if data.get("calibrators") else "no calibrators; needs models with Q/DQ"


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
    native = ability("calibrate with TensorRT's own calibrator", "", "GPU", "TensorRT", "pycuda")
    if native.works and not calibrators:
        native = Ability(native.name, False, f"TensorRT 11 has none: use quantkit's, or {PIP_LINE_OF_CALIBRATORS}")
    return (
        ability("calibrate, evaluate", "with ONNX Runtime", "ONNX Runtime"),
        _on_gpu(ability, found["onnxruntime"]),
        ability("quantize", "without a runtime"),
        ability("inspect models, caches, tables, engines", ""),
        native,
        ability("build a TensorRT engine", "", "GPU", "TensorRT"),
        ability("build a TensorRT-RTX engine", "without a GPU", "TensorRT-RTX"),
        ability("run and time a TensorRT engine", "", "GPU", "TensorRT", "pycuda"),
        ability(
            "run and time a TensorRT-RTX engine",
            _rtx_detail(found["cuda"].get("gpus", [])),
            "GPU",
            "TensorRT-RTX",
            "pycuda",
        ),
    )


def _on_gpu(ability: Callable[..., Ability], onnxruntime: Mapping[str, Any]) -> Ability:
    """What `--device auto` takes."""
    found = ability("calibrate, evaluate on a GPU", "--device auto takes cuda:0", *_ON_GPU)
    if "CUDAExecutionProvider" in onnxruntime.get("providers", ()):
        return found
    reason = f"needs ONNX Runtime's CUDA provider: pip uninstall onnxruntime, then pip install '{DISTRIBUTION}[cuda]'"
    return Ability(found.name, False, found.detail if not found.works else reason)


_ON_GPU = ("ONNX Runtime", "GPU", "pycuda")


def _rtx_detail(gpus: list[list[Any]]) -> str:
    """TensorRT-RTX 1.7 builds for SM75, 80, 86, 89, 120 and 121: not for data-center GPUs such as H100."""
    unsupported = [name for name, capability, _ in gpus if capability in ("9.0", "10.0", "10.3")]
    return f"not on {', '.join(unsupported)}, which it does not support" if unsupported else ""
