"""What identifies the samples of a data set: a hash of their ids and contents, independent of folder and order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from quantkit.errors import DatasetError
from quantkit.types import Dataset


@runtime_checkable
class HashesContents(Protocol):
    """A data set that hashes the stored bytes of a sample without decoding it."""

    def content_hash(self, index: int) -> str:
        """SHA-256 of what is stored for the sample, hexadecimal, or a word where that cannot be read."""


def compute_fingerprint(dataset: Dataset) -> str:
    """SHA-256, hexadecimal, over the sorted pairs of id and content hash. Contents are hashed by several threads."""
    with ThreadPoolExecutor(count_cpus()) as pool:
        hashes = list(pool.map(lambda index: content_hash(dataset, index), range(len(dataset))))
    return fingerprint_of(zip(dataset.ids, hashes, strict=True))


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
        return "unreadable"
    digest = hashlib.sha256()
    for name, array in sorted(sample.inputs.items()):
        digest.update(f"{name}\n{array.dtype.str}\n{array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def count_cpus() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
