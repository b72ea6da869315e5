"""The examples at the end of each command's help, and the reference page, which is generated from the same commands."""

import importlib.util
import shlex
from types import SimpleNamespace

import pytest

from quantkit.cli import VERBS, load_command
from quantkit.cli.examples import EXAMPLES
from tests.cli.conftest import REPOSITORY
from tests.documented import commands

COMMANDS = {
    f"{verb} {name}".strip(): command
    for verb in VERBS
    for name, command in getattr(load_command(verb), "commands", {"": load_command(verb)}).items()
}


def test_every_command_has_examples():
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_an_example_is_parsed(name, line):
    command = COMMANDS[name]
    words = shlex.split(line)
    start = 1 + len(name.split())
    assert words[:start] == ["quantkit", *name.split()]
    values = command.make_context(name, words[start:]).params
    for field in getattr(command.callback, "option_fields", ()):
        field.read(values[field.name])


def documented() -> dict[str, str]:
    """The commands in blocks of code of all pages, with the page."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    found = {}
    for page in pages:
        found |= dict.fromkeys(commands(page.read_text("utf-8")), page.name)
    return found


@pytest.mark.parametrize(("line", "page"), documented().items())
def test_a_command_of_the_guides_is_parsed(line, page):
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-") or "--config" in words:  # of the root, or what needs the file
        return
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    assert name is not None, page
    COMMANDS[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_is_a_line_of_its_own_in_the_help(quantkit, name):
    shown = quantkit(*name.split(), "--help-all").out.splitlines()[-1 - len(EXAMPLES[name]) :]
    assert shown == ["Example:" if len(shown) == 2 else "Examples:", *(f"  {line}" for line in EXAMPLES[name])]


def test_the_reference_page_has_options_and_examples():
    spec = importlib.util.spec_from_file_location("reference_pages", REPOSITORY / ".ci" / "reference_pages.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="reference/cli.md"))
    text = hook.on_page_markdown("# Command line", page=page)
    for name, lines in EXAMPLES.items():
        section = text.partition(f"## quantkit {name}\n")[2].partition("\n## ")[0]
        assert all(f"`{line}`" in section for line in lines)
        assert "--log-file" in section
