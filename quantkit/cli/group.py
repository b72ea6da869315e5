"""A group of commands whose help is plain text, as that of commands is: Rich takes longer to load than all the rest."""

from __future__ import annotations

import functools
import shutil
import textwrap
from collections import defaultdict
from itertools import zip_longest
from typing import Any

from typer.core import TyperGroup

_NARROWEST, _WIDEST = 60, 100

wrap = functools.partial(textwrap.wrap, break_on_hyphens=False)  # an option stays whole


def width() -> int:
    """Columns of the terminal that the help takes."""
    return max(min(shutil.get_terminal_size().columns, _WIDEST), _NARROWEST)


def beside(name: str, words: list[str], column: int) -> list[str]:
    """A name, and lines that begin at a column beside it."""
    return [f"{first:{column}}{line}" for first, line in zip_longest((f"  {name}",), words, fillvalue="")]


class Group(TyperGroup):
    """Commands under one word."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, commands by panel, options."""
        entries: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            brief = (command.help or "").split("\n\n")[0]
            entries[panel if isinstance(panel, str) else "Commands"].append((name, brief))
        options: Any = self.get_params(ctx)
        entries["Options"] = [(", ".join(sorted(o.opts, key=len)), o.help or "") for o in options]  # click's are a set
        lines = [f"Usage: {ctx.command_path} COMMAND [ARGUMENTS] [OPTIONS]", "", self.help or ""]
        for heading, listed in entries.items():
            lines += ["", f"{heading}:"]
            column = max(len(name) for name, _ in listed) + 4
            for name, words in listed:
                lines += beside(name, wrap(words, width() - column), column)
        lines += ["", f"{ctx.command_path} COMMAND --help shows the options of a command."]
        formatter.write("\n".join(lines) + "\n")
