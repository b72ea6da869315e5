"""Collects TensorRT's log messages, which alone contain the reason of a failed build."""

from __future__ import annotations

import threading
from typing import Any

from quantkit.backends.tensorrt.library import Library
from quantkit.notices import Notice, NoticeKind, Notify

# Without a GPU, TensorRT-RTX follows every usage error by this, which has nothing to do with it.
_MISLEADING = ("cudaError 35", "CUDA driver version is insufficient")


def make_logger(library: Library, *, notify: Notify | None = None, verbose: bool = False) -> Any:
    """A `trt.ILogger` that collects messages.

    Args:
        library: whose interface is implemented.
        notify: called with each warning and error, and with everything if `verbose`, as it comes.
        verbose: include TensorRT's verbose messages.

    Returns:
        The logger, with `messages: list[tuple[str, str]]` (severity name, text), `errors() -> list[str]`, and
        `check()`, to be called after a build: it raises what was raised in `log` (Ctrl-C, say), which the bindings
        swallow.
    """
    trt = library.module

    class CollectingLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Called from TensorRT's threads; an exception must not leave `log`."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []
            self.error: BaseException | None = None
            self._lock = threading.Lock()

        def log(self, severity: Any, message: str) -> None:
            try:
                self._keep(severity, message)
            except BaseException as error:
                self.error = self.error or error

        def check(self) -> None:
            """Raises the first exception that `log` had to hold back."""
            if self.error is not None:
                error, self.error = self.error, None
                raise error

        def _keep(self, severity: Any, message: str) -> None:
            name = str(getattr(severity, "name", severity))
            if name == "VERBOSE" and not verbose:
                return
            with self._lock:
                self.messages.append((name, message))
            is_serious = name in ("INTERNAL_ERROR", "ERROR", "WARNING")
            if notify is not None and (verbose or is_serious):
                kind: NoticeKind = "warning" if is_serious else "info"
                notify(Notice(kind, "tensorrt", f"TensorRT {name.lower()}: {message}"))

        def errors(self) -> list[str]:
            """Error messages, one line each, without known misleading ones."""
            with self._lock:
                texts = [text for name, text in self.messages if name in ("INTERNAL_ERROR", "ERROR")]
            plain = [" ".join(text.split()) for text in texts if not any(word in text for word in _MISLEADING)]
            return list(dict.fromkeys(plain))

    return CollectingLogger()
