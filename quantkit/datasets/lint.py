"""What may be wrong with the samples of a data set, from the files alone. Trying them on a model is left to others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from quantkit.datasets.batching import iterate_batches
from quantkit.datasets.class_labels import remedy_for_parts
from quantkit.datasets.fingerprint import content_hash
from quantkit.datasets.image_decoding import IMAGE_SUFFIXES, READ_FORMATS
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.image_folder import walk
from quantkit.datasets.stored_files import image_source
from quantkit.errors import DatasetError
from quantkit.types import Array, Dataset, Preprocessing

Severity = Literal["error", "warning", "note"]

# fmt: off
_OTHER_IMAGE_SUFFIXES = frozenset({
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jxl",
    ".nef", ".orf", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".raw", ".rw2", ".svg", ".tga",
}) - frozenset(IMAGE_SUFFIXES)
# fmt: on
_FEW, _SOME = 32, 128
"""Samples below which TensorRT's and most other guides call a calibration unreliable (100 to 500 are recommended)."""
_IMBALANCE = 10
_ASPECT = 3.0
_FEW_LEVELS = 32
"""Levels of 256. What channels of other means add to the spread (17 levels for ImageNet's) is within it."""
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong.

    Attributes:
        severity: "error" where results will be wrong, "warning" where they may be, "note" where a reader should know.
        check: which check found it.
        what: one clause.
        where: samples or files concerned.
        fix: what to do.
    """

    severity: Severity
    check: str
    what: str
    where: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True)
class DataFacts:
    """What was seen, whether or not something is wrong with it.

    Attributes:
        num_samples: all of them.
        unreadable: ids of those that could not be read.
        minimum, mean, maximum: of the model's inputs over the readable samples.
        sizes: smallest and largest (width, height) of the images, by area; None for arrays.
        modes: number of images by Pillow's mode; empty for arrays.
    """

    num_samples: int
    unreadable: tuple[str, ...]
    minimum: float
    mean: float
    maximum: float
    sizes: tuple[tuple[int, int], tuple[int, int]] | None
    modes: dict[str, int]


def check_files(folder: Path) -> list[Finding]:
    """Files of a folder that look like images and are not read, by their suffix."""
    left = [f for f in sorted(walk(folder)) if PurePosixPath(f).suffix.lower() in _OTHER_IMAGE_SUFFIXES]
    if not left:
        return []
    kinds = ", ".join(f"{n} {s}" for s, n in Counter(PurePosixPath(f).suffix.lower() for f in left).most_common())
    fix = f"convert them to one of {' '.join(IMAGE_SUFFIXES)}, or remove them"
    return [Finding("warning", "suffix", f"images of other formats are left out: {kinds}", tuple(left), fix)]


def check_samples(
    dataset: Dataset, *, workers: int | None = None, on_samples: Callable[[int], None] | None = None
) -> tuple[DataFacts, list[Finding]]:
    """Reads every sample: unreadable ones, value range, constant images, sizes, color modes, how many there are.

    Args:
        dataset: not a selection of another where images are to be looked at as files.
        workers: decoding threads.
        on_samples: called with the number of samples that were read since the last call.
    """
    reasons: dict[str, str] = {}
    constant: list[str] = []
    total, count, low, high = 0.0, 0, np.inf, -np.inf
    try:
        for batch in iterate_batches(dataset, 32, workers=workers, on_skip=reasons.__setitem__):
            for array in batch.inputs.values():
                rows = array.reshape(len(batch), -1)
                minima, maxima = rows.min(axis=1), rows.max(axis=1)
                if dataset.preprocessing is not None:
                    flat = _flat(array, dataset.preprocessing)
                    constant += [name for name, same in zip(batch.ids, flat, strict=True) if same]
                low, high = min(low, float(minima.min())), max(high, float(maxima.max()))
                total, count = total + float(rows.sum(dtype=np.float64)), count + rows.size
            if on_samples is not None:
                on_samples(len(batch))
    except DatasetError as error:
        if len(reasons) < len(dataset):
            raise
        low = high = 0.0
        reasons = reasons or {dataset.ids[0]: str(error)}
    files, modes, sizes = _describe_files(dataset, frozenset(reasons))
    facts = DataFacts(
        num_samples=len(dataset),
        unreadable=tuple(reasons),
        minimum=low,
        mean=total / max(count, 1),
        maximum=high,
        sizes=sizes,
        modes=modes,
    )
    findings = []
    if reasons:
        where = tuple(f"{name}: {reason}" for name, reason in reasons.items())
        what = f"{len(reasons)} of {len(dataset)} samples cannot be read"
        findings.append(Finding("error", "unreadable", what, where, "repair or remove them"))
    if constant:
        what = f"{len(constant)} images have a single color"
        severity: Severity = "error" if len(constant) == len(dataset) - len(reasons) else "warning"
        findings.append(Finding(severity, "constant", what, tuple(constant), "remove them: they do not affect ranges"))
    findings += files + _check_range(dataset, facts) + _check_count(len(dataset) - len(reasons))
    return facts, findings


def check_duplicates(dataset: Dataset) -> list[Finding]:
    """Samples with the same content: the same bytes under two names; and under two classes."""
    targets = dataset.targets
    groups = [g for g in _by_content(dataset).values() if len(g) > 1]
    findings = []
    torn = [g for g in groups if targets is not None and len({targets[i] for i in g}) > 1]
    if torn:
        what = f"{len(torn)} images are in several classes"
        where = tuple(" = ".join(dataset.ids[i] for i in g) for g in torn)
        findings.append(Finding("error", "labels", what, where, "keep the one with the right class"))
    same = [g for g in groups if g not in torn]
    if same:
        copies = sum(len(g) - 1 for g in same)
        where = tuple(" = ".join(dataset.ids[i] for i in g) for g in same)
        what = f"{copies} samples are exact copies of others"
        findings.append(Finding("warning", "duplicates", what, where, "remove them: they count twice"))
    return findings


def check_overlap(dataset: Dataset, against: Dataset, *, name: str) -> list[Finding]:
    """Samples whose content is in `against`, called `name`, too."""
    other = _by_content(against)
    shared = [
        f"{dataset.ids[i]} = {against.ids[other[content][0]]}"
        for content, group in _by_content(dataset).items()
        if content in other
        for i in group
    ]
    if not shared:
        return []
    what = f"{len(shared)} of {len(dataset)} samples are also in {name}"
    fix = "separate calibration and validation data: INT8 looks better on images used for calibration"
    return [Finding("error", "overlap", what, tuple(shared), fix)]


def check_classes(dataset: Dataset, num_scores: int | None) -> list[Finding]:
    """Balance, empty classes, and as many classes as the model scores (`num_scores`, None where that is not known)."""
    if dataset.targets is None:
        return []
    sizes = Counter(dataset.targets)
    names = list(dataset.classes)
    findings = []
    if empty := tuple(names[i] for i in range(len(names)) if not sizes[i]):
        findings.append(Finding("warning", "classes", f"{len(empty)} classes have no sample", empty, "add samples"))
    rare, common = min(sizes.values()), max(sizes.values())
    if common >= _IMBALANCE * rare:
        where = tuple(f"{_class_name(names, i)}: {n}" for i, n in sorted(sizes.items(), key=lambda pair: pair[1]))
        what = f"classes have from {rare} to {common} samples"
        fix = "calibrate balances the classes; accuracy is measured on this mixture"
        findings.append(Finding("warning", "balance", what, where, fix))
    if num_scores is None:
        return findings
    if max(sizes) >= num_scores:
        where = tuple(_class_name(names, i) for i in sorted(sizes) if i >= num_scores)
        what = f"labels go up to {max(sizes)}, but the model scores {num_scores} classes, 0 to {num_scores - 1}"
        fix = "pass the class names in the model's order with --classes, or labels from 0"
        findings.append(Finding("error", "classes", what, where, fix))
    elif names and len(names) < num_scores:
        what = f"the data has {len(names)} of the {num_scores} classes that the model scores: numbered by name"
        fix = "pass the class names in the model's order with --classes"
        if of_parts := remedy_for_parts(names):
            fix = of_parts
        elif len(names) == 1:
            fix = f"pass the folder with a sub-folder for each class as --data, or else {fix}"
        findings.append(Finding("warning", "classes", what, (), fix))
    return findings


def _flat(array: Array, preprocessing: Preprocessing) -> npt.NDArray[np.bool_]:
    """[N] whether each channel of the sample is one value."""
    if preprocessing.function is not None:
        rows = array.reshape(len(array), -1)
        return np.asarray(rows.min(axis=1) == rows.max(axis=1))
    pixels = (2, 3) if preprocessing.layout == "NCHW" else (1, 2)
    return np.asarray((array.min(axis=pixels) == array.max(axis=pixels)).all(axis=1))


def _describe_files(
    dataset: Dataset, unreadable: frozenset[str]
) -> tuple[list[Finding], dict[str, int], tuple[tuple[int, int], tuple[int, int]] | None]:
    """Sizes and modes from the headers of image files."""
    if not isinstance(dataset, ImageFiles):
        return [], {}, None
    modes: defaultdict[str, list[str]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}
    for path, name in zip(dataset.paths, dataset.ids, strict=True):
        if name in unreadable:
            continue
        with Image.open(image_source(path), formats=READ_FORMATS) as image:
            sizes[name] = image.size
            modes[_mode(image)].append(name)
    if not sizes:
        return [], {}, None
    ordered = sorted(set(sizes.values()), key=lambda size: size[0] * size[1])
    findings = _check_modes(modes, dataset.preprocessing)
    if dataset.preprocessing.function is None:
        findings = _check_sizes(sizes, dataset.preprocessing) + findings
    return findings, {mode: len(names) for mode, names in modes.items()}, (ordered[0], ordered[-1])


def _mode(image: Image.Image) -> str:
    return "PA" if image.mode == "P" and "transparency" in image.info else image.mode


def _check_sizes(sizes: dict[str, tuple[int, int]], preprocessing: Preprocessing) -> list[Finding]:
    findings = []
    least = min(preprocessing.size) / 2
    if tiny := tuple(f"{n}: {w}x{h}" for n, (w, h) in sizes.items() if min(w, h) < least):
        what = f"{len(tiny)} images are smaller than half the model's input of {'x'.join(map(str, preprocessing.size))}"
        findings.append(Finding("warning", "size", what, tiny, "use the originals: an enlarged image is blurred"))
    effect = {"stretch": "distorted", "crop": "mostly cut off", "letterbox": "mostly padding"}.get(preprocessing.resize)
    if effect and (long := tuple(f"{n}: {w}x{h}" for n, (w, h) in sizes.items() if max(w, h) > _ASPECT * min(w, h))):
        what = f"{len(long)} images have an aspect ratio above {_ASPECT:g}:1: {effect}"
        findings.append(Finding("warning", "aspect", what, long, "check them, or choose another --resize"))
    return findings


def _check_modes(modes: dict[str, list[str]], preprocessing: Preprocessing) -> list[Finding]:
    findings = []

    def add(severity: Severity, chosen: Iterable[str], words: str, fix: str) -> None:
        names = tuple(name for mode in chosen for name in modes.get(mode, []))
        if names:
            findings.append(Finding(severity, "color", f"{len(names)} images {words}", names, fix))

    add("note", sorted(_TRANSPARENT), "have transparency, which is dropped", "flatten them if that changes the picture")
    add("note", sorted(_SIXTEEN_BITS), "have 16-bit grays, which are divided by 257", "check that all 16 bits are used")
    add("warning", ["F"], "contain floats, which are read as 0 to 255", "save them with 8 bits")
    add("warning", ["CMYK", "LAB", "YCbCr", "HSV"], "are converted to RGB without a color profile", "save them as RGB")
    if preprocessing.color != "L" and set(modes) - {"L", "LA", "1"}:
        add("note", ["L", "LA", "1"], "are grayscale among color images", "fine if the deployed model sees such images")
    return findings


def _check_range(dataset: Dataset, facts: DataFacts) -> list[Finding]:
    """Data that hardly use the range: floats from 0 to 1 saved as 8 bits, black frames, raw pixels in float arrays."""
    if len(facts.unreadable) == len(dataset):
        return []
    p = dataset.preprocessing
    if p is None:
        if facts.minimum >= 0 and 2 < facts.maximum <= 255 and facts.maximum > 64:
            what = f"the arrays contain values from {facts.minimum:g} to {facts.maximum:g}, like unscaled pixels"
            return [
                Finding("note", "range", what, (), "save them preprocessed: arrays are passed to the model unchanged")
            ]
        return []
    if p.function is not None:
        return []
    levels = (facts.maximum - facts.minimum) * min(p.std) / p.scale
    if levels < _FEW_LEVELS:
        what = f"the inputs cover only {facts.minimum:g} to {facts.maximum:g} of what pixels from 0 to 255 would give"
        return [Finding("warning", "range", what, (), "check the images: their brightness is almost uniform")]
    return []


def _check_count(readable: int) -> list[Finding]:
    if readable < _FEW:
        what = f"only {readable} samples: too few to calibrate well"
        return [Finding("warning", "number", what, (), "100 to 500 are recommended")]
    if readable < _SOME:
        what = f"{readable} samples are few for calibration"
        return [Finding("note", "number", what, (), "100 to 500 are recommended")]
    return []


def _by_content(dataset: Dataset) -> dict[str, list[int]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    _ = dataset.fingerprint  # hashes all contents by several threads; they are kept
    for i in range(len(dataset)):
        groups[content_hash(dataset, i)].append(i)
    groups.pop("unreadable", None)
    return groups


def _class_name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else str(index)
