"""What identifies the samples of a data set: a hash of their ids and contents, independent of folder and order."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Protocol, runtime_checkable

from quantkit.datasets.stored_files import Place, read_stored
from quantkit.errors import ChangedDataError, DatasetError
from quantkit.progress import show_progress
from quantkit.types import Array, Dataset

LARGEST_FILE_BYTES = 1 << 30
"""Most bytes of one image, mask or sample: each is held in memory as a whole."""

UNREADABLE = "unreadable"
"""In place of the hash of a file that the system does not let us read: what is missing is part of the identity."""

_TOGETHER = 64
"""Samples that a thread hashes in turn: most hashes are known, and handing over each takes ten times as long."""


@runtime_checkable
class HashesContents(Protocol):
    """A data set that hashes the stored bytes of a sample without decoding it."""

    def content_hash(self, index: int) -> str:
        """SHA-256 of what is stored for the sample, hexadecimal, or a word where that cannot be read."""


class StoredFiles:
    """Files of samples: each reading of one gives what was hashed, or an error. Safe in threads."""

    def __init__(self) -> None:
        self._hashes: dict[Place, str] = {}

    def read(self, path: Place) -> bytes:
        """The content of a file, which is hashed on the way.

        Raises:
            ChangedDataError: it is not what it was when it was last hashed or read.
            MachineError: the machine failed, and went on to.
            OSError: it is missing, no regular file, of more than `LARGEST_FILE_BYTES`, or may not be read.
        """
        try:
            content = read_stored(path, most_bytes=LARGEST_FILE_BYTES)
        except OSError:
            self.check(path, UNREADABLE)
            raise
        self.check(path, hashlib.sha256(content).hexdigest())
        return content

    def hash(self, path: Place) -> str:
        """SHA-256 of a file's content, hexadecimal; `UNREADABLE` where the system refuses. It is read at most once."""
        if path not in self._hashes:
            with contextlib.suppress(OSError):
                self.read(path)
        return self._hashes[path]

    def check(self, path: Place, found: str) -> None:
        """Raises `ChangedDataError` if a file has another hash, hexadecimal, than before."""
        if self._hashes.setdefault(path, found) != found:
            raise ChangedDataError(f"{path} was changed while it was in use: run again")


def compute_fingerprint(dataset: Dataset) -> str:
    """SHA-256, hexadecimal, over the sorted pairs of id and content hash."""
    return fingerprint_of(contents_of(dataset))


def contents_of(dataset: Dataset, *, show: bool = False) -> tuple[tuple[str, str], ...]:
    """Id and content hash of every sample, in order. Contents are hashed by several threads, behind a bar if wanted."""
    groups = (range(len(dataset))[start : start + _TOGETHER] for start in range(0, len(dataset), _TOGETHER))
    with ThreadPoolExecutor(count_cpus()) as pool, show_progress(None, "hashing", len(dataset), show, delay_s=1) as bar:

        def hash_some(indices: range) -> list[str]:
            hashes = []
            for index in indices:
                hashes.append(content_hash(dataset, index))
                bar.update()
            return hashes

        return tuple(zip(dataset.ids, chain.from_iterable(pool.map(hash_some, groups)), strict=True))


def fingerprint_of(contents: Iterable[tuple[str, str]]) -> str:
    """The fingerprint of samples of which only id and content hash are known."""
    digest = hashlib.sha256()
    for name, content in sorted(contents):
        encoded = name.encode()
        # The length in front keeps an id from running into the hash that follows it.
        digest.update(b"%d:%s%s\n" % (len(encoded), encoded, content.encode()))
    return digest.hexdigest()


def content_hash(dataset: Dataset, index: int) -> str:
    """Hash of one sample's stored contents; of its decoded inputs for a data set that cannot say."""
    if isinstance(dataset, HashesContents):
        return dataset.content_hash(index)
    try:
        sample = dataset[index]
    except DatasetError:
        return UNREADABLE
    return hash_arrays(sample.inputs)


def hash_arrays(arrays: Mapping[str, Array], made_by: str = "") -> str:
    """SHA-256 of names, types, shapes and values, in the order of the names, and of what made them."""
    digest = hashlib.sha256(made_by.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\n{array.dtype.str}\n{array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def count_cpus() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
