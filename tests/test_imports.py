"""Imports stand at the top of a module, but for a few with a reason."""

import ast
import subprocess
import sys
from collections.abc import Sequence

from tests.sources import modules, nodes

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST = 20


def imports_in_functions(inside: Sequence[ast.AST]) -> list[int]:
    """Lines of the imports that stand inside functions."""
    ranges = [range(f.lineno, (f.end_lineno or 0) + 1) for f in inside if isinstance(f, FUNCTIONS)]
    lines = [node.lineno for node in inside if isinstance(node, (ast.Import, ast.ImportFrom))]
    return sorted(line for line in lines if any(line in body for body in ranges))


def test_few_imports_stand_inside_functions_each_with_a_reason():
    found = []
    for path, source in modules().items():
        lines = source.splitlines()
        for number in imports_in_functions(nodes()[path]):
            found.append(f"{path}:{number}")
            assert "#" in lines[number - 1] or lines[number - 2].lstrip().startswith("#"), f"no reason at {found[-1]}"
    assert 0 < len(found) < MOST, found


def test_types_are_imported_without_numpy():
    code = "import sys, quantkit.types; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_slow_and_seldom_needed_is_loaded_when_it_is():
    code = (
        "import sys, quantkit.cli.calibrate, onnx_ir\n"
        "slow = {'sympy.core', 'onnx.reference', 'asyncio', 'yaml', 'jinja2', 'tkinter', 'quantkit.commands.tune'}\n"
        "print(slow & set(sys.modules))\n"
        "print(onnx_ir.SymbolicDim('n') + 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "n + 1"]
