"""Finds TensorRT or TensorRT-RTX, and its capabilities: by the presence of API names, not by version."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from quantkit.errors import BackendError, BackendUnavailableError, NotInstalledError
from quantkit.types.options import EngineLibrary

LibraryName = Literal["tensorrt", "tensorrt-rtx"]

DEFAULT_TENSORRT_VERSION = "10.16.1"
"""The last TensorRT with calibrators: header of a cache where no such TensorRT is installed."""

OLDEST_VERSION = (8, 6, 0)
"""First version whose Python API has named tensors and execute_async_v3."""

_DISTRIBUTION = re.compile(r"tensorrt(-lean|-dispatch)?(-cu\d+)?(-bindings)?")
"""Names under which NVIDIA publishes TensorRT, one for each CUDA version; TensorRT-RTX is another product."""

_METADATA = (".dist-info", ".egg-info")

_MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_PIP_LINES: dict[str, str] = {"tensorrt": "pip install tensorrt pycuda", "tensorrt-rtx": "pip install tensorrt-rtx"}

PIP_LINE_OF_CALIBRATORS = 'pip install "tensorrt<11" pycuda'
"""What installs a TensorRT that can calibrate: the newest one cannot."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        module: the Python module; enums and classes are taken by name, since their values move between versions.
        name: which of the two products it is.
        version: major, minor, patch.
    """

    module: Any
    name: LibraryName
    version: tuple[int, int, int]

    @property
    def title(self) -> str:
        """Name and version for messages and manifests."""
        product = "TensorRT" if self.name == "tensorrt" else "TensorRT-RTX"
        return f"{product} {'.'.join(map(str, self.version))}"

    @property
    def has_calibrators(self) -> bool:
        """Whether it can calibrate by itself (TensorRT up to 10)."""
        return hasattr(self.module, "IInt8EntropyCalibrator2")

    @property
    def has_precision_flags(self) -> bool:
        """Whether FP16 and INT8 are builder flags (up to 10); else the network's own types decide."""
        return hasattr(self.module.BuilderFlag, "INT8")

    @property
    def has_strong_typing(self) -> bool:
        """Whether a network can be, or always is, strongly typed (10 and later)."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def cache_version(self) -> int:
        """The library's number in the header of a calibration cache: 8601 for 8.6.1, 101601 for 10.16.1.

        Source: getInferLibVersion in NvInferRuntimeBase.h.
        """
        major, minor, patch = self.version
        return major * (1000 if major < 10 else 10000) + minor * 100 + patch

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, which builds for named GPUs ahead of time, without one."""
        return self.name == "tensorrt-rtx"


def load_library(name: LibraryName = "tensorrt", *, calibrators: bool = False) -> Library:
    """Imports TensorRT or TensorRT-RTX.

    Args:
        name: which of the two.
        calibrators: it has to have them (TensorRT up to 10).

    Raises:
        NotInstalledError: it is not installed; the message holds the pip line.
        BackendUnavailableError: it cannot be loaded, is too old, or too new for calibrators.
    """
    product = "TensorRT" if name == "tensorrt" else "TensorRT-RTX"
    line = PIP_LINE_OF_CALIBRATORS if calibrators else _PIP_LINES[name]
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"{product} is not installed: {line}") from error
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackendUnavailableError(f"{product} is installed but does not load ({reason}): {line}") from error
    version = parse_version(str(module.__version__))
    if name == "tensorrt" and version < OLDEST_VERSION:
        found = ".".join(map(str, version))
        raise BackendUnavailableError(f"TensorRT {found} is too old: 8.6 or newer is needed: {line}")
    library = Library(module=module, name=name, version=version)
    if calibrators and not library.has_calibrators:
        raise BackendUnavailableError(f"{library.title} has no calibrators: {line}")
    return library


def choose_library(name: EngineLibrary, *, targets: Sequence[str] = (), has_gpu: bool = True) -> Library:
    """The library that builds an engine.

    Args:
        name: "auto" takes TensorRT-RTX if targets are given or TensorRT is not installed.
        targets: GPUs to build for ahead of time, which only TensorRT-RTX does.
        has_gpu: this machine has one: what to install depends on it.

    Raises:
        BackendError: there is no such library.
        NotInstalledError: it is not installed; the message holds the pip line.
        BackendUnavailableError: it cannot be loaded, or is too old.
    """
    if name not in ("auto", "tensorrt", "rtx"):
        raise BackendError(f"there is no library {name!r}: choose auto, tensorrt or rtx")
    if name == "rtx" or (name == "auto" and targets):
        return load_library("tensorrt-rtx")
    try:
        return load_library("tensorrt")
    except NotInstalledError as error:
        if name == "tensorrt" and not has_gpu:
            raise NotInstalledError(
                "TensorRT needs an NVIDIA GPU, and this machine has none: TensorRT-RTX builds without one "
                "(pip install tensorrt-rtx, --library rtx)"
            ) from error
        if name == "tensorrt":
            raise
    try:
        return load_library("tensorrt-rtx")
    except NotInstalledError as error:
        alone = "pip install tensorrt-rtx, which builds without a GPU"
        here = "pip install tensorrt pycuda for the GPU of this machine, or "
        raise NotInstalledError(
            f"neither TensorRT nor TensorRT-RTX is installed: {here if has_gpu else ''}{alone}"
        ) from error


def parse_version(text: str) -> tuple[int, int, int]:
    """Major, minor and patch of a version such as "10.14.1.48.post1"."""
    numbers = [int(n) for n in re.findall(r"\d+", text)[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def installed_tensorrt() -> str | None:
    """Version of the installed TensorRT, whichever of its distributions it came in; None without one.

    Read from the distribution's metadata: importing the library takes seconds, and may fail without a driver.
    """
    stems = {Path(name).stem for folder in sys.path for name in _files(folder) if name.endswith(_METADATA)}
    names = {stem.split("-")[0].lower().replace("_", "-") for stem in stems}
    found = {name: metadata.version(name) for name in names if _DISTRIBUTION.fullmatch(name)}
    # The meta package, then the full library's, then the lean and the dispatch runtime's.
    return (
        found[min(found, key=lambda name: ("-lean" in name or "-dispatch" in name, len(name), name))] if found else None
    )


def _files(folder: str) -> list[str]:
    """Names of what is in a folder of the search path; nothing where it is none, or may not be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def version_of_caches(wanted: str | None = None) -> str:
    """Version of the TensorRT for which a calibration cache is written, which ignores any other's.

    Args:
        wanted: as given by the user; None takes the installed one if it has calibrators (up to 10), else the last
            that had them.
    """
    installed = installed_tensorrt()
    if wanted is not None or installed is None or parse_version(installed) >= (11, 0, 0):
        return wanted or DEFAULT_TENSORRT_VERSION
    return installed
