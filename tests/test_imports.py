"""Imports stand at the top of a module, but for a few with a reason."""

import ast
import subprocess
import sys
from pathlib import Path

import quantkit

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST = 20


def imports_in_functions(path: Path) -> list[int]:
    """Lines of the imports that stand inside functions."""
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, FUNCTIONS)]
    return sorted(
        {node.lineno for f in functions for node in ast.walk(f) if isinstance(node, (ast.Import, ast.ImportFrom))}
    )


def test_few_imports_stand_inside_functions_each_with_a_reason():
    found = []
    for path in Path(quantkit.__file__).parent.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number in imports_in_functions(path):
            found.append(f"{path}:{number}")
            assert "#" in lines[number - 1] or lines[number - 2].lstrip().startswith("#"), f"no reason at {found[-1]}"
    assert 0 < len(found) < MOST, found


def test_types_are_imported_without_numpy():
    code = "import sys, quantkit.types; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
