"""Compiles the CUDA kernels to PTX, which any driver since CUDA 11.8 takes, for GPUs since Pascal.

pip install nvidia-cuda-nvrtc-cu11 && python .ci/compile_kernels.py

No GPU is needed. The PTX lies beside its source in the package, and names the source by its hash.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent.parent.glob("quantkit/backends/cuda/*.cu")
OPTIONS = (b"--gpu-architecture=compute_60", b"--std=c++14")


def main() -> None:
    """Compiles all of them."""
    nvrtc = load_nvrtc()
    for source in SOURCES:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        text = f"// compiled from {source.name}, SHA-256 {digest}\n" + compile_ptx(nvrtc, source)
        source.with_suffix(".ptx").write_text(text)
        print(f"wrote {source.with_suffix('.ptx')}")


def load_nvrtc() -> Any:
    """NVRTC of the package nvidia-cuda-nvrtc-cu11."""
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install nvidia-cuda-nvrtc-cu11")
    return ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "lib" / "libnvrtc.so.11.2"))


def compile_ptx(nvrtc: Any, source: Path) -> str:
    """PTX of a source, or the compiler's words."""
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None))
    failed = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
    if failed:
        raise SystemExit(read(nvrtc, program, "ProgramLog"))
    return read(nvrtc, program, "PTX")


def read(nvrtc: Any, program: ctypes.c_void_p, what: str) -> str:
    """One of the texts that a program has."""
    size = ctypes.c_size_t()
    check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    check(getattr(nvrtc, f"nvrtcGet{what}")(program, text))
    return text.value.decode()


def check(code: int) -> None:
    """Ends the run where NVRTC fails."""
    if code:
        raise SystemExit(f"NVRTC fails with code {code}")


if __name__ == "__main__":
    main()
