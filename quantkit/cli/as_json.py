"""What --json does in every command: one document on standard output, and all words on standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["JSON_HELP", "JsonOption", "echo_json", "echo_written"]

JSON_HELP = "Print one JSON document on standard output; words go to standard error."
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]


def echo_json(data: Any) -> None:
    """Prints JSON, which has no infinity: null stands for it. Paths are texts, dataclasses objects."""
    typer.echo(json.dumps(_plain(data), indent=2))


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


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
