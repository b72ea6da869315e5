"""Writing files so that a reader sees the old one or the new one, never a half: temporary file, fsync, rename."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from quantkit.errors import OutputError

__all__ = ["check_writable", "write_atomically", "write_bytes", "write_text"]


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary path in the folder of `path`, then renames it to `path`.

    An exception or a killed process leaves the old file, or none, at `path`.

    Args:
        path: the file to make or replace; its folder is made if it is missing.
        write: creates the file at the path that it gets.

    Raises:
        OutputError: naming `path`, where the system refuses (permissions, disk full, not a folder).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder of that name is there")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically, with the line ends that `text` has."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes atomically."""
    write_atomically(path, lambda temporary: _dump(temporary, content))


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Raises `OutputError` now, rather than after minutes of work, where nothing can be written to `folder`.

    Nothing is made: a folder that is missing is asked for in the nearest one that is there.
    """
    target = Path(folder)
    try:
        nearest = next(path for path in (target, *target.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {target}: {error.strerror or error}") from error


def _dump(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
