"""How an NVIDIA GPU is set, as nvidia-smi tells it: driver, clocks, power. What is not there is left out."""

from __future__ import annotations

import csv
import subprocess

_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "utilization.gpu",
    "persistence_mode",
)
_TIMEOUT_S = 20.0
"""Without persistence mode the driver is loaded for every call, which takes seconds."""


def describe_gpu_settings(device: str = "") -> dict[str, str]:
    """Asks nvidia-smi how a GPU is set, before the measurement.

    Args:
        device: its PCI bus number, as CUDA tells it; empty where it is not known: then the machine must have one GPU.

    Returns:
        Keys `gpu_driver`, `gpu_clock` (of the multiprocessors, now and at most), `gpu_memory_clock`, `gpu_power` (now
        and at most), `gpu_temperature`, `gpu_load` and `gpu_persistence_mode`; empty without nvidia-smi.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    if device:
        command.append(f"--id={device}")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    values = next(csv.reader(lines, skipinitialspace=True), [])
    if len(lines) != 1 or len(values) != len(_FIELDS):
        return {}
    known = {
        field: "" if value.strip().startswith("[") else value.strip()
        for field, value in zip(_FIELDS, values, strict=True)
    }
    found = {
        "gpu_driver": known["driver_version"],
        "gpu_clock": _of(known["clocks.sm"], known["clocks.max.sm"]),
        "gpu_memory_clock": known["clocks.mem"],
        "gpu_power": _of(known["power.draw"], known["power.limit"]),
        "gpu_temperature": known["temperature.gpu"] and f"{known['temperature.gpu']} °C",
        "gpu_load": known["utilization.gpu"],
        "gpu_persistence_mode": known["persistence_mode"].lower(),
    }
    return {name: value for name, value in found.items() if value}


def _of(now: str, most: str) -> str:
    return ", ".join([*([now] if now else []), *([f"at most {most}"] if most else [])])
