"""URLs of data, and text that may hold one, without what gives access to them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

_SCHEME = re.compile(r"(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]+://")
"""Scheme of a URL, after those that cache it; a single letter is a drive of Windows."""

_ACCESS = re.compile(r"(?<=://)(?:[^\s/@]*:\S*|[^\s/]*)@|(?<!\s)\?.*", re.DOTALL)
"""User and password, which may hold any characters, and what follows the path, where signatures and tokens are."""

_FRAGMENT = re.compile(r"(?<!\s)#.*", re.DOTALL)
"""Fragment of a URL of the web; elsewhere it is a part of the name."""


@dataclass(frozen=True)
class DataUrl(os.PathLike[str]):
    """Data at a URL that fsspec opens. Whatever shows it, or takes it for a path, gets it without credentials."""

    url: str = field(repr=False)

    def __fspath__(self) -> str:
        return without_credentials(self.url)

    __str__ = __fspath__

    @property
    def name(self) -> str:
        """Without folders."""
        return str(self).rstrip("/").rpartition("/")[2]


def data_path(data: str | os.PathLike[str]) -> Path | DataUrl:
    """Where data lie, as users write it; ``file://`` is a local path."""
    if isinstance(data, DataUrl):
        return data
    text = os.fspath(data)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return DataUrl(text) if isinstance(data, str) and is_url(text) else Path(data)


def is_url(text: str) -> bool:
    """Whether a text begins as a URL does."""
    return _SCHEME.match(text) is not None


def without_credentials(text: str) -> str:
    """A text in which the user, password and query of a URL, up to the end of the text, are left out.

    >>> without_credentials("--data=https://me:secret@host/train.tar?signature=secret")
    '--data=https://host/train.tar'
    """
    start = _SCHEME.search(text)
    if start is None:
        return text
    url = _ACCESS.sub("", text[start.start() :])
    is_web = start[0].rpartition("::")[2].startswith("http")
    return text[: start.start()] + (_FRAGMENT.sub("", url) if is_web else url)
