"""What --json does in every command: one document on standard output, and all words on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer

JSON_HELP = "Print one JSON document on standard output; messages go to standard error."
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]

_output: ContextVar[TextIO | None] = ContextVar("_output", default=None)
"""Where the document goes; None is standard output."""


def echo_json(data: Any) -> None:
    """Prints JSON, which has no infinity: null stands for it. Paths are texts, dataclasses objects."""
    finite = msgspec.json.decode(msgspec.json.encode(data, enc_hook=_as_builtin))
    echo_document(json.dumps(finite, indent=2) + "\n")


def members(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as `echo_json` prints them."""
    found: dict[str, Any] = msgspec.to_builtins(value, enc_hook=_as_builtin, str_keys=True)
    return found


def echo_document(text: str) -> None:
    """Prints a document that is JSON already, and ends with its line."""
    typer.echo(text, file=_output.get(), nl=False)


@contextlib.contextmanager
def document_alone() -> Iterator[None]:
    """Keeps standard output to the document: what user code and libraries print goes to standard error."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        output: TextIO = sys.stdout
        if _is_descriptor(output, 1) and _is_descriptor(sys.stderr, 2):
            output = stack.enter_context(open(os.dup(1), "w", encoding=output.encoding, errors="replace"))
            stack.callback(os.dup2, output.fileno(), 1)
            stack.callback(sys.stdout.flush)
            os.dup2(2, 1)
        stack.callback(_output.reset, _output.set(output))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _is_descriptor(stream: TextIO, number: int) -> bool:
    """Whether it is that file of the process; a stand-in, such as a notebook's, is none."""
    try:
        return stream.fileno() == number
    except OSError:
        return False


def echo_written(files: Iterable[str | Path], *, as_json: bool, **document: Any) -> None:
    """A line for each file that was written, or a document that lists them.

    Args:
        files: that were written.
        as_json: whether --json was given.
        document: what it holds beside "files".
    """
    if as_json:
        echo_json({**document, "files": list(files)})
    for path in files:
        typer.echo(f"wrote {path}", err=as_json)


def _as_builtin(value: Any) -> Any:
    """What msgspec does not know: read-only mappings, NumPy's numbers, paths."""
    if isinstance(value, Mapping):
        return dict(value)
    return float(value) if isinstance(value, float) else str(value)
