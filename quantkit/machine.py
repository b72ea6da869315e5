"""Faults of the machine, told from damaged files: what failed is tried again for a moment, then the run ends."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from quantkit.errors import MachineError, QuantKitError, one_line

_T = TypeVar("_T")

FILE_LIMIT_BYTES = 1 << 30
"""For tables, caches, reports, lists, settings and code: what is larger is something else."""

_NO_MEMORY = (
    *("Arena alloc failed", "std::bad_alloc", "Out of memory", "failed to map segment", "Failed to allocate memory"),
    "Failed to serialize proto",  # nor does protobuf write more than 2 GiB, but weights of that size go elsewhere
    "can't start new thread",  # for want of its stack, or of threads
)
"""What protobuf, ONNX Runtime, C++ libraries, the loader and Python say for want of memory, in place of a code."""

_PILLOW_NO_MEMORY = "out of memory when reading image file"
"""What Pillow says where zlib or another decoder had none, as an `OSError` without a number."""

_NO_REASON = "error return without exception set", "returned NULL without setting an exception"
"""What Python says of C code that failed and forgot to say why: in practice for want of memory."""

_PAUSES_S = (0.05, 0.2, 0.5)
"""Between attempts. Network disks and file tables that are full recover in such times, or not soon."""

_FAULTS = frozenset(
    getattr(errno, name)
    for name in (
        "EIO",
        "EMFILE",
        "ENFILE",
        "ESTALE",
        "ENOMEM",
        "EAGAIN",
        "ETIMEDOUT",
        "EREMOTEIO",
        "ENOTCONN",
        "EHOSTDOWN",
    )
    if hasattr(errno, name)
)


def is_machine_fault(error: BaseException) -> bool:
    """Whether an error is of the machine, want of memory included, and not of a file: another attempt may succeed."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _FAULTS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is for want of memory."""
    cause: BaseException | None = error
    while cause is not None:
        text = "" if isinstance(cause, (OSError, QuantKitError)) else str(cause)  # these quote names of files
        no_code = any(words in text for words in _NO_MEMORY)
        no_reason = isinstance(cause, SystemError) and any(words in text for words in _NO_REASON)
        no_code |= isinstance(cause, OSError) and cause.args == (_PILLOW_NO_MEMORY,)
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) == errno.ENOMEM or no_code or no_reason:
            return True
        cause = cause.__cause__
    return False


def raise_if_out_of_memory(error: BaseException) -> None:
    """To begin a handler of any exception with: want of memory says nothing of the file, model or value at hand.

    Raises:
        MemoryError: from `error`, if that is, or was raised, for want of memory.
    """
    if is_out_of_memory(error):
        raise MemoryError(one_line(str(error))) from error


def persistently(action: Callable[[], _T], what: str, *, doubted: type[QuantKitError] | tuple[()] = ()) -> _T:
    """What `action` returns, tried again for a moment where the machine fails.

    Args:
        action: may run several times.
        what: it does, to follow "cannot": "read a.png".
        doubted: error that counts only if it is raised twice: not every library says that it had too little memory.

    Raises:
        MachineError: the machine still fails.
        Exception: whatever else `action` raises, at once.
    """
    pauses = iter(_PAUSES_S)
    while True:
        try:
            return action()
        except QuantKitError as error:  # of a fault, it was tried again where it is from
            if not isinstance(error, doubted):
                raise
            doubted = ()
            continue
        except Exception as error:
            if not is_machine_fault(error):
                raise
            if (pause := next(pauses, None)) is None:
                reason = error.strerror or str(error) if isinstance(error, OSError) else "not enough memory"
                fault = "a fault of this machine, its disk or network, not of the file; run again"
                raise MachineError(f"cannot {what}: {reason}: {fault}") from error
        time.sleep(pause)


def read_file(path: str | os.PathLike[str], *, most_bytes: int | None = FILE_LIMIT_BYTES) -> bytes:
    """The content of a regular file, links followed, read once from end to end.

    Args:
        path: of the file.
        most_bytes: that it may have; None is any number, for models, engines and samples.

    Raises:
        MachineError: the machine failed, and went on to.
        OSError: it is missing, no regular file, too large, or may not be read.
    """
    return persistently(lambda: _read(path, most_bytes), f"read {path}")


def read_input(
    path: str | os.PathLike[str],
    error: Callable[[str], QuantKitError],
    what: str = "",
    *,
    most_bytes: int | None = FILE_LIMIT_BYTES,
) -> bytes:
    """The content of a file that is needed, as `read_file`; `error` makes an exception of why there is none.

    Args:
        path: of the file.
        error: a class of exceptions, such as `CalibrationError`.
        what: the file is, to precede its name in the message.
        most_bytes: that it may have.
    """
    try:
        return read_file(path, most_bytes=most_bytes)
    except OSError as failure:
        name = f"{what} {path}" if what else path
        raise error(f"cannot read {name}: {failure.strerror or failure}") from failure


def read_part(path: str | os.PathLike[str], start: int, size: int) -> bytes:
    """At most `size` bytes of a regular file from byte `start`, as `read_file`."""

    def read() -> bytes:
        with open_regular(path) as file:
            file.seek(start)
            return file.read(size)

    return persistently(read, f"read {path}")


def read_text(path: str | os.PathLike[str], *, encoding: str = "utf-8") -> str:
    """The text of a regular file, as `read_file`; its lines end with a line feed.

    Raises:
        MachineError: the machine failed, and went on to.
        OSError: it is missing, no regular file, too large, or may not be read.
        UnicodeDecodeError: it is no such text.
    """
    return decode_text(read_file(path), encoding)


def decode_text(content: bytes, encoding: str = "utf-8") -> str:
    """Text whose lines end with a line feed. Raises `UnicodeDecodeError` where it is no such text."""
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def file_status(path: str | os.PathLike[str]) -> os.stat_result | None:
    """What there is at a path, links followed; None where there is nothing, or a link to nothing or in a circle.

    Raises:
        MachineError: the machine failed, and went on to.
    """
    try:
        return persistently(lambda: os.stat(path), f"look at {path}")
    except (OSError, ValueError):
        return None


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, links followed, opened for reading. Raises `OSError` for anything else."""
    # A pipe without a writer would block the open, and a device has no end.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return open(handle, "rb")
    os.close(handle)
    code = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
    raise OSError(code, os.strerror(code) if stat.S_ISDIR(kind) else "not a regular file", str(path))


def _read(path: str | os.PathLike[str], most_bytes: int | None) -> bytes:
    with open_regular(path) as file:
        if most_bytes is not None and os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
        return file.read()
