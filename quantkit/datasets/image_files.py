"""Images on disk as a data set: decoding one file, hashing it. Finding the files is left to folder and list."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from quantkit.datasets.fingerprint import compute_fingerprint
from quantkit.datasets.preprocess import preprocess, upright_size
from quantkit.errors import DatasetError
from quantkit.types import Array, Preprocessing, Sample

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Only these decoders are tried, whatever the name says: others run programs (EPS) or are rarely hardened.
READ_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_PIL_MODULES = re.compile(r"PIL\.")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A `Dataset` of image files for a model with one input.

    Attributes:
        kind: "image folder" or "image list".
        paths: where the files lie.
        ids: one unique name per sample, relative to the data's root, with "/".
        targets: class index per sample, None without labels.
        classes: class names by index, empty where there are none.
        input_name: the model's input.
        preprocessing: how an image becomes that input.
    """

    kind: str
    paths: Sequence[Path]
    ids: Sequence[str]
    targets: Sequence[int] | None
    classes: Sequence[str]
    input_name: str
    preprocessing: Preprocessing
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Decodes one file. Raises `DatasetError` naming it where it is not a whole image."""
        name = self.ids[index]
        target = None if self.targets is None else self.targets[index]
        array, size = _decode(self.paths[index], name, self.preprocessing)
        return Sample(id=name, inputs={self.input_name: array}, target=target, image_size=size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted pairs of id and SHA-256 of the file; independent of where the files lie."""
        return compute_fingerprint(self)

    def content_hash(self, index: int) -> str:
        """SHA-256 of the file's bytes, computed once; "unreadable" where the system refuses."""
        if index not in self._hashes:
            self._hashes[index] = _hash_file(self.paths[index])
        return self._hashes[index]


def name_samples(paths: Iterable[str]) -> list[str]:
    """Ids from relative paths: "/" between folders, composed Unicode, a number after a name that comes again."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        # File systems differ in how they store accents, and names need not be valid UTF-8 at all.
        name = unicodedata.normalize("NFC", os.fsencode(path).decode("utf-8", "replace"))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _decode(path: Path, name: str, preprocessing: Preprocessing) -> tuple[Array, tuple[int, int]]:
    """The model input, and (height, width) of the image."""
    silence_pillow()
    try:
        # No draft mode: decoding a JPEG at a fraction of its size is faster, but gives other pixels.
        with Image.open(path, formats=READ_FORMATS) as image:
            return preprocess(image, preprocessing), upright_size(image)
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise DatasetError(f"{name}: {_explain_unidentified(path)}") from None
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read ({error.strerror or first_line(error)})") from error
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything, bombs included
        raise DatasetError(f"{name}: cannot be read ({first_line(error)})") from error


def silence_pillow() -> None:
    """Keeps the warnings that Pillow's own modules raise (large images, odd tags) off stderr.

    `warnings.catch_warnings` is not safe in threads, so the filter stays; it concerns no code outside Pillow.
    """
    wanted = ("ignore", None, Warning, _PIL_MODULES, 0)
    if not warnings.filters or warnings.filters[0] != wanted:
        warnings.filterwarnings("ignore", category=Warning, module=_PIL_MODULES.pattern)


def _explain_unidentified(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(32)
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image: run git lfs pull"
    return f"not an image ({', '.join(READ_FORMATS)} are read)"


def first_line(error: BaseException) -> str:
    """Of what a decoder says."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return "unreadable"  # the sample is reported when it is read; what is missing is part of the identity
    return digest.hexdigest()
