"""Files and folders at URLs, which fsspec opens: the part of `pathlib.Path` that data sets need."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from quantkit.errors import DatasetError, NotInstalledError, QuantKitError
from quantkit.machine import persistently, raise_if_out_of_memory
from quantkit.types import PathLike
from quantkit.urls import data_path, without_credentials

_T = TypeVar("_T")

NO_PARTS = "its server sends no parts of files, which tars need: put simplecache:: before the URL, or download it"


def locate(data: PathLike) -> Path | RemotePath:
    """Where data lie. Nothing is imported for a local path, and nothing of a URL is read.

    Raises:
        NotInstalledError: fsspec, or its package for this kind of URL, is missing.
        DatasetError: there is no such kind of URL, or nothing is named.
    """
    if data == "":  # which would be the working folder
        raise DatasetError("the path of the data is empty: name it, or . for the working folder")
    place = data_path(data)
    if isinstance(place, Path):
        return place
    try:
        from fsspec.core import url_to_fs  # an extra
    except ImportError as error:
        raise NotInstalledError(f'{place} needs fsspec: pip install "quantkit-ptq[remote]"') from error
    try:
        system, path = url_to_fs(place.url)
    except ImportError as error:
        name = getattr(error.__cause__, "name", None) or "the package that it names"
        raise NotInstalledError(f"{place} needs {name} ({error}): pip install {name}") from error
    except Exception as error:  # packages of other people, which may look for credentials here already
        raise_if_out_of_memory(error)
        raise DatasetError(f"cannot open {place}: {_reason(error)}") from error
    scheme = place.url.partition("://")[0]
    return RemotePath(system, path, scheme)


class RemotePath:
    """A file or folder of a file system of fsspec.

    Args:
        system: the file system.
        path: there, perhaps with credentials.
        scheme: that the URL begins with.
    """

    def __init__(self, system: Any, path: str, scheme: str) -> None:
        self._system, self._path, self._scheme = system, path, scheme

    def __str__(self) -> str:
        text = without_credentials(self._path)
        return text if "://" in text else f"{self._scheme}://{text.lstrip('/')}"

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and (self._path, self._system) == (other._path, other._system)

    def __hash__(self) -> int:
        return hash(self._path)

    def __truediv__(self, name: str) -> RemotePath:
        path, mark, query = self._path.partition("?") if self._is_http else (self._path, "", "")
        return self._at(f"{path.rstrip('/')}/{name}{mark}{query}")

    @property
    def name(self) -> str:
        """Without folders."""
        return str(self).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it."""
        path, mark, query = self._path.partition("?") if self._is_http else (self._path, "", "")
        return self._at(path.rstrip("/").rpartition("/")[0] + mark + query)

    def expand(self, expand: Callable[[str], list[str]]) -> list[RemotePath]:
        """Other files of the file system, by what is made of the path of this one."""
        return [self._at(path) for path in expand(self._path)]

    def refresh(self) -> None:
        """Has folders listed anew: fsspec keeps what it has seen as long as the process runs."""
        self._system.invalidate_cache()

    def exists(self) -> bool:
        """Whether something is there."""
        return self._info is not None

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._info is not None and not self.is_dir()

    def is_dir(self) -> bool:
        """Whether it is a folder: of the web, a page."""
        info = self._info or {}
        return info.get("type") == "directory" or (self._is_http and info.get("mimetype") == "text/html")

    def iterdir(self) -> Iterator[RemotePath]:
        """What is in the folder."""
        return (self / name for name in self._list(deep=False))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What is in the folder and has such a name."""
        return (place for place in self.iterdir() if fnmatchcase(place.name, pattern)) if self.is_dir() else iter(())

    def walk(self) -> list[str]:
        """Relative paths of all files in the folder and below that are not hidden, sorted."""
        return [name for name in self._list(deep=True) if not any(part.startswith(".") for part in name.split("/"))]

    def read(self, most_bytes: int | None = None) -> bytes:
        """The content.

        Raises:
            MachineError: the network or a server failed, and went on to.
            OSError: it is missing, may not be read, or is larger than `most_bytes`.
        """
        content: bytes = self._persistently(lambda: self._system.cat_file(self._path))
        if most_bytes is not None and len(content) > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(self))
        return content

    def read_part(self, start: int, size: int) -> bytes:
        """At most `size` bytes from byte `start`. Raises as `read` does."""
        content: bytes = self._persistently(lambda: self._system.cat_file(self._path, start=start, end=start + size))
        if len(content) > size:
            raise DatasetError(f"{self}: {NO_PARTS}")
        return content

    def read_open(self, action: Callable[[BinaryIO], _T]) -> _T:
        """What `action` returns for the open file, of which it may read any part. Raises as `read` does."""

        def read() -> _T:
            with self._system.open(self._path, "rb") as file:
                if getattr(file, "size", 0) is None:  # a stream
                    raise DatasetError(f"{self}: {NO_PARTS}")
                return action(file)

        return self._persistently(read)

    @property
    def size(self) -> int:
        """Bytes of the file, as its server says; 0 where it does not."""
        return int((self._info or {}).get("size") or 0)

    @property
    def state(self) -> str:
        """What the file system says of the file: another text where it was replaced."""
        return str(self._look(lambda: self._system.info(self._path)))

    @property
    def _is_http(self) -> bool:
        return self._scheme.rpartition("::")[2].startswith("http")

    def _at(self, path: str) -> RemotePath:
        return RemotePath(self._system, path, self._scheme)

    @cached_property
    def _info(self) -> dict[str, Any] | None:
        """What the file system says; None where nothing is there."""
        try:
            return self._look(lambda: dict(self._system.info(self._path)))
        except FileNotFoundError:
            return None

    def _list(self, *, deep: bool) -> list[str]:
        """Relative paths, sorted."""

        def list_all() -> list[str]:
            found = self._system.find(self._path) if deep else self._system.ls(self._path, detail=False)
            return [str(path) for path in found]

        root = f"{self._path.partition('?')[0] if self._is_http else self._path}".rstrip("/") + "/"
        names = [path.removeprefix(root).rstrip("/") for path in self._look(list_all) if path.startswith(root)]
        return sorted(name for name in names if name and not (self._is_http and "?" in name))

    def _look(self, action: Callable[[], _T]) -> _T:
        """What `action` returns. Raises `FileNotFoundError`, or `DatasetError` for any other reason."""
        try:
            return action()
        except FileNotFoundError as error:
            cause = error.__cause__
            if not self._is_http or cause is None or getattr(cause, "status", None) in (404, 410):
                raise  # what fsspec's HTTP makes of every failure
            raise DatasetError(f"cannot open {self}: {_reason(cause)}") from error
        except Exception as error:  # of packages of other people
            raise_if_out_of_memory(error)
            raise DatasetError(f"cannot open {self}: {_reason(error)}") from error

    def _persistently(self, action: Callable[[], _T]) -> _T:
        """What `action` returns, tried again where the network fails, whose errors are of many kinds."""

        def attempt() -> _T:
            try:
                return action()
            except (QuantKitError, MemoryError):
                raise
            except Exception as error:
                raise_if_out_of_memory(error)
                if isinstance(error, FileNotFoundError):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from error
                if _is_refusal(error):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self)) from error
                raise OSError(errno.EIO, _reason(error), str(self)) from error

        return persistently(attempt, f"read {self}")


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)


def _reason(error: BaseException) -> str:
    """What failed, in a line without credentials."""
    if _is_refusal(error):
        return f"no permission ({without_credentials(str(error))})"
    if isinstance(status := getattr(error, "status", None), int):
        return f"its server answers {status} {getattr(error, 'message', '')}".rstrip()
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {without_credentials(lines[0])}".rstrip(": .")


Source = Path | RemotePath
"""Where data lie."""
