"""One line for what no command foresaw: too little memory, and mistakes of our own."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from quantkit.errors import one_line

_PACKAGE = Path(__file__).parents[1]

_WORK = {
    "graph": "reading or editing the model",
    "datasets": "reading samples",
    "backends": "running the model",
    "calibration": "counting values of activations",
    "refinement": "trying ranges and weights on the model",
    "caches": "working on calibration files",
    "evaluation": "measuring",
    "reporting": "making the report",
}
"""What is done by the modules of each package below the commands."""


def explain_memory(error: Exception) -> str:
    """What was being done when memory ran out, how much was asked for, and how much there is."""
    asked = f" ({one_line(str(error))})" if str(error) else ""
    return (
        f"not enough memory while {_work_at(error)}{asked}; {_memory()}: free some, raise the limit (ulimit -v, "
        "ulimit -u), or lower --batch-size, --num-samples or --workers"
    )


def explain_unexpected(error: Exception, *, is_traced: bool) -> str:
    """A mistake of quantkit's, or of a library below: what, where, and how to report it.

    Args:
        error: that nobody caught.
        is_traced: whether the traceback was shown or logged.
    """
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}" + (f": {lines[0][:300]}" if lines else "")
    frames = _own_frames(error)
    place = f" ({frames[-1][0]}:{frames[-1][1]})" if frames else ""
    how = "" if is_traced else ", with the traceback that --verbose shows or --log-file keeps"
    return f"unexpected {one_line(text)}{place} while {_work_at(error)}: please report it to the project's issues{how}"


def _own_frames(error: BaseException) -> list[tuple[str, int]]:
    """Files below the package and lines in them that the error went through, the innermost last."""
    found = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(_PACKAGE):
            found.append((path.relative_to(_PACKAGE).as_posix(), frame.lineno or 0))
    return found


def _work_at(error: BaseException) -> str:
    packages = [path.partition("/")[0] for path, _ in _own_frames(error)]
    return next((_WORK[package] for package in reversed(packages) if package in _WORK), "running the command")


def _memory() -> str:
    """As "the process had 1.2 GiB, of at most 2.0 GiB"."""
    try:
        import resource  # not on Windows
    except ImportError:
        return "the machine has no more"
    unit = 1 if sys.platform == "darwin" else 1024
    had = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    most = "" if limit == resource.RLIM_INFINITY else f", and may have {limit / 2**30:.1f} GiB of addresses"
    return f"the process had {had / 2**30:.1f} GiB{most}"
