"""Samples and preprocessing described in a line of text."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.datasets.arrays import ARRAY_SUFFIXES
from quantkit.datasets.class_labels import remedy_for_parts
from quantkit.datasets.preprocess import pixel_table
from quantkit.datasets.remote_path import locate
from quantkit.datasets.sample_files import holds_sample_files
from quantkit.datasets.sampling import describe
from quantkit.datasets.tar_samples import find_tars
from quantkit.notices import MOST_NAMES, Notice, Notify
from quantkit.types import (
    Dataset,
    PathLike,
    Preprocessing,
)
from quantkit.urls import data_path

_LARGEST_INPUT = 512
"""Twice the largest pixel: beyond it, a factor was multiplied that divides."""

HOW_TO_LABEL = "sort the images into a folder for each class, or list them in a .csv with path and label"


def how_to_label(data: PathLike) -> str:
    """What gives these data class labels."""
    source = locate(data)
    if holds_sample_files(source):
        return 'add an array "label" to each .npz'
    if find_tars(source):
        return "add a .cls file with the class to each image of the tars"
    if source.suffix.lower() in ARRAY_SUFFIXES:
        return 'save them as an .npz with an array "labels", a class for each row'
    return HOW_TO_LABEL


def describe_choice(dataset: Dataset, data: PathLike, seed: int, notify: Notify) -> None:
    """Says which samples were chosen and how they are prepared."""
    facts = describe(dataset)
    total = len(getattr(dataset, "dataset", dataset))
    chosen = str(total) if len(dataset) == total else f"{len(dataset)} of {total}"
    classes = ", no labels" if getattr(dataset, "labeled", True) else ""
    if facts["num_classes"]:
        low, high = facts["min_per_class"], facts["max_per_class"]
        noun = "class" if facts["num_classes"] == 1 else "classes"
        classes = f", {facts['num_classes']} {noun}, {low if low == high else f'{low} to {high}'} each"
    noun = "sample" if total == 1 else "samples"
    notify(Notice("info", "data", f"data: {chosen} {noun} of {data_path(data)} (seed {seed}{classes})"))
    if remedy := remedy_for_parts(dataset.classes):
        notify(Notice("warning", "data", remedy))
    for remark in getattr(dataset, "remarks", ()):
        notify(Notice("info", "data", remark))
    if dataset.preprocessing is not None:
        notify(Notice("info", "preprocessing", f"preprocessing: {describe_preprocessing(dataset.preprocessing)}"))
    for doubt in (*getattr(getattr(dataset, "dataset", dataset), "doubts", ()), *_doubtful_values(dataset)):
        notify(Notice("warning", "preprocessing", doubt))


def _doubtful_values(dataset: Dataset) -> tuple[str, ...]:
    """Where inputs are much larger than the pixels that models take: 0 to 255, or a few units around 0."""
    p = dataset.preprocessing
    if p is None or p.function is not None:
        return ()
    values = pixel_table(p)
    largest = float(abs(values.astype("float64")).max())
    if largest <= _LARGEST_INPUT:
        return ()
    fix = f"is --scale {p.scale:g} meant to be 1/{p.scale:g}?" if p.scale > 1 else "check --scale, --mean and --std"
    return (f"inputs reach {largest:,.0f}, but models take pixels as 0 to 255, 0 to 1 or a few units around 0: {fix}",)


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """One line a person can check: color, resize, numbers, layout."""
    p = preprocessing
    if p.function is not None:
        return f"{p.function} (source {str(p.function_hash)[:12]}), {p.dtype}"
    size = f"{p.size[0]}x{p.size[1]}"
    place = "" if p.pad_position == "center" else f", image {p.pad_position}"
    step = "" if p.multiple_of is None else f", sides multiples of {p.multiple_of}"
    resize = {
        "stretch": f"stretch to {size}",
        "crop": f"shorter side to {p.shorter_side}, center {size}",
        "letterbox": f"letterbox to {size} (pad {p.pad_value}{place}{step})",
        "height": f"height {p.size[0]}, width by aspect up to {p.size[1]} (pad {p.pad_value}{place}{step})",
        "limit": f"shrink into {size}{step}",
    }[p.resize]
    color = p.color if p.pixel_max is None else f"{p.color}, white at {p.pixel_max:g}"
    scale = f"1/{1 / p.scale:g}" if p.scale < 1 else f"{p.scale:g}"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (p.mean, p.std))
    return f"{color}, {resize} {p.interpolation}, (pixel * {scale} - [{mean}]) / [{std}], {p.layout} {p.dtype}"


def describe_skipped(skipped: Mapping[str, str], dataset: Dataset) -> str:
    """One sentence that counts what could not be read and names the first few."""
    noun = "sample" if dataset.preprocessing is None else "image"
    shown = list(skipped.items())[:MOST_NAMES]
    listed = "; ".join(reason if name in reason else f"{name}: {reason}" for name, reason in shown)
    more = f"; and {len(skipped) - MOST_NAMES} more" if len(skipped) > MOST_NAMES else ""
    verb = f"{noun} was" if len(skipped) == 1 else f"{noun}s were"
    return f"{len(skipped)} unreadable {verb} left out: {listed}{more}"
