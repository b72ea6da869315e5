"""Registries: dicts that the modules of a folder fill when they are imported. A new entry is one new file there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from os import PathLike
from pathlib import Path


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, in alphabetical order: each adds what it defines to the package's registry.

    Args:
        package: its `__name__`.
        path: its `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def nearest_file(path: PathLike[str]) -> str:
    """What to write instead of a path that is not there: ": did you mean ...?", or "" where no name is near.

    >>> nearest_file(Path("no such folder/model.onnx"))
    ''
    """
    wanted = Path(path)
    try:
        names = [found.name for found in wanted.parent.iterdir() if found.name != wanted.name]
    except OSError:
        return ""
    close = difflib.get_close_matches(wanted.name, names, 1, 0.75)
    return f": did you mean {wanted.with_name(close[0])}?" if close else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name.

    >>> suggest("entropie", ["entropy", "minmax"]), suggest("xyz", ["entropy", "minmax"])
    ("did you mean 'entropy'?", 'choose one of entropy, minmax')
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
