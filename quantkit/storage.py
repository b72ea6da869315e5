"""Writing files so that a reader sees the old one or the new one, never a half: temporary file, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from quantkit.errors import OutputError

__all__ = ["check_no_source", "check_writable", "exclusive", "write_atomically", "write_bytes", "write_text"]

_POLL_S = 0.1
_MOST_REFUSALS = 20
"""Two seconds: longer than a file takes to be deleted."""


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


def check_no_source(
    output: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]], *, option: str = "-o"
) -> None:
    """Raises `OutputError` where writing `output`, given by `option`, would replace one of what it is made from."""
    target = Path(output)
    if not target.exists():
        return
    for source in map(Path, sources):
        if source.exists() and target.samefile(source):
            raise OutputError(f"{target} is what the output is made from: give another name with {option}")


def check_writable(folder: str | os.PathLike[str], files: Iterable[Path] = ()) -> None:
    """Raises `OutputError` now, rather than after minutes of work, where nothing can be written to `folder`.

    Nothing is made: a folder that is missing is asked for in the nearest one that is there.
    """
    target = Path(folder)
    try:
        nearest = next(path for path in (target, *target.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
        if blocked := next((path for path in files if path.is_dir()), None):
            raise IsADirectoryError(errno.EISDIR, f"a folder {blocked.name} is there")
    except OSError as error:
        raise OutputError(f"cannot write to {target}: {error.strerror or error}") from error


_held = threading.local()
"""The locks of each thread, its attribute `paths`."""


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], *, on_wait: Callable[[], object]) -> Iterator[None]:
    """Holds a lock, so that files that belong together are written by one process and thread at a time.

    A thread that holds it may take it again. The system frees the lock of a process that ends in any way. File systems
    without locks have none.

    Args:
        path: the lock file, there while somebody holds it; its folder is made if it is missing.
        on_wait: called once if another process holds it.

    Raises:
        OutputError: the lock file cannot be made.
    """
    target = Path(path)
    held: set[Path] = _held.__dict__.setdefault("paths", set())
    if (identity := target.absolute()) in held:
        yield
        return
    missing = [folder for folder in target.absolute().parents if not folder.exists()]
    release: Callable[[], None] = _nothing
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        release = _locked(target, on_wait)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    held.add(identity)
    try:
        yield
    finally:
        held.discard(identity)
        release()
        for folder in missing:
            with contextlib.suppress(OSError):  # something was written to it
                folder.rmdir()


def _locked(target: Path, on_wait: Callable[[], object]) -> Callable[[], None]:
    """Waits for the lock, and returns what frees it."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        return _locked_on_windows(target, on_wait)

    while True:
        handle = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            on_wait = _nothing
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # the file system has no locks
            os.close(handle)
            target.unlink(missing_ok=True)
            return _nothing
        # Who held it before removed the file: a lock on what is not there any more keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(target)):
                break
        os.close(handle)

    def release() -> None:
        target.unlink(missing_ok=True)
        os.close(handle)

    return release


def _locked_on_windows(target: Path, on_wait: Callable[[], object]) -> Callable[[], None]:
    """The same with the first byte of the file, which Windows does not delete while any process has it open."""
    try:
        msvcrt = import_module("msvcrt")
    except ImportError:
        return _nothing
    refusals = 0
    while True:
        try:
            handle = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # it is being deleted, or the folder may not be written to
            refusals += 1
            if refusals > _MOST_REFUSALS:
                raise
            time.sleep(_POLL_S)
            continue
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            break
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EACCES, errno.EDEADLK):  # the file system has no locks
                return _nothing
        on_wait()
        on_wait = _nothing
        time.sleep(_POLL_S)

    def release() -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        os.close(handle)
        with contextlib.suppress(OSError):  # who waits has it open, and deletes it
            target.unlink()

    return release


def _nothing() -> None:
    return None


def _dump(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
