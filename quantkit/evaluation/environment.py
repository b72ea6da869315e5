"""What a measurement was made on: processor, system and versions. No host name, user or path."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path

from quantkit._version import __version__
from quantkit.processor import CPUINFO, read_cpuinfo

__all__ = ["describe_environment"]

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
"""Instructions that decide how fast INT8 runs on a CPU, and (VNNI, AMX, i8mm) whether its sums can saturate."""


def describe_environment(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Describes this machine and process; what cannot be found out is left out.

    Args:
        cpuinfo: Linux' description of the processor.

    Returns:
        Keys `cpu`, `cpu_cores` (logical, that this process may use), `cpu_flags`, `load_average` (1 minute), `os`,
        `python`, `quantkit` and the installed ones of numpy, onnx, onnxruntime and tensorrt.
    """
    model, flags = read_cpuinfo(cpuinfo)
    environment = {
        "cpu": model or platform.processor() or platform.machine(),
        "cpu_cores": str(_count_cores()),
        "cpu_flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "load_average": _load_average(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        "python": platform.python_version(),
        "quantkit": __version__,
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            environment[package] = metadata.version(package)
    return {name: value for name, value in environment.items() if value}


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_average() -> str:
    try:
        return f"{os.getloadavg()[0]:.2f}"
    except (AttributeError, OSError):
        return ""
