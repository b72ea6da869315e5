"""Choosing samples of a data set, evenly over its classes. Which order calibration wants is left to the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantkit.datasets.dataset_view import DatasetView, dataset_kind
from quantkit.datasets.fingerprint import content_hash
from quantkit.errors import DatasetError
from quantkit.types import Dataset, Sample


@dataclass(frozen=True, eq=False)
class Selection(DatasetView):
    """A view of a data set: some of its samples, in an order of its own.

    Attributes:
        indices: which samples of it.
        labeled: False where its labels mean nothing: samples then have none, and there are no classes.
    """

    indices: tuple[int, ...]
    labeled: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[self.indices[index]]
        return sample if self.labeled else replace(sample, target=None)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Has the data set prepare the chosen samples together, if it can."""
        super().prefetch([self.indices[i] for i in indices])

    @cached_property
    def ids(self) -> Sequence[str]:
        """Names of the chosen samples."""
        ids = self.dataset.ids
        return tuple(ids[i] for i in self.indices)

    @cached_property
    def targets(self) -> Sequence[int] | None:
        """Class index of the chosen samples."""
        targets = self.dataset.targets if self.labeled else None
        return None if targets is None else tuple(targets[i] for i in self.indices)

    @property
    def classes(self) -> Sequence[str]:
        """Class names of the whole data set."""
        return self.dataset.classes if self.labeled else ()

    def content_hash(self, index: int) -> str:
        """Hash of what is stored for a chosen sample."""
        return content_hash(self.dataset, self.indices[index])


def select(
    dataset: Dataset,
    *,
    num_samples: int | None = None,
    seed: int = 0,
    order: Literal["shuffled", "given"] = "shuffled",
    labeled: bool = True,
) -> Selection:
    """Chooses samples: as many of each class as the data allows where there are labels, any otherwise.

    The choice depends on the number, labels and order of the samples and on `seed` alone: it uses the raw stream of
    PCG64, which numpy keeps stable over versions and platforms.

    Args:
        dataset: what to choose from.
        num_samples: how many; None, or more than there are, takes all.
        seed: 0 or more; has no effect with order "given".
        order: "shuffled", or "given": the first samples of each class, in the order of the data set.
        labeled: False takes samples without regard to their labels, and drops these.

    Raises:
        DatasetError: fewer than one sample, or a negative seed.
    """
    if num_samples is not None and num_samples < 1:
        raise DatasetError(f"--num-samples {num_samples} must be at least 1")
    if seed < 0:
        raise DatasetError(f"--seed {seed} must be 0 or more")
    if order not in ("shuffled", "given"):
        raise DatasetError(f"order {order!r} is not one of shuffled, given")
    total = len(dataset)
    count = total if num_samples is None else min(num_samples, total)
    # Sorting random keys is a shuffle that, unlike Generator.permutation, no numpy version may change.
    keys = np.random.PCG64(seed).random_raw(total) if order == "shuffled" else np.zeros(total, np.uint64)
    ranking = np.argsort(keys, kind="stable")
    if dataset.targets is None or count == total or not labeled:
        chosen = ranking[:count]
    else:
        chosen = _choose_evenly(np.asarray(dataset.targets, np.int64)[ranking], ranking, count)
    return Selection(dataset, tuple(int(i) for i in chosen), labeled)


def describe(dataset: Dataset) -> dict[str, str | int]:
    """What a data set holds: kind, num_samples, num_classes, and the smallest and largest number per class.

    Classes that are known by name count even where they have no sample. `min_per_class` and `max_per_class` are
    missing where there are no labels.
    """
    description: dict[str, str | int] = {"kind": dataset_kind(dataset), "num_samples": len(dataset), "num_classes": 0}
    targets = dataset.targets
    if targets is not None:
        sizes = Counter(targets)
        known = max(len(dataset.classes), len(sizes))
        description["num_classes"] = known
        description["min_per_class"] = min(sizes.values()) if len(sizes) == known else 0
        description["max_per_class"] = max(sizes.values())
    return description


def _choose_evenly(targets: npt.NDArray[np.int64], ranking: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """The first of each class, in rounds: every class gives its k-th sample before any gives its (k + 1)-th.

    The last round, if there is not enough for all, takes the classes in the order in which they are met in `ranking`.
    The result keeps the order of `ranking`.
    """
    seen: Counter[int] = Counter()
    rounds = np.empty(len(targets), np.int64)
    for place, target in enumerate(targets.tolist()):
        rounds[place] = seen[target]
        seen[target] += 1
    chosen = np.sort(np.argsort(rounds, kind="stable")[:count])
    return ranking[chosen]
