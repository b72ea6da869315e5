"""What a command line imports before it is known which command is wanted, and for the help of one."""

import subprocess
import sys

import pytest

from quantkit.cli import VERBS, load_command

HEAVY = {
    "numpy",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "onnxscript",
    "PIL",
    "jinja2",
    "tqdm",
    "msgspec",
    "rich",
    "quantkit.types",
}
RUNTIMES = {"onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "pycocotools", "onnxscript"}


def loaded_by(*arguments: str) -> tuple[set[str], str]:
    """Modules that a fresh interpreter has loaded after a command line, and what it printed."""
    code = (
        "import sys\n"
        "from quantkit.cli import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, _, modules = result.stdout.rpartition("LOADED")
    return set(modules.split()), printed


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_import_loads_no_heavy_module(arguments):
    modules, printed = loaded_by(*arguments)
    assert "quantkit.cli" in modules
    assert modules & HEAVY == set()
    if arguments != ["--version"]:
        assert all(f" {verb} " in printed for verb in VERBS)


@pytest.mark.parametrize(
    ("verb", "option"), [("build", "--opt-shapes"), ("evaluate", "--latency-s"), ("data", "check")]
)
def test_help_of_a_command_needs_no_runtime(verb, option):
    modules, printed = loaded_by(verb, "--help")
    assert modules & RUNTIMES == set()
    assert option in printed


@pytest.mark.parametrize("verb", VERBS)
def test_command_list_equals_command_help(verb):
    assert load_command(verb).help.split("\n\n")[0].replace("\n", " ") == VERBS[verb].help


def test_mistyped_command_has_a_suggestion(quantkit):
    assert "Did you mean 'calibrate'?" in quantkit("calibrat").err
