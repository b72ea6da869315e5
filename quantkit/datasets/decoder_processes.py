"""Processes that decode for threads: beyond a few threads Python's lock costs more than a second process.

A thread names its files through a pipe and waits for pixels without the lock. A child process knows nothing but its
pipe: it ends with it, however its parent ends. What it cannot do is done again in the thread, which tells why.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from quantkit.datasets.fingerprint import LARGEST_FILE_BYTES, count_cpus
from quantkit.datasets.image_decoding import Box, Pixels, decode_pixels
from quantkit.machine import read_file
from quantkit.types import Dataset, Preprocessing

if sys.platform == "linux":
    import fcntl

TOGETHER = 8
"""Samples that a process is sent at once."""

_MOST_THREADS = 4
"""That decode well side by side in one process: more of them wait for Python's lock."""

_WORTH_PROCESSES = 1000
"""Samples: each process takes some 0.4 CPU seconds to start."""

_CHUNKS_AHEAD = 4
"""For each process: images differ, and what is ready waits for the one in front of it."""

_MOST_AHEAD_BYTES = 1 << 30
"""Of pixels that are decoded ahead."""

_F_SETPIPE_SZ = 1031
"""From Linux' fcntl.h; the module `fcntl` of Python 3.10 does not always have it."""

_PIPE_BYTES = 1 << 20
"""Linux' limit for users without privileges."""

_THREAD = threading.local()
_ENDING_S = 1.0
"""That a process may take to end, once killed: on a disk that hangs the system does not end it."""

_START = "import sys; sys.path[:] = {path!r}; from quantkit.datasets.decoder_processes import serve; serve()"
"""With the path of this process, and nothing of the folder that it runs in, nor of a script that would run again."""

Request = tuple["Path | bytes", "Box | None", Preprocessing]
"""An image file, or its content; the rest is as in `decode_pixels`."""

Reply = tuple["str | None", Pixels]
"""SHA-256, hexadecimal, of the content where it was read from a file, and what was decoded."""


def count_ahead(dataset: Dataset, workers: int) -> int:
    """Samples that processes decode ahead; 0 where they would not pay, or would have no images to decode."""
    how = dataset.preprocessing
    if how is None or how.function is not None or len(dataset) < _WORTH_PROCESSES:
        return 0
    if min(workers, count_cpus()) <= _MOST_THREADS:
        return 0
    height, width = how.size
    affordable = _MOST_AHEAD_BYTES // (height * width * how.channels)
    return max(TOGETHER, min(_CHUNKS_AHEAD * workers * TOGETHER, affordable))


class DecoderProcesses:
    """One process for each thread that joins, from its first image until all are ended.

    Attributes:
        has_ended: nobody wants images any more.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def end(self) -> None:
        """Ends them all, also in the middle of an image. Called once more when no thread can start another one."""
        self.has_ended = True
        started = list(self._started.values())
        for process in started:
            process.kill()
        for process in started:
            _end(process)

    def join(self) -> None:
        """Has this thread's images decoded by a process of its own. Called in the thread."""
        _THREAD.processes = self

    def decode(self, requests: Sequence[Request]) -> list[Reply | None]:
        """What came of each; None where that was an error. Raises nearly anything where there is no process."""
        thread = threading.get_ident()
        if thread not in self._started:
            self._started[thread] = _start()
        try:
            return _ask(self._started[thread], requests)
        except BaseException:
            _end(self._started[thread])  # what is left in its pipe is no answer to what comes next
            raise


def decode_ahead(requests: Sequence[Request]) -> list[Reply | None]:
    """Decodes several images in the process of this thread, where it has joined `DecoderProcesses`.

    A thread whose process fails goes on without one.

    Returns:
        What came of each, None where that was an error; nothing where there is no process.
    """
    processes: DecoderProcesses | None = getattr(_THREAD, "processes", None)
    if processes is None or not requests:
        return []
    try:
        return processes.decode(requests)
    except Exception:
        _THREAD.processes = None
        return []


def _start() -> subprocess.Popen[bytes]:
    if getattr(sys, "frozen", False):
        raise OSError("a frozen application is no interpreter: started again, it would run itself")
    path = [folder for folder in sys.path if isinstance(folder, str)]  # as Python does, which skips others
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(path=path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the thread tells what is wrong, and it alone knows whether anybody waits for it
        start_new_session=True,  # Ctrl-C at the terminal is for the command, which ends this by closing its pipe
    )
    for pipe in (process.stdin, process.stdout):
        _widen(pipe)
    return process


def _widen(pipe: IO[bytes] | None) -> None:
    """Has a pipe hold several images, so that nobody wakes up for each 64 KiB of them."""
    if pipe is not None and sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)


def _ask(process: subprocess.Popen[bytes], requests: Sequence[Request]) -> list[Reply | None]:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(requests, process.stdin, pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()
    replies: list[Reply | None] = pickle.load(process.stdout)
    return replies


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING_S)
        for pipe in (process.stdin, process.stdout):  # which a thread may hold that reads, until the process is gone
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def serve() -> None:
    """Runs in the child: answers requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    while True:
        try:
            requests = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        with suppress(BrokenPipeError):
            pickle.dump([_answer(request) for request in requests], replies, pickle.HIGHEST_PROTOCOL)
            replies.flush()


def _answer(request: Request) -> Reply | None:
    source, box, preprocessing = request
    try:
        if isinstance(source, bytes):
            return None, decode_pixels(source, box, preprocessing)
        content = read_file(source, most_bytes=LARGEST_FILE_BYTES)
        return hashlib.sha256(content).hexdigest(), decode_pixels(content, box, preprocessing)
    except Exception:
        return None
