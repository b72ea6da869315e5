"""A folder of images, read recursively; sub-folders become classes. Decoding is left to `image_files`."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.image_decoding import IMAGE_SUFFIXES, UNREAD
from quantkit.datasets.image_files import ImageFiles, name_samples
from quantkit.datasets.remote_path import Source
from quantkit.errors import DatasetError
from quantkit.machine import file_status, persistently
from quantkit.types import Preprocessing, TensorSpec


def open_image_folder(
    folder: Source, spec: TensorSpec, *, preprocessing: Preprocessing, classes: Sequence[str] | None = None
) -> ImageFiles:
    """Finds the images of a folder and its sub-folders, in the order of their relative paths.

    Hidden files and folders are left out; links are followed, but not in circles. Where every image lies in a
    sub-folder, the first level of sub-folders are the classes: their index is the sorted order of their names, or the
    name itself where all are numbers, or the place in `classes`. A class without an image keeps its index.

    Args:
        folder: where to look.
        spec: the model's only input.
        preprocessing: how an image becomes that input.
        classes: names by index, instead of the order of the folders.

    Raises:
        DatasetError: no image there, a folder that cannot be listed, or one that is not in `classes`.
    """
    files = _list_files(folder)
    images = _images(files)
    if not images:
        raise DatasetError(_explain_no_image(folder, files))
    targets: list[int] | None = None
    names: tuple[str, ...] = ()
    if all("/" in image for image in images):
        of_image = [image.partition("/")[0] for image in images]
        # A folder of other things (annotations) is no class; an empty one is, or the indices after it would shift.
        others = {f.partition("/")[0] for f in files if "/" in f} - set(of_image)
        folders = [f for f in _folders(folder, files) if f not in others]
        indices, names = index_labels({f: f"folder {folder / f}" for f in folders}, classes)
        targets = [indices[f] for f in of_image]
    return ImageFiles(
        kind="image folder",
        paths=[folder / image for image in images],
        ids=name_samples(images),
        targets=targets,
        classes=names,
        input_name=spec.name,
        preprocessing=preprocessing,
        remarks=describe_left_out(_others(files)),
    )


def list_image_files(folder: Source) -> list[str]:
    """Relative paths, with "/", of the images of a folder and its sub-folders, sorted."""
    return _images(_list_files(folder))


def _list_files(folder: Source) -> list[str]:
    return sorted(walk(folder)) if isinstance(folder, Path) else folder.walk()


def _images(files: Sequence[str]) -> list[str]:
    return [f for f in files if PurePosixPath(f).suffix.lower() in IMAGE_SUFFIXES]


def walk(root: Path) -> Iterator[str]:
    """Relative paths, with "/", of all files that are not hidden, and of links to nothing.

    Links are followed, but not in circles, and to each folder once in each folder of the first level: however links
    are laid, there is an end.
    """
    start = file_status(root)
    stack = [("", frozenset([_identity(start)] if start else ()), False)]
    linked: set[tuple[str, tuple[int, int]]] = set()
    while stack:
        prefix, ancestors, is_linked = stack.pop()
        found = []
        for name in sorted(_list(root / prefix)):
            path, relative = root / prefix / name, f"{prefix}{name}"
            status = file_status(path)
            if status is None:
                if os.path.islink(path):
                    yield relative  # reading it reports what would be lost silently
            elif stat.S_ISDIR(status.st_mode):
                identity, by_link = _identity(status), is_linked or os.path.islink(path)
                place = (relative.partition("/")[0], identity)
                if identity not in ancestors and not (by_link and place in linked):
                    found.append((f"{relative}/", ancestors | {identity}, by_link))
                    linked |= {place} if by_link else set()
            elif stat.S_ISREG(status.st_mode):
                yield relative
        stack += reversed(found)


def _folders(root: Source, files: Sequence[str]) -> list[str]:
    if not isinstance(root, Path):  # there are no empty ones
        return sorted({file.partition("/")[0] for file in files if "/" in file})
    return sorted(name for name in _list(root) if os.path.isdir(root / name))


def _list(folder: Path) -> list[str]:
    try:
        names = persistently(lambda: os.listdir(folder), f"list {folder}")
    except OSError as error:
        raise DatasetError(f"cannot list {folder}: {error.strerror}") from error
    return [name for name in names if not name.startswith(".")]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _explain_no_image(folder: Source, files: Sequence[str]) -> str:
    if not files:
        return f"{folder} is empty: --data needs images ({' '.join(IMAGE_SUFFIXES)})"
    found = count_suffixes(PurePosixPath(f).suffix for f in files)
    return f"{folder} holds no image ({' '.join(IMAGE_SUFFIXES)}); found: {found}"


def _others(files: Sequence[str]) -> list[str]:
    suffixes = [PurePosixPath(f).suffix for f in files]
    return [suffix for suffix in suffixes if suffix.lower() not in IMAGE_SUFFIXES]


def describe_left_out(suffixes: Sequence[str]) -> tuple[str, ...]:
    """A sentence that counts files which are no samples by their suffixes, if there are any."""
    return (f"left out, not readable as images: {count_suffixes(suffixes)}",) if suffixes else ()


def count_suffixes(suffixes: Iterable[str]) -> str:
    """As "12 .heic (pip install pillow-heif), 3 .txt", the most common first."""
    counts = Counter(suffix.lower() or "without an extension" for suffix in suffixes)
    more = f" and {len(counts) - 5} more suffixes" if len(counts) > 5 else ""
    counted = [
        f"{count} {suffix}" + (f" ({UNREAD[suffix]})" if suffix in UNREAD else "")
        for suffix, count in counts.most_common(5)
    ]
    return ", ".join(counted) + more
