"""Build progress as a fraction from 0 to 1. TensorRT's phases are nested: a step contains the phases below it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from quantkit.backends.tensorrt.library import Library

OnProgress = Callable[[float, str], None]
"""Called with the completed fraction and the name of the phase."""


class Phases:
    """The active phases and the completed fraction, which never decreases."""

    def __init__(self) -> None:
        self._open: dict[str, list[int]] = {}  # name → [steps done, steps], outermost first
        self._share = 0.0

    def start(self, name: str, num_steps: int) -> None:
        """A phase began."""
        self._open[name] = [0, max(num_steps, 1)]

    def step(self, name: str, index: int) -> None:
        """Step `index` (from 0) of a phase is complete."""
        if name in self._open:
            self._open[name][0] = min(index + 1, self._open[name][1])

    def finish(self, name: str) -> None:
        """A phase ended."""
        self._open.pop(name, None)

    @property
    def share(self) -> float:
        """Completed fraction, 0 to 1."""
        share = 0.0
        for done, steps in reversed(self._open.values()):
            share = min((done + share) / steps, 1.0)
        self._share = max(self._share, share)
        return self._share


def make_monitor(library: Library, report: OnProgress | None) -> Any:
    """A `trt.IProgressMonitor` that reports progress and cancels the build on Ctrl-C.

    An exception, KeyboardInterrupt included, must not leave a callback: it is kept in `error` and cancels the build.

    Returns:
        The monitor; None where TensorRT has no such interface (before 10).
    """
    trt = library.module
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Called from TensorRT's threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._phases = Phases()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._note(lambda: self._phases.start(phase_name, num_steps), phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._note(lambda: self._phases.step(phase_name, step), phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self._note(lambda: self._phases.finish(phase_name), phase_name)

        def _note(self, change: Callable[[], None], phase_name: str) -> bool:
            try:
                with self._lock:
                    change()
                    share = self._phases.share
                if report is not None:
                    report(share, phase_name)
            except BaseException as error:
                self.error = error
            return self.error is None

    return Monitor()
