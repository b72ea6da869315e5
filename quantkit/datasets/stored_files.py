"""Where the bytes of a sample lie: in a file of its own, or elsewhere, as a member of a tar does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol

from quantkit.machine import read_file


class StoredFile(Protocol):
    """A file that is not one of a local folder. It can be hashed and compared, and `str` names it."""

    @property
    def name(self) -> str:
        """Without folders."""

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""

    def read(self, most_bytes: int | None = None) -> bytes:
        """The content. Raises as `quantkit.machine.read_file` does."""


Place = Path | StoredFile
"""Where a sample lies."""


def read_stored(place: Place, *, most_bytes: int | None = None) -> bytes:
    """The content of a file of samples. Raises as `quantkit.machine.read_file` does."""
    return read_file(place, most_bytes=most_bytes) if isinstance(place, Path) else place.read(most_bytes)


def image_source(place: Place) -> Path | io.BytesIO:
    """What Pillow opens: of a local file it reads no more than it needs."""
    return place if isinstance(place, Path) else io.BytesIO(place.read())
