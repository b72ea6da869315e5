"""Processes that decode for threads: beyond a few threads Python's lock costs more than a second process.

A thread names its files through a pipe and waits without the lock until their pixels are in shared memory, or come
through the pipe. A child process ends with its pipe, however its parent ends. What it cannot do is done again in the
thread, which tells why.
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
from itertools import cycle
from pathlib import Path
from typing import IO

from quantkit.datasets.fingerprint import LARGEST_FILE_BYTES, count_cpus
from quantkit.datasets.image_decoding import Box, Pixels, decode_pixels
from quantkit.datasets.shared_pixels import Levels, PixelPlace, map_levels, share_pixels
from quantkit.machine import read_file
from quantkit.types import Dataset, Preprocessing

if sys.platform == "linux":
    import fcntl

TOGETHER = 8
"""Samples that a process is sent at once."""

ASKING = 2
"""Threads for each process: it goes on with what one asked for while another uses what it got."""

_MOST_THREADS = 4
"""That decode well side by side in one process: more of them wait for Python's lock."""

_WORTH_PROCESSES = 1000
"""Samples: each process takes some 0.4 CPU seconds to start."""

_CHUNKS_AHEAD = 4
"""For each process: images differ, and what is ready waits for the one in front of it."""

_MOST_AHEAD_BYTES = 1 << 30
"""Most bytes of pixels that are decoded ahead."""

_F_SETPIPE_SZ = 1031
"""From Linux' fcntl.h; the module `fcntl` of Python 3.10 does not always have it."""

_PIPE_BYTES = 1 << 20
"""Linux' limit for users without privileges."""

_THREAD = threading.local()
_ENDING_S = 1.0
"""That a process may take to end, once killed: on a disk that hangs the system does not end it."""

_START = "import sys; sys.path[:] = {path!r}; from quantkit.datasets.decoder_processes import serve; serve({file})"
"""With the path of this process, and nothing of the folder that it runs in, nor of a script that would run again."""

Request = tuple["Path | bytes", "Box | None", Preprocessing]
"""An image file, or its content; the rest is as in `decode_pixels`."""

Reply = tuple["str | None", Pixels]
"""SHA-256, hexadecimal, of the content where it was read from a file, and what was decoded."""

_Asked = tuple[Request, "tuple[int, int] | None"]
"""What a child is sent: a request, and the part of the shared memory for its pixels."""

_Answer = tuple["str | None", "Levels | tuple[int, ...]", tuple[int, int]]
"""What it sends back: of pixels in the shared memory, their shape."""


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
    """Processes for the threads that join, from their first images until all are ended.

    Args:
        count: of processes.
        num_places: images for which there shall be shared memory; others come through the pipe.
        size_bytes: of the pixels of one.

    Attributes:
        has_ended: nobody wants images any more.
    """

    def __init__(self, count: int = 0, num_places: int = 0, size_bytes: int = 0) -> None:
        self.has_ended = False
        self._shared = share_pixels(num_places, size_bytes) if count else None
        self._children = [_Child(None if self._shared is None else self._shared.file) for _ in range(count)]
        self._next = cycle(self._children)

    def end(self) -> None:
        """Ends them all, also in the middle of an image. Called once more when no thread can start another one."""
        self.has_ended = True
        started = [child.process for child in self._children if child.process is not None]
        for process in started:
            process.kill()
        for process in started:
            _end(process)

    def join(self) -> None:
        """Has this thread's images decoded by a process, which it may share. Called in the thread."""
        _THREAD.joined = self, next(self._next)

    def decode(self, requests: Sequence[Request], child: _Child) -> list[Reply | None]:
        """What came of each; None where that was an error. Raises nearly anything where there is no process."""
        places = [None if self._shared is None else self._shared.take() for _ in requests]
        asked = [(r, None if p is None else p.span) for r, p in zip(requests, places, strict=True)]
        answers = zip(child.ask(asked), places, strict=True)
        return [None if answer is None else _reply(answer, place) for answer, place in answers]


class _Child:
    """A process that threads ask in turn: while it answers one, what the next one wants waits in its pipe."""

    def __init__(self, shared_file: int | None) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._shared_file = shared_file
        self._sending = threading.Lock()
        self._last = threading.Event()  # once set, who asked last has got the answer
        self._last.set()

    def ask(self, requests: Sequence[_Asked]) -> list[_Answer | None]:
        """What came of each. The first one starts the process."""
        answered = threading.Event()
        with self._sending:
            if self.process is None:
                self.process = _start(self._shared_file)
            process, before, self._last = self.process, self._last, answered
            try:
                _send(process, requests)
            except BaseException:
                _end(process)
                answered.set()
                raise
        try:
            before.wait()
            return _receive(process)
        except BaseException:
            _end(process)  # what is left in its pipe is no answer to what comes next
            raise
        finally:
            answered.set()


def decode_ahead(requests: Sequence[Request]) -> list[Reply | None]:
    """Decodes several images in the process of this thread, where it has joined `DecoderProcesses`.

    A thread whose process fails goes on without one.

    Returns:
        What came of each, None where that was an error; nothing where there is no process.
    """
    joined: tuple[DecoderProcesses, _Child] | None = getattr(_THREAD, "joined", None)
    if joined is None or not requests:
        return []
    processes, child = joined
    try:
        return processes.decode(requests, child)
    except Exception:
        _THREAD.joined = None
        return []


def _reply(answer: _Answer, place: PixelPlace | None) -> Reply:
    content_hash, levels, size = answer
    if isinstance(levels, tuple):
        assert place is not None
        levels = place.read(levels)
    return content_hash, Pixels(levels, size)


def _start(shared_file: int | None = None) -> subprocess.Popen[bytes]:
    if getattr(sys, "frozen", False):
        raise OSError("a frozen application is no interpreter: started again, it would run itself")
    path = [folder for folder in sys.path if isinstance(folder, str)]  # as Python does, which skips others
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(path=path, file=shared_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the thread tells what is wrong, and it alone knows whether anybody waits for it
        pass_fds=[] if shared_file is None else [shared_file],
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


def _send(process: subprocess.Popen[bytes], requests: Sequence[_Asked]) -> None:
    assert process.stdin is not None
    pickle.dump(requests, process.stdin, pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes]) -> list[_Answer | None]:
    assert process.stdout is not None
    answers: list[_Answer | None] = pickle.load(process.stdout)
    return answers


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING_S)
        for pipe in (process.stdin, process.stdout):  # which a thread may hold that reads, until the process is gone
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def serve(shared_file: int | None) -> None:
    """Runs in the child: answers requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    shared = None if shared_file is None else map_levels(shared_file, writable=True)
    while True:
        try:
            requests: Sequence[_Asked] = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        with suppress(BrokenPipeError):
            pickle.dump([_answer(*request, shared) for request in requests], answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


def _answer(request: Request, span: tuple[int, int] | None, shared: Levels | None) -> _Answer | None:
    source, box, preprocessing = request
    try:
        content = source if isinstance(source, bytes) else read_file(source, most_bytes=LARGEST_FILE_BYTES)
        content_hash = None if isinstance(source, bytes) else hashlib.sha256(content).hexdigest()
        levels, size = decode_pixels(content, box, preprocessing)
    except Exception:
        return None
    if shared is None or span is None or levels.size > span[1] - span[0]:
        return content_hash, levels, size
    shared[span[0] : span[0] + levels.size] = levels.ravel()
    return content_hash, levels.shape, size
