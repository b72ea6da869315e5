"""Messages for the user: plain formatting of lists of names, and text from files made visible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["MOST_NAMES", "Tell", "ignore_messages", "join_names", "visible"]

Tell = Callable[[str], None]

MOST_NAMES = 5
"""Names that a message lists before it counts the rest."""


def join_names(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def ignore_messages(_: str) -> None:
    """A `Tell` for callers who do not want to know."""


def visible(text: str) -> str:
    r"""The text with line breaks, escape sequences and other invisible signs written out: "\x1b[31m"."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
