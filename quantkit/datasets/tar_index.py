"""Where the members of a tar lie in it, so that each is read by itself and nothing is unpacked."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from quantkit.datasets.remote_path import NO_PARTS, Source
from quantkit.errors import ChangedDataError, DatasetError, MachineError
from quantkit.machine import open_regular, persistently, raise_if_out_of_memory, read_part

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Suffixes of names that are taken for tars; compressed ones are refused."""

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""What undoes the compression that a file begins with."""

MOST_INDEXES = 4096
"""Kept at once."""

tell_bytes: ContextVar[Callable[[int], object]] = ContextVar("tell_bytes", default=lambda count: None)
"""Is called with how many bytes more of a tar its index covers, in the threads that set it."""

_LABEL_SUFFIX = ".cls"
_LONGEST_LABEL = 1024
_BLOCK = tarfile.BLOCKSIZE
_PADDING = 1 << 16
"""Bytes after the end that are looked at: tar fills up 10 KiB with zeros."""


@dataclass(frozen=True)
class TarMember:
    """A file in a tar.

    Attributes:
        archive: the tar.
        path: of the member, with "/", as the tar has it but for "./" in front.
        offset: of the first byte.
        size: in bytes.
    """

    archive: Source
    path: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Without folders."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """From the last dot of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def key(self) -> str:
        """What the files of a sample have in common: the path up to the first dot of the name."""
        return self.path.removesuffix(self.extension)

    @property
    def extension(self) -> str:
        """From the first dot of the name."""
        return "".join(self.name.partition(".")[1:])

    def read(self, most_bytes: int | None = None) -> bytes:
        """The content.

        Raises:
            ChangedDataError: the tar was cut short since its index was made.
            MachineError: the machine failed, and went on to.
            OSError: the tar cannot be read, or the member is larger than `most_bytes`.
        """
        if most_bytes is not None and self.size > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(self))
        archive, part = self.archive, (self.offset, self.size)
        content = read_part(archive, *part) if isinstance(archive, Path) else archive.read_part(*part)
        if len(content) != self.size:
            raise ChangedDataError(f"{self.archive} was cut short while it was in use: run again")
        return content

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"


@dataclass(frozen=True)
class TarIndex:
    """What a tar holds.

    Attributes:
        members: its files but for hidden ones and labels, by path, in its order.
        labels: content of the ``.cls`` files, by key.
    """

    members: Mapping[str, TarMember] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def is_tar(place: Source) -> bool:
    """Whether something has the name of a tar."""
    return place.name.lower().endswith(TAR_SUFFIXES)


