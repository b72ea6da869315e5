"""Progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

from quantkit.types import (
    Batch,
)


def with_progress(batches: Iterable[Batch], bar: Any) -> Iterator[Batch]:
    """The batches, each counted on a progress bar after it was used."""
    for batch in batches:
        yield batch
        bar.update(len(batch))


def show_progress(items: Iterable[Any] | None, label: str, total: int, show: bool) -> Any:
    """A tqdm bar on a terminal, silent elsewhere."""
    return tqdm(items, desc=label, total=total, disable=None if show else True, leave=False, dynamic_ncols=True)
