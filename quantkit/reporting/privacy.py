"""What a report that is handed on should not hold: where files lie on this machine, and pictures of the samples."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.types import PathLike, Report


def without_paths(report: Report, paths: Iterable[PathLike]) -> Report:
    """The report with relative paths: from the working folder where a file lies in it, else the file's name alone.

    Names of tensors and operators, which may look like paths, stay as they are: only folders that are known go.

    Args:
        report: of an evaluation.
        paths: files and folders that it was made of.
    """
    words = [word.rpartition("=")[2] for line in report.commands for word in shlex.split(line)]
    given = [Path(path) for path in (*paths, *words) if os.path.isabs(path)]
    here = Path.cwd()
    elsewhere = {path.parent for path in given if not path.is_relative_to(here)}
    elsewhere |= {Path.home(), Path(tempfile.gettempdir())}
    folders = [here, *sorted((folder for folder in elsewhere if folder.name), key=lambda f: -len(str(f)))]

    def shorten(text: str) -> str:
        for folder in folders:
            text = text.replace(f"{folder}{os.sep}", "")
        return text

    shortened: Report = _map_text(report, shorten)
    return shortened


def without_thumbnails(report: Report) -> Report:
    """The report without pictures of its samples."""
    return replace(report, changes=tuple(replace(change, thumbnail="") for change in report.changes))


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it changed, but not the keys of mappings."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_text(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_map_text(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: _map_text(getattr(value, name), change) for name in names})
    return value
