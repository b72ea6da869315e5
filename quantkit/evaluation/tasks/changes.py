"""The samples that changed most, a bounded number for each variant, while batches pass by."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count

from quantkit.types import ChangedSample

CHANGED_POINTS = 0.01
"""A sample whose own score moves by less is neither broken nor fixed: some box or pixel changes in every image."""

_KINDS = ("broken", "fixed", "changed")


class Changes:
    """Counts every change and keeps the most severe ones of each variant and kind, however many samples pass by.

    >>> changes = Changes(limit=1)
    >>> for name, severity in (("a", 0.1), ("b", 0.9)):
    ...     changes.add(ChangedSample("int8", name, "broken", "", "cat", "dog", severity))
    >>> [change.sample for change in changes.worst()], changes.counts()
    (['b'], {'int8': {'broken': 2}})
    """

    def __init__(self, limit: int = 24) -> None:
        self._limit = limit
        self._heaps: dict[tuple[str, str], list[tuple[float, int, ChangedSample]]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._order = count()

    def add(self, *changes: ChangedSample) -> None:
        """Counts changes, and keeps those that are among the most severe; of equals, the earlier."""
        for change in changes:
            self._counts.setdefault(change.variant, Counter())[change.kind] += 1
            heap = self._heaps.setdefault((change.variant, change.kind), [])
            heapq.heappush(heap, (change.severity, -next(self._order), change))
            if len(heap) > self._limit:
                heapq.heappop(heap)

    def worst(self) -> tuple[ChangedSample, ...]:
        """Variant by variant in the order in which they were met, what broke first, the most severe first."""
        kept: list[ChangedSample] = []
        for variant in self._counts:
            for kind in _KINDS:
                ranked = sorted(self._heaps.get((variant, kind), ()), key=lambda entry: (-entry[0], -entry[1]))
                kept += [change for _, _, change in ranked]
        return tuple(kept)

    def counts(self) -> dict[str, dict[str, int]]:
        """Variant → kind → number of samples."""
        return {
            variant: {kind: found[kind] for kind in _KINDS if found[kind]} for variant, found in self._counts.items()
        }
