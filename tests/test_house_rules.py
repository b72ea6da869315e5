"""Rules of form that the package keeps, measured on its source: sizes of functions and modules, and unique names.

Each list of exceptions may only get shorter: remove an entry together with what it excuses.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.sources import ROOT, modules, nodes

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

LINES_OF_FUNCTION = 80
LINES_OF_MODULE = range(20, 401)
LINES_OF_COMMAND = 200
PARAMETERS = 8

LINES_OF_PACKAGE = 58_970
"""The aim is 28,500. Lower this whenever the package gets smaller."""

SHORT_OR_LONG_MODULES = {
    *("__main__.py", "_version.py", "types/options.py"),
}

REGISTRIES = "calibration/methods/", "datasets/presets/"
"""Folders whose modules are entries, which may be short."""

REPEATED_FILE_NAMES = {
    *("bench", "build", "calibrate", "changes", "collect", "convert", "data", "doctor", "evaluate", "export", "init"),
    *("inspect", "inspection", "open", "registry", "selftest", "sensitivity", "tune", "variants"),
}

REPEATED_NAMES = {"evaluate"}


CALLED_BY_OTHERS = {
    *("phase_start", "step_complete", "phase_finish", "get_batch_size", "get_batch", "report_layer_time"),
    *("read_calibration_cache", "write_calibration_cache", "reallocate_output_async", "notify_shape"),
    *("_repr_html_", "to_pandas"),
    "serve",
    *("modified_ns", "inode", "block_size"),
}
"""What TensorRT, notebooks, users or child processes call, and fields that only count where all are compared."""

BESIDE_THE_MIRROR = {"acceptance", "faults", "fuzz"}
"""Folders of tests of whole commands; every other one has the name of the package that it tests."""

NAMES_WITH_A_FORMAT = {"is_int8"}
"""A key of the report's JSON."""


def public_names(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def count_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    every = function.args
    named = [a.arg for a in (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg) if a]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def test_functions_fit_a_screen():
    found = {
        f"{path}: {node.name}"
        for path, found in nodes().items()
        for node in found
        if isinstance(node, FUNCTIONS) and (node.end_lineno or 0) - node.lineno + 1 > LINES_OF_FUNCTION
    }
    assert found == set(), f"over {LINES_OF_FUNCTION} lines"


def test_functions_have_few_parameters():
    """What belongs together is a dataclass; `self` and `cls` do not count."""
    found = {
        f"{path}: {node.name}": count
        for path, found in nodes().items()
        for node in found
        if isinstance(node, FUNCTIONS) and (count := count_parameters(node)) > PARAMETERS
    }
    assert found == {}, f"over {PARAMETERS} parameters"


@pytest.mark.parametrize(
    ("source", "count"),
    [("def f(a, b, /, c, *d, e, **g): ...", 6), ("def f(self, a): ...", 1), ("async def f(cls, *, a): ...", 1)],
)
def test_parameters_of_every_kind_count(source, count):
    assert count_parameters(ast.parse(source).body[0]) == count


def test_modules_are_neither_fragments_nor_drawers():
    sizes = {path: len(source.splitlines()) for path, source in modules().items() if not path.endswith("__init__.py")}
    found = {path for path, size in sizes.items() if size not in LINES_OF_MODULE}
    found -= {path for path in found if path.startswith(REGISTRIES) and sizes[path] < LINES_OF_MODULE.start}
    assert found <= SHORT_OR_LONG_MODULES, {path: sizes[path] for path in found}


def test_commands_only_orchestrate():
    lines = {path: source.count("\n") for path, source in modules().items() if path.startswith("commands/")}
    assert {path: count for path, count in lines.items() if count > LINES_OF_COMMAND} == {}
    assert lines


def test_a_file_name_says_which_file_is_meant():
    counts: defaultdict[str, list[str]] = defaultdict(list)
    for path in modules():
        counts[Path(path).stem].append(path)
    found = {stem: paths for stem, paths in counts.items() if len(paths) > 1 and stem != "__init__"}
    assert found.keys() <= REPEATED_FILE_NAMES, found


def test_a_public_name_has_one_meaning():
    # A command has the name of the function that it calls, so that cli/ defines nothing of its own here.
    counts: defaultdict[str, list[str]] = defaultdict(list)
    for path, (module, *_) in nodes().items():
        if not path.startswith("cli/"):
            for name in set(public_names(module)):
                counts[name].append(path)
    found = {name: paths for name, paths in counts.items() if len(paths) > 1}
    assert found.keys() <= REPEATED_NAMES, found


def test_public_names_are_listed_in_packages_alone():
    """Elsewhere a name without an underscore says the same; what a module imports is imported from its own module."""
    found = {path for path, source in modules().items() if "\n__all__ = " in source}
    assert {path for path in found if not path.endswith("__init__.py")} == set()


def test_the_package_does_not_grow():
    total = sum(len(source.splitlines()) for source in modules().values())
    print(f"{total:,} lines of {LINES_OF_PACKAGE:,}")
    more = f"{total - LINES_OF_PACKAGE} lines more: shorten something, or raise LINES_OF_PACKAGE and say why"
    assert total <= LINES_OF_PACKAGE, more


def test_nothing_is_defined_for_tests_alone():
    """Also not for nobody: each name is read somewhere in the package, in code, a template or a name in a string."""
    used: Counter[str] = Counter(re.findall(r"\w+", "".join(p.read_text() for p in ROOT.rglob("*.jinja"))))
    defined: dict[str, str] = {}
    for path, inside in nodes().items():
        for node in inside:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not path.startswith("cli/"):
                defined[node.name] = path
            elif isinstance(node, (ast.AnnAssign, ast.Assign)):
                targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                defined |= {target.id: path for target in targets if isinstance(target, ast.Name)}
                used.subtract(target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, ast.Name):
                used[node.id] += 1
            elif isinstance(node, ast.Attribute):
                used[node.attr] += 1
            elif isinstance(node, ast.keyword) and node.arg:
                used[node.arg] += 1
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.:]+", node.value)
            ):
                used.update(re.split("[.:]", node.value))
    unused = {n: path for n, path in defined.items() if used[n] <= 0 and not n.startswith("__")}
    assert unused.keys() <= CALLED_BY_OTHERS, unused


def test_a_format_is_no_part_of_a_name():
    found = {Path(path).stem for path in modules()}
    for inside in nodes().values():
        for node in inside:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {
                    f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)
                }
    assert {name for name in found if "int8" in name.lower()} == NAMES_WITH_A_FORMAT


def test_every_folder_of_tests_is_collected(pytestconfig: pytest.Config):
    """A folder named build/ or dist/ is left out by pytest's own default."""
    left_out = pytestconfig.getini("norecursedirs")
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert {str(f) for f in folders if any(fnmatch(part, p) for part in f.parts for p in left_out)} == set()


def test_tests_mirror_the_package():
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}
    assert folders - {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")} == BESIDE_THE_MIRROR
