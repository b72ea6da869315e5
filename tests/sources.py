"""The source of the package, read and parsed once for all tests of its form."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import quantkit

ROOT = Path(quantkit.__file__).parent


@functools.cache
def modules() -> dict[str, str]:
    """Path below the package → source."""
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in sorted(ROOT.rglob("*.py"))}


@functools.cache
def nodes() -> dict[str, tuple[ast.AST, ...]]:
    """Path below the package → every node of its tree, the module first."""
    return {path: tuple(ast.walk(ast.parse(source))) for path, source in modules().items()}
