"""Samples in tars, as WebDataset lays them out: the files of one key are a sample."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.fingerprint import count_cpus
from quantkit.datasets.image_decoding import IMAGE_SUFFIXES
from quantkit.datasets.image_files import ImageFiles, name_samples
from quantkit.datasets.image_folder import count_suffixes, describe_left_out, list_image_files
from quantkit.datasets.remote_path import Source, locate
from quantkit.datasets.tar_index import MOST_INDEXES, TarIndex, TarMember, index_tar, is_tar, tell_bytes
from quantkit.errors import DatasetError
from quantkit.progress import show_progress
from quantkit.types import PathLike, Preprocessing, TensorSpec
from quantkit.types.options import ImageOptions

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_TARS = 1_000_000


@dataclass(frozen=True)
class TarSamples:
    """The samples of some tars.

    Attributes:
        members: a file for each sample.
        names: of these files, below the folder of the tars.
        targets: class index of each, None without labels.
        classes: class names by index, empty where they are not known.
        others: what follows the keys of the other files.
    """

    members: Sequence[TarMember]
    names: Sequence[str]
    targets: list[int] | None
    classes: tuple[str, ...]
    others: Sequence[str]


def find_tars(data: Source) -> dict[str, Source]:
    """The tars that `data` names, by their names: a tar, all of a pattern such as ``train-{000..012}.tar``, or those of
    a folder without images; none where it is something else.

    Raises:
        DatasetError: a tar of a pattern is missing, or a pattern that cannot be.
    """
    if data.is_dir():
        inside: Iterator[Source] = data.iterdir()
        tars = sorted((p for p in inside if is_tar(p) and not p.name.startswith(".")), key=lambda p: p.name)
        return {} if tars and list_image_files(data) else {path.name: path for path in tars}
    if not is_tar(data):
        return {}
    if data.exists() or not _BRACES.search(str(data)):
        return {data.name: data} if data.exists() else {}
    paths = [Path(path) for path in _expand(str(data))] if isinstance(data, Path) else data.expand(_expand)
    if missing := [path for path in paths if not path.exists()]:
        raise DatasetError(f"{missing[0]} does not exist ({len(missing)} of the {len(paths)} tars that {data} names)")
    fixed = str(data).partition("{")[0]
    folder = max(fixed.rfind("/"), fixed.rfind(os.sep)) + 1
    return {str(path)[folder:].replace(os.sep, "/"): path for path in paths}


def index_ahead(data: PathLike, prepared: Preprocessing | ImageOptions | str | None, *, show: bool) -> None:
    """Makes the indexes of the tars that `data` names behind a bar: opening the data finds them made.

    A user's loader reads what it is given by itself.

    Raises:
        DatasetError: a tar that cannot be used.
    """
    if isinstance(prepared, ImageOptions) and prepared.loader is not None:
        return
    tars = find_tars(locate(data))
    if 0 < len(tars) <= MOST_INDEXES:
        total = sum(tar.stat().st_size if isinstance(tar, Path) else tar.size for tar in tars.values())
        with (
            show_progress(None, "indexing tars", total, show, in_bytes=True) as bar,
            ThreadPoolExecutor(count_cpus(), initializer=tell_bytes.set, initargs=(bar.update,)) as pool,
        ):
            list(pool.map(index_tar, tars.values()))


def holds_array_members(tars: Mapping[str, Source]) -> bool:
    """Whether the samples of tars are .npz files: there is one, and no image."""
    suffixes = {member.suffix.lower() for _, index in _indexed(tars) for member in index.members.values()}
    return ".npz" in suffixes and suffixes.isdisjoint(IMAGE_SUFFIXES)


def open_tar_images(
    tars: Mapping[str, Source], spec: TensorSpec, *, preprocessing: Preprocessing, classes: Sequence[str] | None = None
) -> ImageFiles:
    """The images of tars as a data set, in the order of their names.

    A class is the text of the ``.cls`` file that has the image's key; without such files, the first folder in the
    tars is the class where all images are in one. A folder that holds everything is none.

    Args:
        tars: by name.
        spec: the model's only input.
        preprocessing: how an image becomes that input.
        classes: names by index.

    Raises:
        DatasetError: a tar that cannot be used, no image, several for one key, or labels for a part of them.
    """
    found = read_tars(tars, IMAGE_SUFFIXES, classes)
    if not found.members:
        where = f"{next(iter(tars.values()))}{' and the other tars hold' if len(tars) > 1 else ' holds'}"
        raise DatasetError(f"{where} no image ({' '.join(IMAGE_SUFFIXES)}); found: {count_suffixes(found.others)}")
    return ImageFiles(
        kind="tar files",
        paths=found.members,
        ids=name_samples(found.names),
        targets=found.targets,
        classes=found.classes,
        input_name=spec.name,
        preprocessing=preprocessing,
        remarks=describe_left_out(found.others),
    )


def read_tars(tars: Mapping[str, Source], suffixes: Collection[str], classes: Sequence[str] | None) -> TarSamples:
    """The samples whose files have one of some suffixes. Raises as `open_tar_images`."""
    members: list[TarMember] = []
    names, others, labels = [], [], []
    for name, index in _indexed(tars):
        chosen = _choose(index, suffixes)
        members += chosen
        names += [f"{name}/{member.path}" for member in chosen]
        used = {member.path for member in chosen}
        others += [member.extension for path, member in index.members.items() if path not in used]
        labels += [index.labels.get(member.key) for member in chosen]
    if not any(label is not None for label in labels):
        labels = _top_folders(members)
    elif None in labels:
        raise DatasetError(f"{members[labels.index(None)]} has no .cls file, but others have one")
    places = {str(label): str(member) for label, member in zip(labels, members, strict=True) if label is not None}
    if not places:
        return TarSamples(members, names, None, (), others)
    indices, known = index_labels(places, classes)
    return TarSamples(members, names, [indices[str(label)] for label in labels], known, others)


def _indexed(tars: Mapping[str, Source]) -> list[tuple[str, TarIndex]]:
    with ThreadPoolExecutor(count_cpus()) as pool:
        return list(zip(tars, pool.map(index_tar, tars.values()), strict=True))


def _choose(index: TarIndex, suffixes: Collection[str]) -> list[TarMember]:
    """The file of each sample, in the order of their names: the only one of a suffix, or the only one that has no
    other extension (``1.jpg`` beside ``1.mask.png``).
    """
    groups: dict[str, list[TarMember]] = {}
    for _, member in sorted(index.members.items()):
        if member.suffix.lower() in suffixes:
            groups.setdefault(member.key, []).append(member)
    chosen = []
    for key, group in groups.items():
        plain = [member for member in group if member.extension.lower() in suffixes] or group
        if len(plain) > 1:
            extensions = ", ".join(member.extension for member in plain)
            raise DatasetError(
                f"{plain[0].archive}: sample {key!r} has several files ({extensions}): the part of a name before its "
                "first dot tells samples apart; keep one, or list extracted files in a .txt"
            )
        chosen += plain
    return chosen


def _top_folders(members: Sequence[TarMember]) -> list[str | None]:
    """The first folder of each, where all have one, below what is the first folder of them all."""
    parts = [PurePosixPath(member.path).parts[:-1] for member in members]
    while parts and all(parts) and len({folders[0] for folders in parts}) == 1:
        parts = [folders[1:] for folders in parts]
    return [folders[0] for folders in parts] if all(parts) else [None] * len(members)


def _expand(pattern: str) -> list[str]:
    """Every name of a pattern with braces, as Bash makes them: ``{08..10}`` and ``{a,b}``.

    >>> _expand("t-{08..10}.tar"), _expand("{a,b}/t.tar")
    (['t-08.tar', 't-09.tar', 't-10.tar'], ['a/t.tar', 'b/t.tar'])
    """
    pieces = _BRACES.split(pattern)  # every second one is from within braces
    choices = [[text] if number % 2 == 0 else list(_alternatives(text, pattern)) for number, text in enumerate(pieces)]
    if math.prod(map(len, choices)) > _MOST_TARS:
        raise DatasetError(f"{pattern} names more than {_MOST_TARS:,} tars")
    return ["".join(words) for words in itertools.product(*choices)]


def _alternatives(text: str, pattern: str) -> Iterator[str]:
    match = _RANGE.fullmatch(text)
    if match is None:
        yield from text.split(",")
        return
    first, last = match.groups()
    if not 0 <= int(last) - int(first) < _MOST_TARS:
        raise DatasetError(f"{pattern}: {{{text}}} must go up, to at most {_MOST_TARS:,} tars")
    is_padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    yield from (f"{number:0{width}}" for number in range(int(first), int(last) + 1))
