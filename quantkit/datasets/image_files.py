"""Images on disk as a data set. Finding the files is left to folder and list, decoding to `image_decoding`."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from quantkit.datasets.decoder_processes import Reply, Request, decode_ahead
from quantkit.datasets.fingerprint import StoredFiles, compute_fingerprint
from quantkit.datasets.image_decoding import (
    READ_FORMATS,
    UNREAD,
    Box,
    Pixels,
    decode_pixels,
    describe_content,
    first_line,
    opened_image,
)
from quantkit.datasets.preprocess import PixelInput, upright, upright_size
from quantkit.datasets.stored_files import Place
from quantkit.errors import DatasetError, QuantKitError, UnreadableSampleError
from quantkit.machine import is_machine_fault, persistently
from quantkit.types import Array, Preprocessing, Sample


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
    _ahead: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Decodes one file.

        Raises:
            DatasetError: naming it where it is not a whole image.
            ChangedDataError: it is not what was hashed or decoded before.
            MachineError: it could not be read or decoded for want of memory, or by a fault of the disk.
        """
        replies: dict[int, Reply | None] = getattr(self._ahead, "replies", {})
        doubted = () if index in replies else UnreadableSampleError  # a process has failed at it: that counts as once
        reply = replies.pop(index, None)
        if reply is None:
            what = f"decode {self.paths[index]}"
            inputs, size = persistently(lambda: self._decode(index), what, doubted=doubted)
        else:
            content_hash, pixels = reply
            if content_hash is not None:
                self._files.check(self.paths[index], content_hash)
            inputs, size = self._prepared(pixels)
        target = None if self.targets is None else self.targets[index]
        return Sample(id=self.ids[index], inputs=inputs, target=target, image_size=size)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Decodes several files at once for `__getitem__` in the same thread, where a process does that for it."""
        requests: dict[int, Request] = {}
        for index in indices if self.function is None else ():
            place = self.paths[index]
            with suppress(Exception):  # raised again when the sample is asked for
                source = place if isinstance(place, Path) else self._files.read(place)
                requests[index] = (source, self._box(index), self.preprocessing)
        self._ahead.replies = dict(zip(requests, decode_ahead(list(requests.values())), strict=False))

    def _decode(self, index: int) -> tuple[Mapping[str, Array], tuple[int, int]]:
        box = self._box(index)
        with self._reading(index) as content:
            if self.function is None:
                return self._prepared(decode_pixels(content, box, self.preprocessing))
            with opened_image(content, box) as image:
                return {self.input_name: self.function(image, self.ids[index])}, upright_size(image)

    def _prepared(self, pixels: Pixels) -> tuple[PixelInput, tuple[int, int]]:
        levels, size = pixels
        return PixelInput(self.input_name, levels, self.preprocessing), size

    def _box(self, index: int) -> Box | None:
        return None if self.boxes is None else self.boxes[index]

    @contextmanager
    def _reading(self, index: int) -> Iterator[bytes]:
        """The content of a file; what is raised inside becomes an `UnreadableSampleError` that names the sample."""
        path, name, content = self.paths[index], self.ids[index], b""
        try:
            content = self._files.read(path)
            yield content
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
        with opened_image(self._files.read(self.paths[index]), self._box(index)) as image:
            return upright(image)


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
