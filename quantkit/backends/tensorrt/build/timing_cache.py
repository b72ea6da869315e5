"""The timing cache: what TensorRT measured of its kernels, in a file, so that the next build need not measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.errors import BackendError
from quantkit.storage import write_bytes

__all__ = ["attach_timing_cache", "save_timing_cache"]


def attach_timing_cache(config: Any, path: Path) -> None:
    """Gives the cache at `path`, or an empty one where there is no such file, to a `trt.IBuilderConfig`.

    Raises:
        BackendError: the file cannot be read, or belongs to another TensorRT or GPU.
    """
    cache = _open(config, _read(path))
    if cache is None or not config.set_timing_cache(cache, False):
        raise BackendError(f"--timing-cache {path} belongs to another TensorRT or GPU, or is none: name another file")


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes what is known after a build, together with what another build has written to `path` meanwhile."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    other = _open(config, _read(path))
    if other is not None:
        cache.combine(other, False)
    write_bytes(path, bytes(cache.serialize()))


def _open(config: Any, content: bytes) -> Any:
    return config.create_timing_cache(content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BackendError(f"cannot read --timing-cache {path}: {error.strerror or error}") from error
