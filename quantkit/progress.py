"""Progress bars on a terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from quantkit.types import Batch

with warnings.catch_warnings():  # of tqdm.autonotebook being experimental; tqdm.auto is that and asyncio
    warnings.simplefilter("ignore")
    from tqdm.autonotebook import tqdm


def with_progress(batches: Iterable[Batch], bar: Any) -> Iterator[Batch]:
    """The batches, each counted on a progress bar after it was used."""
    for batch in batches:
        yield batch
        bar.update(len(batch))


def show_progress(items: Iterable[Any] | None, label: str, total: int, show: bool) -> Any:
    """A tqdm bar on a terminal, silent elsewhere."""
    return tqdm(items, desc=label, total=total, disable=None if show else True, leave=False, dynamic_ncols=True)
