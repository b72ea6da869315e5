"""Code that a user wrote: loaded by file and name, called, its errors told by file and line."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantkit.errors import EvaluationError, OptionError, QuantKitError
from quantkit.machine import read_input


def names_code(spec: object) -> bool:
    """Whether a text has the form "file.py:name"."""
    return isinstance(spec, str) and re.fullmatch(r".+\.py:[^/\\:]+", spec) is not None


def source_hash(spec: str) -> str:
    """SHA-256 of the source file that `spec`, "file.py:name", names, hexadecimal.

    Raises:
        OptionError: it cannot be read.
    """
    return file_hash(spec.rpartition(":")[0])


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file of the user's, source or library, hexadecimal.

    Raises:
        OptionError: it cannot be read.
    """
    return hashlib.sha256(read_input(path, OptionError, most_bytes=None)).hexdigest()


def short_name(spec: str) -> str:
    """The form "file.py:name" without the folders of this machine."""
    return Path(spec.rpartition(":")[0]).name + ":" + spec.rpartition(":")[2]


def load_symbol(spec: str, *, error: type[QuantKitError] = EvaluationError) -> Any:
    """What `spec`, "file.py:name", names. The file is run once, however many of its names are asked for.

    Modules next to the file can be imported by it while it is loaded.

    Raises:
        QuantKitError: of type `error`: no such file or name, or an error in the file, by its line.
    """
    file, _, name = spec.rpartition(":")
    if not file or not name or not file.endswith(".py"):
        raise error(f"{spec!r} does not name something in a Python file: write file.py:name")
    module = _load_module(Path(file), error)
    if not hasattr(module, name):
        known = [key for key in vars(module) if not key.startswith("_")]
        close = difflib.get_close_matches(name, known, n=1)
        raise error(f"{file} has no {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return getattr(module, name)


def call(what: str, function: Callable[..., Any], *arguments: Any, error: type[QuantKitError] = EvaluationError) -> Any:
    """Calls the user's code; what it raises becomes one line, with the original as its cause.

    So does `sys.exit`: its code would be taken for quantkit's own.

    Raises:
        QuantKitError: of type `error`: the user's code failed, by file and line.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as failure:
        raise error(_explain(failure, what)) from failure


def _load_module(path: Path, error: type[QuantKitError]) -> types.ModuleType:
    source, status = read_input(path, error), path.stat()
    # A file that was edited is another module: a long-lived session sees the edit. dataclasses look modules up by name.
    identity = hashlib.sha256(f"{path.resolve()}\n{status.st_mtime_ns}\n".encode() + source).hexdigest()
    name = f"quantkit_custom_{identity[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(path)
    folder = str(path.resolve().parent)
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as failure:
        del sys.modules[name]
        raise error(_explain(failure, f"loading {path}")) from failure
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return module


def _explain(error: BaseException, what: str) -> str:
    lines = str(error).splitlines()
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place = _locate(error)
    text = f"{what} raised {type(error).__name__}" + (f": {lines[0]}" if lines else "")
    return f"{place}: {text}" if place else text


def _locate(error: BaseException) -> str:
    """File and line in the user's file where it happened, "" if it was not reached (a wrong number of arguments)."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    if not frames:
        return ""
    # What the user wrote is in the file that was called first; deeper files are libraries.
    last = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f"{last.filename}:{last.lineno}"
