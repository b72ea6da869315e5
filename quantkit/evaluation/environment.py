"""What a measurement was made on: processor, limits, system and versions. No host name, user or path."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path

from quantkit._version import __version__
from quantkit.backends.tensorrt.library import installed_tensorrt
from quantkit.processor import read_cpuinfo

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx")

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
"""Instructions that decide how fast INT8 runs on a CPU, and (VNNI, AMX, i8mm) whether its sums can saturate."""

_ROOT = Path("/")


def describe_environment(root: Path = _ROOT) -> dict[str, str]:
    """Describes this machine and process; what cannot be found out is left out.

    Args:
        root: of the file system in which Linux tells of itself, under proc and sys.

    Returns:
        Keys `cpu`, `cpu_cores` (logical, that this process may use), `cpu_quota` (of its control group, where that is
        limited), `cpu_flags`, `cpu_governor`, `cpu_clock` (now and at most), `cpu_boost`, `load_average` (1 minute),
        `memory` (of the machine, or the control group's limit), `os`, `python`, `quantkit` and the installed ones of
        numpy, onnx, onnxruntime and tensorrt.
    """
    model, flags = read_cpuinfo(root / "proc/cpuinfo")
    environment = {
        "cpu": model or platform.processor() or platform.machine(),
        "cpu_cores": str(_count_cores()),
        "cpu_quota": _cpu_quota(root),
        "cpu_flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "cpu_governor": _governor(root),
        "cpu_clock": _clock(root),
        "cpu_boost": _boost(root),
        "load_average": _load_average(),
        "memory": _memory(root),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        "python": platform.python_version(),
        "quantkit": __version__,
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            environment[package] = metadata.version(package)
    environment["tensorrt"] = installed_tensorrt() or ""
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


def _governor(root: Path) -> str:
    """Frequency governors of all processors: "performance", or "performance, powersave"."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({text for file in files if (text := _read(file))}))


def _clock(root: Path) -> str:
    """Clock of the first processor, before the measurement: "2600 MHz, at most 3700 MHz"."""
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    now, most = (_number(_read(folder / f"{name}_freq")) for name in ("scaling_cur", "cpuinfo_max"))
    megahertz = now / 1000 if now else _number(_value(_read(root / "proc/cpuinfo"), "cpu MHz"))
    words = [f"{megahertz:.0f} MHz"] if megahertz else []
    return ", ".join([*words, *([f"at most {most / 1000:.0f} MHz"] if most else [])])


def _boost(root: Path) -> str:
    """Whether the processor may exceed its nominal clock, which makes times depend on its temperature."""
    folder = root / "sys/devices/system/cpu"
    if off := _read(folder / "intel_pstate/no_turbo"):
        return "off" if off == "1" else "on"
    if on := _read(folder / "cpufreq/boost"):
        return "on" if on == "1" else "off"
    return ""


def _cpu_quota(root: Path) -> str:
    """Processor time that the control group may use, "1.5 cores"; empty without a limit."""
    shares = []
    for folder in _groups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        for used, of in ((quota, period), (_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))):
            if _number(used) > 0 and _number(of) > 0:
                shares.append(_number(used) / _number(of))
    return f"{min(shares):.3g} cores" if shares else ""


def _memory(root: Path) -> str:
    """Memory of the machine, or the control group's limit where that is less: "24.7 GB" of 10^9 bytes."""
    total = 1024 * _number(_value(_read(root / "proc/meminfo"), "MemTotal").removesuffix("kB"))
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [_number(_read(folder / name)) for folder in _groups(root, "memory") for name in names]
    limit = min((value for value in limits if value > 0), default=0.0)
    if limit and (limit < total or not total) and limit < 2**60:
        return f"{limit / 1e9:.3g} GB (limit of the control group)"
    return f"{total / 1e9:.3g} GB" if total else ""


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and of those around it; in a container they are cut off at its own."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup"
        bases = [mount / name for name in dict.fromkeys((controllers, controller))] if controllers else [mount]
        inner = Path(path.lstrip("/"))
        found += [base / part for base in bases for part in (inner, *inner.parents) if ".." not in part.parts]
    return found


def _value(text: str, key: str) -> str:
    """The value in the first line "key : value"; empty without one."""
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float:
    """Zero for what is none, such as "max"."""
    try:
        return float(text)
    except ValueError:
        return 0.0
