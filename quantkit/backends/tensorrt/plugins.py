"""Plugins: operators that TensorRT does not have itself, from its own plugin library and from the user's.

They are registered in the process, not in a builder or runtime: once, before either is made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError, joined_lines
from quantkit.types import PathLike

_ENTRY_POINTS = ("getCreators", "getPluginCreators")
"""What a library exports whose plugins are registered on loading by TensorRT (trtexec --dynamicPlugins); those of
others register themselves when the library is loaded (trtexec --staticPlugins)."""

_loaded: dict[str, ctypes.CDLL] = {}


def init_standard_plugins(library: Library, logger: Any) -> None:
    """Registers NVIDIA's own plugins (EfficientNMS_TRT and others), as trtexec does; TensorRT-RTX has none."""
    if hasattr(library.module, "init_libnvinfer_plugins"):
        library.module.init_libnvinfer_plugins(logger, "")


def load_plugins(library: Library, paths: Sequence[PathLike]) -> None:
    """Loads the user's plugin libraries, each once per process.

    Args:
        library: that will build or run with them.
        paths: shared libraries.

    Raises:
        BackendError: TensorRT-RTX takes none, a file is missing, or does not load; the message names it.
    """
    if paths and library.is_rtx:
        raise BackendError(f"--plugins has no use with {library.title}, which takes none: use --library tensorrt")
    for path in paths:
        _load(library, Path(path).resolve())


def _load(library: Library, path: Path) -> None:
    if str(path) in _loaded:
        return
    if not path.is_file():
        raise BackendError(f"--plugins {path}: no such file")
    try:
        opened = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise BackendError(f"--plugins {path} does not load: {joined_lines(error)}") from error
    if any(hasattr(opened, name) for name in _ENTRY_POINTS):
        registry = library.module.get_plugin_registry()
        if registry is None or registry.load_library(str(path)) is None:
            raise BackendError(
                f"--plugins {path}: {library.title} does not register it: a plugin of that name may be registered "
                "already, or the library was built for another version"
            )
    _loaded[str(path)] = opened
