"""The timing cache: TensorRT's kernel timings in a file, which later builds reuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.errors import BackendError
from quantkit.machine import read_file
from quantkit.storage import write_bytes


def attach_timing_cache(config: Any, path: Path) -> None:
    """Sets the cache at `path`, or an empty one if there is no such file, in a `trt.IBuilderConfig`.

    Raises:
        BackendError: the file cannot be read, or belongs to another TensorRT or GPU.
    """
    cache = config.create_timing_cache(_read(path))
    if cache is None or not config.set_timing_cache(cache, False):
        raise BackendError(f"--timing-cache {path} is not a timing cache of this TensorRT and GPU: name another file")


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes the timings after a build, merged with what another build has written to `path` meanwhile."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    other = config.create_timing_cache(_read(path))
    if other is not None:
        cache.combine(other, False)
    write_bytes(path, bytes(cache.serialize()))


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BackendError(f"cannot read --timing-cache {path}: {error.strerror or error}") from error
