"""The options of commands that can say beforehand what they would do, and how that is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit.cli.as_json import JSON_HELP, echo_json
from quantkit.cli.text import bytes_text, make_console, print_line, print_table
from quantkit.types.option import option
from quantkit.types.options import MessageOptions

if TYPE_CHECKING:
    from quantkit.pass_cost import Forecast


@dataclass(frozen=True, kw_only=True)
class RunOptions(MessageOptions):
    """Those of messages, and whether a command that takes long only says what it would do."""

    as_json: bool = option(False, JSON_HELP, flag="--json")
    dry_run: bool = option(
        False, "Print what would be read, run and written, with time and memory, and exit.", flag="--dry-run"
    )


def print_forecast(found: Forecast, *, as_json: bool) -> None:
    """What would be read, run and written, and the estimates with their grounds."""
    if as_json:
        echo_json(found)
        return
    console = make_console()
    rows = [("reads", line) for line in found.reads] + [("runs", line) for line in found.runs]
    rows += [("writes", f"{path} ({state})") for path, state in found.writes.items()]
    if found.seconds is not None:
        rows.append(("time", f"about {' to '.join(map(_duration, found.seconds))}"))
    if found.memory_bytes is not None:
        rows.append(("memory", f"about {bytes_text(found.memory_bytes)}"))
    if found.grounds:
        rows.append(("estimated", found.grounds))
    print_table(console, ("", ""), rows)
    print_line(console, "dry run: nothing was written")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
