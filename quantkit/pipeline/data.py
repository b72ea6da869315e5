"""What every step shares: opening and describing data, batches, progress bars and lines for the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from quantkit.errors import DatasetError
from quantkit.types import (
    Batch,
    ColorOrder,
    Dataset,
    Interpolation,
    Layout,
    Preprocessing,
    Resize,
)

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "ImageOptions",
    "Order",
    "PathLike",
    "Tell",
    "count_samples",
    "describe_choice",
    "describe_preprocessing",
    "describe_skipped",
    "list_some",
    "make_batches",
    "open_samples",
    "show_progress",
    "stay_silent",
]

PathLike = str | os.PathLike[str]
Tell = Callable[[str], None]
Order = Literal["shuffled", "given"]

_MANY_NAMES = 5


@dataclass(frozen=True)
class ImageOptions:
    """How images are prepared, as far as a user says it; the rest comes from the preset and the model's input."""

    preset: str | None = None
    color: ColorOrder | None = None
    resize: Resize | None = None
    size: tuple[int, int] | None = None
    shorter_side: int | None = None
    interpolation: Interpolation | None = None
    pad_value: int | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Layout | None = None


def open_samples(
    graph: ir.Model,
    data: PathLike,
    preprocessing: Preprocessing | ImageOptions | str | None,
    classes: Sequence[str] | None,
    *,
    num_samples: int | None,
    seed: int,
    order: Order,
    labelled: bool = True,
) -> Dataset:
    """Opens `data` for the inputs of a model and chooses samples; without labels if they mean nothing here."""
    from quantkit.datasets import holds_arrays, open_dataset, resolve_preprocessing, select
    from quantkit.graph.model import input_specs

    inputs = input_specs(graph)
    if isinstance(preprocessing, str):
        preprocessing = ImageOptions(preset=preprocessing)
    if isinstance(preprocessing, ImageOptions):
        if preprocessing == ImageOptions():
            preprocessing = None
        elif len(inputs) == 1 and not holds_arrays(data):
            preprocessing = resolve_preprocessing(inputs[0], **asdict(preprocessing))
        else:
            raise DatasetError(f"{data}: image options have no meaning for arrays or a model with several inputs")
    dataset = open_dataset(data, inputs, preprocessing=preprocessing, classes=classes)
    return select(dataset, num_samples=num_samples, seed=seed, order=order, labelled=labelled)


def describe_choice(dataset: Dataset, data: PathLike, seed: int, say: Tell) -> None:
    """Says which samples were chosen and how they are prepared."""
    from quantkit.datasets import describe

    facts = describe(dataset)
    total = len(getattr(dataset, "dataset", dataset))
    chosen = f"all {total}" if len(dataset) == total else f"{len(dataset)} of {total}"
    classes = ""
    if facts["num_classes"]:
        low, high = facts["min_per_class"], facts["max_per_class"]
        classes = f", {facts['num_classes']} classes, {low if low == high else f'{low} to {high}'} each"
    if not classes and getattr(dataset, "labelled", True):
        classes = ", no labels"
    say(f"data: {chosen} samples of {data} (seed {seed}{classes})")
    if dataset.preprocessing is not None:
        say(f"preprocessing: {describe_preprocessing(dataset.preprocessing)}")


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """One line a person can check: colour, resize, numbers, layout."""
    p = preprocessing
    resize = {
        "stretch": f"stretch to {p.size[0]}x{p.size[1]}",
        "crop": f"shorter side to {p.shorter_side}, centre {p.size[0]}x{p.size[1]}",
        "letterbox": f"letterbox to {p.size[0]}x{p.size[1]} (pad {p.pad_value})",
    }[p.resize]
    scale = f"1/{1 / p.scale:g}" if p.scale < 1 else f"{p.scale:g}"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (p.mean, p.std))
    return f"{p.color}, {resize} {p.interpolation}, (pixel * {scale} - [{mean}]) / [{std}], {p.layout} {p.dtype}"


def make_batches(
    dataset: Dataset, batch_size: int, *, strict: bool, workers: int | None, skipped: dict[str, str]
) -> Iterable[Batch]:
    """Batches of the data set; `skipped` gets id and reason of what cannot be read."""
    from quantkit.datasets import iterate_batches

    return iterate_batches(dataset, batch_size, workers=workers, strict=strict, on_skip=skipped.__setitem__)


def count_samples(batches: Iterable[Batch], bar: Any) -> Iterator[Batch]:
    """The batches, each counted on a progress bar after it was used."""
    for batch in batches:
        yield batch
        bar.update(len(batch))


def describe_skipped(skipped: Mapping[str, str], dataset: Dataset) -> str:
    """One sentence that counts what could not be read and names the first few."""
    noun = "sample" if dataset.preprocessing is None else "image"
    listed = "; ".join(reason if name in reason else f"{name}: {reason}" for name, reason in _first(skipped))
    more = f"; and {len(skipped) - _MANY_NAMES} more" if len(skipped) > _MANY_NAMES else ""
    verb = f"{noun} was" if len(skipped) == 1 else f"{noun}s were"
    return f"{len(skipped)} unreadable {verb} left out: {listed}{more}"


def list_some(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - _MANY_NAMES} more" if len(names) > _MANY_NAMES else ""
    return ", ".join(names[:_MANY_NAMES]) + more


def show_progress(items: Iterable[Any] | None, label: str, total: int, show: bool) -> Any:
    """A tqdm bar on a terminal, silent elsewhere."""
    from tqdm import tqdm

    return tqdm(items, desc=label, total=total, disable=None if show else True, leave=False, dynamic_ncols=True)


def stay_silent(_: str) -> None:
    """A `Tell` for callers who do not want to know."""


def _first(skipped: Mapping[str, str]) -> list[tuple[str, str]]:
    return list(skipped.items())[:_MANY_NAMES]
