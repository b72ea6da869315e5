"""The command `doctor`: what is installed, and what works with it."""

from __future__ import annotations

import typer

from quantkit.cli.as_json import JsonOption, echo_json
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.doctor import examine


def doctor(as_json: JsonOption = False) -> None:
    """Show what is installed, which commands work here, and what to install for the others.

    Exits with code 1 if a package that every command needs is missing or broken.
    """
    diagnosis = examine()
    if as_json:
        echo_json(diagnosis)
        raise typer.Exit(0 if diagnosis.is_valid else 1)
    console = make_console()
    print_table(
        console,
        ("", "", "version", ""),
        [(part.name, part.status, part.version, part.detail) for part in diagnosis.parts],
    )
    print_line(console, "")
    print_table(
        console,
        ("what you can do", "", ""),
        [(ability.name, "yes" if ability.works else "no", ability.detail) for ability in diagnosis.abilities],
    )
    if fixes := list(dict.fromkeys(part.fix for part in diagnosis.parts if part.fix)):
        print_line(console, "")
        print_line(console, "to enable the rest:", style="bold")
        for fix in fixes:
            typer.echo(f"  {fix}")  # not wrapped: it holds a command
    raise typer.Exit(0 if diagnosis.is_valid else 1)
