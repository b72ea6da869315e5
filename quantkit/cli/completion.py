"""Shell completion, printed or installed for the shell that is named, else for the one that the command runs in."""

from __future__ import annotations

import shellingham  # type: ignore[import-untyped]
import typer
from typer.completion import Shells, get_completion_script, install  # type: ignore[attr-defined]

from quantkit.errors import OptionError

_DECLARED = "compdef _quantkit_completion quantkit"
_CALLED = f'if [[ $funcstack[1] == _quantkit ]]; then _quantkit_completion "$@"; else {_DECLARED}; fi'
"""Zsh loads the installed file at the first Tab of a session, which typer's script then leaves without an offer."""


def answer(option: str, shell: str | None = None) -> None:
    """Prints the script of --show-completion, or installs it."""
    try:
        shell = (shell or shellingham.detect_shell()[0]).lower()
    except shellingham.ShellDetectionFailure:
        shell = "none"
    if shell not in list(Shells):
        raise OptionError(f"{option}: name the shell: {', '.join(Shells)}")
    script = get_completion_script(prog_name="quantkit", complete_var="_QUANTKIT_COMPLETE", shell=shell)
    script = script.replace(_DECLARED, _CALLED)
    if option == "--show-completion":
        typer.echo(script)
        return
    _, path = install(shell=shell, prog_name="quantkit")
    if shell == Shells.zsh:
        path.write_text(f"{script}\n", encoding="utf-8")
    typer.echo(f"wrote {path}: quantkit is completed in new sessions of {shell}")
