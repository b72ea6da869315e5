"""Images on disk as a data set: decoding one file, hashing it. Finding the files is left to folder and list."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image, UnidentifiedImageError, features

from quantkit.datasets.fingerprint import StoredFiles, compute_fingerprint
from quantkit.datasets.preprocess import preprocess, upright, upright_size
from quantkit.datasets.stored_files import Place
from quantkit.errors import DatasetError, QuantKitError, UnreadableSampleError
from quantkit.machine import is_machine_fault, persistently
from quantkit.types import Array, Preprocessing, Sample

UNREAD: dict[str, str] = {}
"""What reads the images of suffixes that nothing installed here reads."""


def _optional_formats() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Suffixes and formats that Pillow or a plugin reads here; what is missing goes to `UNREAD`."""
    suffixes: list[str] = []
    formats: list[str] = []
    if "avif" in features.get_supported_modules():  # older ones warn when they are asked
        suffixes.append(".avif")
        formats.append("AVIF")
    else:
        UNREAD[".avif"] = "pip install 'pillow>=11.3'"
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        suffixes += [".heic", ".heif"]
        formats.append("HEIF")
    else:
        UNREAD.update(dict.fromkeys((".heic", ".heif"), "pip install pillow-heif"))
    return tuple(suffixes), tuple(formats)


_OPTIONAL = _optional_formats()
IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *_OPTIONAL[0],
)
# Only these decoders are tried, whatever the name says: others run programs (EPS) or are rarely hardened.
READ_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", *_OPTIONAL[1])
Box = tuple[float, float, float, float]
_PIL_MODULES = re.compile(r"PIL\.")


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
        boxes: left, top, right, bottom of the part that is the sample, in pixels of the upright image; None for all.
        function: that prepares an image instead, where `preprocessing` names one.
        remarks: what a user should know of the files, one sentence each.
        doubts: what looks like a mistake, likewise.
    """

    kind: str
    paths: Sequence[Place]
    ids: Sequence[str]
    targets: Sequence[int] | None
    classes: Sequence[str]
    input_name: str
    preprocessing: Preprocessing
    boxes: Sequence[Box] | None = None
    function: Callable[[Image.Image, str], Array] | None = None
    remarks: Sequence[str] = ()
    doubts: Sequence[str] = ()
    _files: StoredFiles = field(default_factory=StoredFiles, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Decodes one file.

        Raises:
            DatasetError: naming it where it is not a whole image.
            ChangedDataError: it is not what was hashed or decoded before.
            MachineError: it could not be read or decoded for want of memory, or by a fault of the disk.
        """
        return persistently(lambda: self._decode(index), f"decode {self.paths[index]}")

    def _decode(self, index: int) -> Sample:
        name = self.ids[index]
        target = None if self.targets is None else self.targets[index]
        with self._open(index) as opened:
            image = opened if self.boxes is None else _crop(opened, self.boxes[index])
            array = preprocess(image, self.preprocessing) if self.function is None else self.function(image, name)
            size = upright_size(image)
        return Sample(id=name, inputs={self.input_name: array}, target=target, image_size=size)

    @contextmanager
    def _open(self, index: int) -> Iterator[Image.Image]:
        """The whole image of a file; what is raised inside becomes an `UnreadableSampleError` that names the sample."""
        silence_pillow()
        path, name, content = self.paths[index], self.ids[index], b""
        try:
            content = self._files.read(path)
            # No draft mode: decoding a JPEG at a fraction of its size is faster, but gives other pixels.
            with Image.open(io.BytesIO(content), formats=READ_FORMATS) as image:
                image.load()
                yield image
        except DatasetError as error:
            raise UnreadableSampleError(name, str(error)) from None
        except QuantKitError:  # of the user's own code, or of the machine: no damage of the file
            raise
        except UnidentifiedImageError:
            suffix = path.suffix.lower()
            hint = f"; {suffix}: {UNREAD[suffix]}" if suffix in UNREAD else ""
            found = describe_content(content[:32], f"an image ({', '.join(READ_FORMATS)} are read{hint})")
            raise UnreadableSampleError(name, found) from None
        except Exception as error:  # on damaged files Pillow's decoders raise nearly anything, bombs included
            if is_machine_fault(error):
                raise
            reason = isinstance(error, OSError) and error.strerror
            raise UnreadableSampleError(name, f"cannot be read ({reason or first_line(error)})") from error

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted pairs of id and SHA-256 of the file; independent of where the files lie."""
        return compute_fingerprint(self)

    def content_hash(self, index: int) -> str:
        """SHA-256 of the file's bytes, computed once; "unreadable" where the system refuses."""
        found = self._files.hash(self.paths[index])
        if self.boxes is None:
            return found
        return hashlib.sha256(f"{found} {self.boxes[index]}".encode()).hexdigest()

    def picture(self, index: int) -> Image.Image:
        """The upright image, or its part, in its own colors. Raises nearly anything on a damaged file."""
        with Image.open(io.BytesIO(self._files.read(self.paths[index])), formats=READ_FORMATS) as opened:
            return upright(opened) if self.boxes is None else _crop(opened, self.boxes[index])


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


def _crop(image: Image.Image, box: Box) -> Image.Image:
    """The part of the upright image that lies in the box, rounded to whole pixels."""
    image = upright(image)
    left, top = (max(0, round(edge)) for edge in box[:2])
    right, bottom = (min(size, round(edge)) for edge, size in zip(box[2:], image.size, strict=True))
    if left >= right or top >= bottom:
        raise DatasetError(f"box {box} holds no pixel of the image, {image.width} x {image.height}")
    part = image.crop((left, top, right, bottom))
    part.info = {key: value for key, value in image.info.items() if key == "transparency"}  # no second orientation
    return part


def silence_pillow() -> None:
    """Keeps the warnings that Pillow's own modules raise (large images, odd tags) off stderr.

    `warnings.catch_warnings` is not safe in threads, so the filter stays; it concerns no code outside Pillow.
    """
    wanted = ("ignore", None, Warning, _PIL_MODULES, 0)
    if not warnings.filters or warnings.filters[0] != wanted:
        warnings.filterwarnings("ignore", category=Warning, module=_PIL_MODULES.pattern)


def describe_content(start: bytes, expected: str) -> str:
    """What a file is that is not what was expected, by its first bytes."""
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image: run git lfs pull"
    return f"not {expected}"


def first_line(error: BaseException) -> str:
    """Of what a decoder says."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
