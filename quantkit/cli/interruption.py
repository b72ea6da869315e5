"""Ctrl-C as a request: a long measurement ends after what it is at, and what it has found is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from quantkit.interrupts import taking_wishes

_MESSAGE = (
    b"\nInterrupted: finishing the current batch. A partial report is written if any was judged. "
    b"Press Ctrl-C again to abort.\n"
)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Takes the first Ctrl-C as a wish to stop; the second raises `KeyboardInterrupt` as always.

    Only Python's main thread gets signals: elsewhere, or where SIGINT has a handler of its own, nothing changes.

    Yields:
        A function that tells whether to stop.
    """
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not _PYTHONS:
        yield asked.is_set
        return

    def ask(_: int, __: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        os.write(2, _MESSAGE)  # print could be in the middle of printing

    signal.signal(signal.SIGINT, ask)
    try:
        with taking_wishes() as fulfil:

            def should_stop() -> bool:
                if asked.is_set():
                    fulfil()
                return asked.is_set()

            yield should_stop
    finally:
        signal.signal(signal.SIGINT, before)


_PYTHONS = signal.default_int_handler
