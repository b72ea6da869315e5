"""Runs the examples in the docstrings of quantkit.

`pytest --doctest-modules quantkit` would import every module at collection, also in runs of a single test file; here a
module is imported only by its own test.
"""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import quantkit

ROOT = Path(quantkit.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples():
    assert len(MODULES) > 10


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted
    assert not failed
