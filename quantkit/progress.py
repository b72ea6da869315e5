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


def show_progress(
    items: Iterable[Any] | None, label: str, total: int, show: bool, *, in_bytes: bool = False, delay_s: float = 0
) -> Any:
    """A tqdm bar on a terminal, silent elsewhere.

    Args:
        items: what is counted; None: the caller updates the bar.
        label: what is done.
        total: number of items.
        show: whether there is one.
        in_bytes: whether bytes are counted.
        delay_s: what takes no longer has no bar.
    """
    look = {"unit": "B", "unit_scale": True} if in_bytes else {}
    known = {"desc": label, "total": total, "disable": None if show else True, "delay": delay_s}
    return tqdm(items, **known, leave=False, dynamic_ncols=True, **look)
