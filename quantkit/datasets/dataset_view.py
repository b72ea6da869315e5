"""What every data set made of another one takes from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from quantkit.datasets.fingerprint import compute_fingerprint
from quantkit.types import Dataset, Preprocessing, Sample


@runtime_checkable
class Prefetches(Protocol):
    """A data set that prepares several samples faster together than one by one."""

    def prefetch(self, indices: Sequence[int]) -> None:
        """Prepares samples that this thread takes next."""


@dataclass(frozen=True, eq=False)
class DatasetView:
    """A `Dataset` of another one's samples: subclasses say which ones, and what becomes of them.

    Attributes:
        dataset: what is looked at.
    """

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Has the data set prepare samples together, if it can, before this thread takes them one by one."""
        if isinstance(self.dataset, Prefetches):
            self.dataset.prefetch(indices)

    @property
    def ids(self) -> Sequence[str]:
        """Those of the data set."""
        return self.dataset.ids

    @property
    def targets(self) -> Sequence[int] | None:
        """Those of the data set."""
        return self.dataset.targets

    @property
    def classes(self) -> Sequence[str]:
        """Those of the data set."""
        return self.dataset.classes

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the data set."""
        return self.dataset.preprocessing

    @property
    def kind(self) -> str:
        """That of the data set."""
        return dataset_kind(self.dataset)

    @property
    def remarks(self) -> Sequence[str]:
        """Those of the data set."""
        return getattr(self.dataset, "remarks", ())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids and contents of its samples, in sorted order: the same for every order."""
        return compute_fingerprint(self)


def dataset_kind(dataset: Dataset) -> str:
    """What a data set says that it is, if it does."""
    kind = getattr(dataset, "kind", "data set")
    return kind if isinstance(kind, str) else "data set"
