"""Files of arrays: the rows of .npy, read when they are asked for, and the members of .npz, checked before they are."""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
import weakref
import zipfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from quantkit.errors import ChangedDataError, DatasetError, MachineError, QuantKitError
from quantkit.machine import open_regular, persistently, raise_if_out_of_memory
from quantkit.types import Array

_SUFFIX = ".npy"
_ARCHIVE = b"PK"
_MOST_DIMENSIONS = 32


class StoredArray:
    """The array of a .npy file, of which a row is read when it is asked for, by any thread.

    The file stays open: one that is renamed to its place changes nothing. It is not memory-mapped, since a file that is
    cut short, or a disk that fails, would then end the process without a word.

    Args:
        file: opened for reading.
        path: for messages.

    Attributes:
        shape: [N, ...].
        dtype: as stored.

    Raises:
        ValueError: it is no array of numbers, or shorter than its header says.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path, self._file, self._lock = path, file, threading.Lock()
        self.shape, is_fortran, self.dtype = _read_header(file)
        self._start = file.tell()
        _check_size(self.shape, self.dtype, os.fstat(file.fileno()).st_size - self._start)
        weakref.finalize(self, file.close)
        # Rows of such an array lie scattered over the file.
        self._whole = self._read(0, self._num_bytes(self.shape)).reshape(self.shape, order="F") if is_fortran else None

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self.shape)

    def __getitem__(self, index: int) -> Array:
        """Row `index`, read anew.

        Raises:
            ChangedDataError: the file was cut short meanwhile.
            MachineError: the machine failed, and went on to.
        """
        if not 0 <= index < self.shape[0]:
            raise IndexError(index)
        if self._whole is not None:
            row: Array = self._whole[index]
            return row
        size = self._num_bytes(self.shape[1:])
        return self._read(index * size, size).reshape(self.shape[1:])

    def _num_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self.dtype.itemsize

    def _read(self, offset: int, size: int) -> Array:
        content = persistently(lambda: self._read_at(self._start + offset, size), f"read {self._path}")
        return np.frombuffer(content, self.dtype)

    def _read_at(self, place: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(place)
            content = self._file.read(size)
        if len(content) != size:
            raise ChangedDataError(f"{self._path} was cut short while it was in use: run again")
        return content


def load_arrays(path: Path, wanted: Container[str]) -> tuple[StoredArray | dict[str, Array], tuple[str, ...]]:
    """The array of .npy, or the wanted arrays of .npz and the names of all.

    Raises:
        DatasetError: it cannot be read, or holds no such arrays.
        MachineError: the machine failed, or has too little memory.
    """
    try:
        return persistently(lambda: _load(path, wanted), f"read {path}")
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error


def parse_arrays(content: bytes, path: object, wanted: Container[str]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The wanted arrays of the content of a .npz file, and the names of all. Raises as `load_arrays` does."""
    if not content.startswith(_ARCHIVE) and content.startswith(np.lib.format.MAGIC_PREFIX):
        raise DatasetError(f"{path} holds one array without a name: save it with numpy.savez")
    return persistently(lambda: _of_archive(io.BytesIO(content), path, wanted), f"read {path}")


def _load(path: Path, wanted: Container[str]) -> tuple[StoredArray | dict[str, Array], tuple[str, ...]]:
    file = open_regular(path)
    keeps_it = False
    try:
        is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
        file.seek(0)
        if is_archive:
            return _of_archive(file, path, wanted)
        with _explained(path):
            array = StoredArray(file, path)
        keeps_it = True
        return array, ()
    finally:
        if not keeps_it:
            file.close()


def _of_archive(file: IO[bytes], path: object, wanted: Container[str]) -> tuple[dict[str, Array], tuple[str, ...]]:
    with _explained(path), zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(_SUFFIX): info for info in archive.infolist()}
        chosen = {name: info for name, info in members.items() if name in wanted}
        _check_memory(chosen, path)
        return {name: _read_member(archive, info, name) for name, info in chosen.items()}, tuple(members)


def _check_memory(members: Mapping[str, zipfile.ZipInfo], path: object) -> None:
    """Refuses what no memory of this machine holds, before any of it is unpacked."""
    needed = sum(info.file_size for info in members.values())
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return
    if needed > there:
        raise MachineError(
            f"{path} unpacks to {needed / 2**30:.1f} GiB, more than the memory of this machine: save the arrays as .npy"
        )


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Array:
    with archive.open(info) as member:
        if member.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"{name!r} is not an array")
    with archive.open(info) as member:
        shape, _, dtype = _read_header(member)
        _check_size(shape, dtype, info.file_size - member.tell())
    with archive.open(info) as member:  # zipfile gives no more than `file_size` bytes of it
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type."""
    with warnings.catch_warnings():  # of Python's parser
        warnings.simplefilter("ignore")
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"format {version[0]}.{version[1]} is not known")
        # Headers of version 3 differ from those of 2 in the names of fields, which numbers do not have.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if any(not 0 <= size < 1 << 62 for size in shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"shape {shape}")
    return shape, is_fortran, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    needed = math.prod(shape) * dtype.itemsize
    if needed > there:
        raise ValueError(f"it is cut short: {list(shape)} of {dtype} are {needed} bytes, and there are {there}")


@contextmanager
def _explained(path: object) -> Iterator[None]:
    """What numpy and zipfile raise on a damaged file, nearly anything, as a `DatasetError`."""
    try:
        yield
    except (QuantKitError, OSError):
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{path} cannot be read as arrays of numbers ({reason}): write it with numpy.save or numpy.savez"
        ) from error
