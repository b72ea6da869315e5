"""The registry of runtimes that `evaluate` opens finished models with, by name or by the suffix of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantkit.types import Runner


@dataclass(frozen=True)
class Backend:
    """A runtime.

    Attributes:
        suffixes: of its files, in lower case.
        open: called as ``open(path, name=..., threads=..., cuda_graph=...)``: the file, what messages call it, threads
            within an operator (0: automatic), and whether to replay queries from CUDA graphs. Returns a `Runner`, which
            may say in its attribute `backend` what reports call it.
        device: kind of the device that it runs on, for reports; None where that is not known.
    """

    suffixes: tuple[str, ...]
    open: Callable[..., Runner]
    device: Literal["cpu", "gpu"] | None = None


BACKENDS: dict[str, Backend] = {}
"""By name; filled by the modules of this folder."""


def find_backend(file: str | os.PathLike[str]) -> tuple[str, Path]:
    """Name of the runtime that opens a file, and the file's path.

    Args:
        file: path, or "RUNTIME:PATH". Without a runtime the suffix tells; ONNX Runtime opens what no other claims.
    """
    named, colon, rest = os.fspath(file).partition(":")
    if colon and named in BACKENDS:
        return named, Path(rest)
    path = Path(file)
    claims = (name for name, backend in BACKENDS.items() if path.suffix.lower() in backend.suffixes)
    return next(claims, "onnxruntime"), path
