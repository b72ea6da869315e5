"""What this machine's processor is and can do."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

_WIDE_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


def read_cpuinfo(path: Path | None = None) -> tuple[str, frozenset[str]]:
    """Model name and instruction flags of the first processor; empty elsewhere than on Linux.

    Args:
        path: a file in the form of `CPUINFO`, which is the default.
    """
    try:
        text = (path or CPUINFO).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", frozenset()
    first: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    return first.get("model name", ""), frozenset(first.get("flags", first.get("Features", "")).split())


def products_saturate(path: Path | None = None, machine: str | None = None) -> bool:
    """Whether sums of UINT8 x INT8 products saturate at 16 bits here: on x86 without VNNI and AMX, or if unknown.

    Such a processor adds two products in 16 bits (VPMADDUBSW), where 255 * 127 * 2 does not fit, and results are wrong
    without a message. Weights of 7 bits fit (ONNX Runtime documentation, "Quantize ONNX models", reduce-range).
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return not (read_cpuinfo(path)[1] & _WIDE_PRODUCTS)
