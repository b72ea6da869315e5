"""Files of ours that are not JSON: a first line with what it is, version, length and checksum, then the content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantkit.calibration.json_text import wrong_version
from quantkit.errors import CalibrationError

_MOST_DIGITS = 18


@dataclass(frozen=True)
class Seal:
    """The first line of a kind of file.

    Attributes:
        magic: what it begins with, and a space.
        version: that is written, and the only one that is read.
        kind: what the file is, with its article, for messages.
    """

    magic: bytes
    version: int
    kind: str

    def put(self, content: bytes) -> bytes:
        """The whole file."""
        return b"%s%d %d %s\n%s" % (self.magic, self.version, len(content), _digest(content), content)

    def check(self, file: Path, stored: bytes, find_damage: Callable[[bytes], str] | None = None) -> bytes:
        """What follows the first line, if that line holds for it.

        Args:
            file: its path, for messages.
            stored: all of it.
            find_damage: where content without its checksum was changed.

        Raises:
            CalibrationError: one line: another file, of another version, cut short, or changed after it was written.
        """
        line, separator, content = stored.partition(b"\n")
        words = line.removeprefix(self.magic).split(b" ")
        cut = f"{file} is cut short after {len(stored)} bytes: calibrate again"
        if not line.startswith(self.magic) or not _is_number(words[0]):
            if stored and self.magic.startswith(stored):
                raise CalibrationError(cut)
            start = self.magic.decode().strip()
            raise CalibrationError(f"{file} is not {self.kind}: it does not begin with {start!r}")
        if (version := int(words[0])) != self.version:
            raise wrong_version(str(file), version, self.version, fix="calibrate again")
        if not separator:
            raise CalibrationError(cut)
        changed = f"{file} was changed after it was written"
        if len(words) != 3 or not _is_number(words[1]):
            raise CalibrationError(f"{changed} (first line): calibrate again")
        if (more := len(content) - int(words[1])) < 0:
            raise CalibrationError(f"{file} is cut short: {len(content)} of {int(words[1])} bytes: calibrate again")
        if more:
            raise CalibrationError(f"{changed}: {more} bytes follow its end: calibrate again")
        if words[2] != _digest(content):
            where = find_damage(content) if find_damage is not None else "its checksum does not match"
            raise CalibrationError(f"{changed}: {where}: calibrate again")
        return content


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) <= _MOST_DIGITS


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
