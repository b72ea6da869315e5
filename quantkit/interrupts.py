"""Signals that end a run: native code is asked to stop, and what must not stay is removed.

Python handles a signal between two of its instructions: while a kernel of ONNX Runtime, a decoder or a build of
TensorRT runs, nothing happens. Here a thread hears of a signal at once. It asks what runs to stop, and ends the process
itself where that takes too long.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

GRACE_S = 1.5
"""From a signal to the end of the process, at the latest."""

_ASKED_S = 0.5
"""Within which a command that takes Ctrl-C as a wish has to be about to fulfil it, or is interrupted."""

_FULFILLING_S = 1.9
"""From the signal to the end where what was found by then is being written: a report that takes longer is given up."""

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_DONE = b"\0"
"""Tells the thread that the run is over; no signal has this number."""


class EndedError(BaseException):
    """A signal other than Ctrl-C ends the run. It is no `Exception`, since nobody goes on after it.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stoppable(Protocol):
    """What computes in native code."""

    def stop(self) -> None:
        """Makes what is being computed fail soon. Called by another thread."""


class _Run:
    """The command that runs: what it uses, and what was said to it."""

    def __init__(self) -> None:
        self.stoppable: WeakSet[Stoppable] = WeakSet()
        self.leftovers: dict[object, Path] = {}
        self.advice = ""
        self.signal: int | None = None
        self.takes_wishes = self.is_fulfilling = self.was_interrupted = False
        self.leaves_threads = False


_RUN = _Run()


def stops_on_signal(computation: Stoppable) -> None:
    """Has `computation` stopped when a signal ends the run, as long as it lives."""
    _RUN.stoppable.add(computation)


def raise_if_stopped() -> None:
    """Raises what the signal means where a computation failed because it was stopped."""
    if _RUN.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if _RUN.signal is not None:
        raise EndedError(_RUN.signal)


def is_ending() -> bool:
    """Whether a signal is about to end the process, which in a program of somebody else it is not."""
    return _RUN.signal is not None


def leave_threads() -> None:
    """Says that a thread hangs, for which the interpreter would wait at its end."""
    _RUN.leaves_threads = True


def leaves_threads() -> bool:
    """Whether the process has to be ended without waiting for its threads."""
    return _RUN.leaves_threads


@contextlib.contextmanager
def removed_with_process(path: Path) -> Iterator[None]:
    """Has a file or folder removed if the process has to be ended meanwhile."""
    key = object()
    _RUN.leftovers[key] = path
    try:
        yield
    finally:
        del _RUN.leftovers[key]


@contextlib.contextmanager
def advising() -> Iterator[Callable[[str], None]]:
    """Yields a function to say how the run can be continued, should it be ended meanwhile."""
    try:
        yield lambda text: setattr(_RUN, "advice", text)
    except (KeyboardInterrupt, EndedError):
        raise  # whoever tells of the interruption reads it
    except BaseException:
        _RUN.advice = ""
        raise
    _RUN.advice = ""


def take_advice() -> str:
    """What was said last, once."""
    text, _RUN.advice = _RUN.advice, ""
    return text


@contextlib.contextmanager
def taking_wishes() -> Iterator[Callable[[], None]]:
    """For a command that ends by itself after the first Ctrl-C, and keeps what it has found.

    Yields:
        A function that it calls when it is about to.
    """
    _RUN.takes_wishes = True
    try:
        yield lambda: setattr(_RUN, "is_fulfilling", True)
    finally:
        _RUN.takes_wishes = False


def fulfils_wish() -> bool:
    """Whether a `KeyboardInterrupt` is the wish to stop that could not be asked for: what was found is to be kept."""
    return _RUN.was_interrupted


@contextlib.contextmanager
def ending_on_signals(describe: Callable[[int], str]) -> Iterator[None]:
    """Makes SIGINT, SIGTERM and SIGHUP end what runs inside soon, and a second one at once.

    Signals that are ignored, or have a handler of somebody's, stay so. Only Python's main thread gets signals:
    elsewhere, and on Windows, nothing changes.

    Args:
        describe: the line to print where the process has to be ended, by the signal's number.

    Raises:
        KeyboardInterrupt: SIGINT.
        EndedError: another one.
    """
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return
    ours = {n: signal.getsignal(n) for n in _SIGNALS}
    ours = {n: h for n, h in ours.items() if h in (signal.SIG_DFL, signal.default_int_handler)}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _RUN.signal, _RUN.advice = None, ""
    _RUN.is_fulfilling = _RUN.was_interrupted = _RUN.leaves_threads = False
    watcher = threading.Thread(
        target=_watch, args=(reading, frozenset(ours), describe), name="quantkit-signals", daemon=True
    )
    watcher.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in ours:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _end)
    try:
        yield
    except Exception:
        raise_if_stopped()  # whatever was running turned the signal into an error of its own
        raise
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in ours.items():
            signal.signal(number, handler)
        os.write(writing, _DONE)
        watcher.join()
        for end in (reading, writing):
            os.close(end)
        if is_ending():
            leave_threads()  # one can hang, also one that a pool was about to note when the signal came
        _RUN.signal = None


def _end(number: int, _: object) -> None:
    raise EndedError(number)


def _watch(reading: int, ours: frozenset[int], describe: Callable[[int], str]) -> None:
    """Hears signals until the run is over."""
    phase, deadline, begun = "running", None, 0.0
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        heard = os.read(reading, 1) if select.select([reading], [], [], left)[0] else b""
        if heard == _DONE:
            return
        now = time.monotonic()
        if heard and heard[0] not in ours:
            continue
        if heard and phase == "running":
            _RUN.signal, begun = heard[0], now
            is_wish = _RUN.takes_wishes and heard[0] == signal.SIGINT
            phase, deadline = ("asked", now + _ASKED_S) if is_wish else ("ending", now + GRACE_S)
            if not is_wish:
                _stop_all()
        elif heard and phase == "interrupting":
            phase = "ending"  # this one is of our own, from below
        elif not heard and phase in ("asked", "ending") and _RUN.is_fulfilling:
            phase, deadline = "fulfilling", begun + _FULFILLING_S
        elif not heard and phase == "asked":
            # It does not get to asking whether to stop: it is interrupted where it is.
            phase, deadline = "interrupting", now + GRACE_S - _ASKED_S
            _RUN.was_interrupted = True
            _stop_all()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _abort(heard[0] if heard else _RUN.signal or signal.SIGINT, describe)


def _stop_all() -> None:
    for computation in list(_RUN.stoppable):
        with contextlib.suppress(Exception):
            computation.stop()


def _abort(number: int, describe: Callable[[int], str]) -> None:
    """Ends the process here and now."""
    for path in list(_RUN.leftovers.values()):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    with contextlib.suppress(OSError):
        os.write(2, f"\nquantkit: error: {describe(number)}\n".encode("utf-8", "replace"))
    os._exit(128 + number)
