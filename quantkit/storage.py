"""Writing files so that a reader sees the old one or the new one, never a half: temporary file, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from filelock import BaseFileLock, FileLock, Timeout

from quantkit.errors import OutputError
from quantkit.interrupts import removed_with_process

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LOGGER = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that know no locks, such as some network shares."""


_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_RUNS = "quantkit-run-"
_TEMPORARY_RUN = re.compile(rf"{_RUNS}[a-z0-9_]{{8}}")
"""Temporary files and folders, as `tempfile` names them, locked by their writer: what is not is of a killed process."""

_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP)
"""What systems answer that cannot sync a folder."""


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder of that name is there")
        with _temporary_file(target) as temporary:
            write(temporary)
            os.chmod(temporary, 0o666 & ~_umask())
            rename_durably(temporary, target)
        _LOGGER.debug("wrote %s", target, extra={"written": target})
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


def rename_durably(source: Path, target: Path) -> None:
    """Puts a file that is whole in the place of another: content and name outlast a power failure.

    Raises:
        OSError: the system refuses.
    """
    with open(source, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    if os.name == "nt":
        return
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(folder)


@contextlib.contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    """A file to write beside `target`, gone afterwards unless it was renamed."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with removed_with_process(Path(name)):
            try:
                if _lock(handle, wait=True) and os.fstat(handle).st_nlink == 0:
                    continue  # taken for a leftover before it was locked
                yield Path(name)
                return
            finally:
                os.close(handle)
                Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(*, beside: Path | None = None) -> Iterator[Path]:
    """A folder for one run, gone afterwards. Those of runs that were killed are removed first.

    Args:
        beside: a file that is to be made of what lies in it; None is where the system has temporary files.
    """
    if beside is None:
        remove_leftovers(tempfile.gettempdir(), _TEMPORARY_RUN)
        place: dict[str, str] = {"prefix": _RUNS}
    else:
        place = {"prefix": f".{beside.name}.", "suffix": ".tmp", "dir": os.fspath(beside.parent)}
    while True:
        with tempfile.TemporaryDirectory(**place, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            with removed_with_process(folder), _locked(folder):
                if folder.is_dir():  # else taken for a leftover before it was locked
                    yield folder
                    return


def remove_leftovers(folder: str | os.PathLike[str], pattern: re.Pattern[str] = _TEMPORARY) -> None:
    """Removes temporary files and folders in `folder` whose writer was killed; those that are being written stay."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [e for e in entries if pattern.fullmatch(e.name) and not e.is_symlink()]:
            with contextlib.suppress(OSError):
                handle = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    if not _lock(handle, wait=False) or os.fstat(handle).st_uid != os.geteuid():
                        continue
                    if entry.is_dir():
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)
                finally:
                    os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = None
    if fcntl is not None:
        with contextlib.suppress(FileNotFoundError):  # taken for a leftover
            handle = os.open(path, os.O_RDONLY)
    if handle is None:
        yield
        return
    try:
        _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    """Whether an open file could be locked until it is closed; never where the system has no such locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically, with the line ends that `text` has."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes atomically."""
    write_atomically(path, lambda temporary: _dump(temporary, content))


def check_no_source(
    output: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]], *, option: str = "-o"
) -> None:
    """Raises `OutputError` where writing `output`, given by `option`, would replace one of what it is made from.

    A source may be a file that is yet to be made.
    """
    target = Path(output)
    for source in map(Path, sources):
        both = target.exists() and source.exists()
        if target.samefile(source) if both else target.absolute() == source.absolute():
            raise OutputError(f"Refusing to overwrite the input file {target}; choose another path with {option}.")


def check_writable(*files: Path) -> None:
    """Raises `OutputError` now, rather than after minutes of work, where one of `files` could not be written.

    Temporary files that killed runs left beside them are removed. Nothing is made: a folder that is missing is asked
    for in the nearest one that is there.
    """
    for path in files:
        try:
            remove_leftovers(path.parent)
            with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
                pass
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"a folder {path.name} is there")
        except OSError as error:
            raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], *, on_wait: Callable[[], object]) -> Iterator[None]:
    """Holds a lock, so that files that belong together are written by one process and thread at a time.

    A thread that holds it may take it again. The system frees the lock of a process that ends in any way. File systems
    without locks have none.

    Args:
        path: the lock file, there while somebody holds it; its folder is made if it is missing.
        on_wait: called once if another process or thread holds it.

    Raises:
        OutputError: the lock file cannot be made.
    """
    target = Path(path).absolute()
    missing = [folder for folder in target.parents if not folder.exists()]
    lock = FileLock(target, is_singleton=True)  # one object a path, which counts its holds
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        is_held = _acquire(lock, on_wait)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with removed_with_process(target) if is_held else contextlib.nullcontext():
            remove_leftovers(target.parent)
            yield
    finally:
        if is_held:
            _release(lock, target)
        for folder in missing:
            with contextlib.suppress(OSError):  # something was written to it
                folder.rmdir()


def _acquire(lock: BaseFileLock, on_wait: Callable[[], object]) -> bool:
    """Waits for the lock; False where the file system has none."""
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        Path(lock.lock_file).unlink(missing_ok=True)
        return False
    return True


def _release(lock: BaseFileLock, target: Path) -> None:
    if lock.lock_counter == 1:
        # While it is held: who waits for it sees that the file is gone, and makes it anew. Windows does not delete an
        # open file; there the library does it.
        with contextlib.suppress(OSError):
            target.unlink()
    lock.release()


def _dump(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
