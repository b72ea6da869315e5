"""MkDocs hook that generates the reference: the options of each command, and the public names of the package."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import quantkit
from quantkit.cli import VERBS, load_command
from quantkit.cli.examples import EXAMPLES


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Appends the generated part to the two pages that have one."""
    if page.file.src_uri == "reference/cli.md":
        return "\n\n".join([markdown, *_sections({name: load_command(name) for name in VERBS}, "quantkit")])
    if page.file.src_uri == "reference/python.md":
        names = [name for name in quantkit.__all__ if not name.startswith("__")]
        return "\n\n".join([markdown, *(f"::: quantkit.{name}" for name in names)])
    return markdown


def _sections(commands: dict[str, Any], path: str) -> Iterator[str]:
    """Of each command: usage, help, options and examples, as `--help` has them."""
    for name, command in commands.items():
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _sections(command.commands, full)
            continue
        context = command.make_context(full, [], resilient_parsing=True)
        usage = " ".join([full, *command.collect_usage_pieces(context)])
        yield f"## {full}\n\n```text\n{usage}\n```\n\n{command.help or ''}"
        panels = defaultdict(list)
        for parameter in command.get_params(context):
            if record := parameter.get_help_record(context):
                panels[getattr(parameter, "rich_help_panel", None) or _kind(parameter)].append(record)
        for title, records in panels.items():
            rows = [f"| {_cell(names, code=True)} | {_cell(words)} |" for names, words in records]
            yield "\n".join([f"| {title} | |", "|---|---|", *rows])
        yield "  \n".join(["**Examples**\n", *(f"`{line}`" for line in EXAMPLES[full.split(" ", 1)[1]])])


def _kind(parameter: Any) -> str:
    return "Arguments" if parameter.param_type_name == "argument" else "Options"


def _cell(text: str, *, code: bool = False) -> str:
    one_line = html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")
    return f"<code>{one_line}</code>" if code else one_line