def index_tar(archive: Source) -> TarIndex:
    """The index of a tar, made once while the file stays as it is.

    Raises:
        DatasetError: it cannot be read, is compressed, damaged or empty, or has a member that cannot be used.
        MachineError: the machine failed, and went on to.
    """
    try:
        if not isinstance(archive, Path):
            return _index(archive, archive.state)
        status = os.stat(archive)
        return _index(archive, (status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError as error:
        raise DatasetError(f"cannot read {archive}: {error.strerror or error}") from error


@lru_cache(maxsize=MOST_INDEXES)
def _index(archive: Source, state: object) -> TarIndex:
    if not isinstance(archive, Path):
        return archive.read_open(lambda file: _Reader(archive, file).index())

    def read() -> TarIndex:
        with open_regular(archive) as file:
            return _Reader(archive, file).index()

    return persistently(read, f"read {archive}")


class _Reader:
    """Reads the headers of one tar. It is also the file that `tarfile` reads: never more than there is at once."""

    def __init__(self, archive: Source, file: BinaryIO) -> None:
        self._archive, self._file = archive, file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, size: int) -> bytes:
        """Some bytes, where a damaged header may ask for any number."""
        try:
            return self._file.read(max(0, min(size, self._size - self._file.tell())))
        except ValueError as error:  # what fsspec raises where it cannot go on
            raise DatasetError(f"{self._archive}: {NO_PARTS}") from error

    def seek(self, offset: int) -> int:
        """Goes on at another byte."""
        return self._file.seek(offset)

    def tell(self) -> int:
        """Where it is."""
        return self._file.tell()

    def index(self) -> TarIndex:
        """Raises `DatasetError` as `index_tar` does, and `OSError`."""
        start = self.read(_BLOCK)
        self.seek(0)
        if not start:
            raise DatasetError(f"{self._archive}: the file is empty")
        if tool := next((tool for magic, tool in _COMPRESSED.items() if start.startswith(magic)), None):
            raise DatasetError(
                f"{self._archive} is compressed, and members of a tar are read where they lie: run {tool} on it "
                "(images hardly shrink)"
            )
        members: dict[str, TarMember] = {}
        labels: dict[str, str] = {}
        try:
            file = cast(BinaryIO, self)  # what `tarfile` needs of one
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                self._take_all(tar, members, labels)
        except (DatasetError, MachineError, OSError):
            raise
        except Exception as error:  # of damaged headers `tarfile` raises more than its own errors
            raise_if_out_of_memory(error)
            after = f" after {list(members)[-1]!r}" if members else ""
            raise DatasetError(f"{self._archive} is no tar, or damaged{after} ({error}): copy it again") from error
        if not members:
            raise DatasetError(f"{self._archive} holds no file")
        return TarIndex(members, labels)

    def _take_all(self, tar: tarfile.TarFile, members: dict[str, TarMember], labels: dict[str, str]) -> None:
        path, end, tell = "", -1, tell_bytes.get()
        while (info := tar.next()) is not None:
            if tar.offset <= end:
                raise tarfile.ReadError("a size is negative")
            tell(tar.offset - max(end, 0))
            end = tar.offset
            tar.members.clear()  # type: ignore[attr-defined]  # a large tar has millions
            path = info.name.removeprefix("./")
            if info.isdir() or any(part.startswith(".") and part != ".." for part in path.split("/")):
                continue
            self._check(info)
            member = TarMember(self._archive, path, info.offset_data, info.size)
            if path in members or (member.extension == _LABEL_SUFFIX and member.key in labels):
                raise DatasetError(f"{self._archive} holds {path!r} twice: write it again without the old one")
            if member.extension == _LABEL_SUFFIX:
                labels[member.key] = self._read_label(member)
            else:
                members[path] = member
        self._check_end(tar.offset, path)

    def _check(self, info: tarfile.TarInfo) -> None:
        """Refuses what has no content of its own, or a name that is none below the tar."""
        where = f"{self._archive}: {info.name!r}"
        if info.issym() or info.islnk():
            fix = "write the tar with --dereference --hard-dereference"
            raise DatasetError(f"{where} is a link to {info.linkname!r}: {fix}")
        if info.issparse():
            raise DatasetError(f"{where} is stored with holes: write the tar without --sparse")
        if not info.isreg():
            raise DatasetError(f"{where} is neither file nor folder: write the tar without it")
        if info.name.startswith("/") or ".." in info.name.split("/"):
            raise DatasetError(f"{where} lies outside the tar: write it with relative names, tar -C FOLDER")

    def _check_end(self, end: int, last: str) -> None:
        """A tar ends with a block of zeros and nothing else: `tarfile` takes damaged headers for the end, too."""
        self.seek(end)
        rest = self.read(_PADDING)
        if len(rest) < _BLOCK:
            raise DatasetError(f"{self._archive} is cut short: it has no end after {last!r}; copy or write it again")
        if rest.strip(b"\0"):
            what = "is damaged" if rest[:_BLOCK].strip(b"\0") else "goes on (were tars joined by cat?)"
            raise DatasetError(f"{self._archive} {what} after {last!r}: copy or write it again")

    def _read_label(self, member: TarMember) -> str:
        self.seek(member.offset)
        try:
            label = self.read(min(member.size, _LONGEST_LABEL)).decode().strip()
        except UnicodeDecodeError:
            label = ""
        if not label or member.size > _LONGEST_LABEL:
            raise DatasetError(f"{member} holds no class index")
        return label
