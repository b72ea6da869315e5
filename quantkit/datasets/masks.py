"""Segmentation masks next to a data set: which file belongs to which sample, and the class of every pixel in it."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from quantkit.datasets.fingerprint import StoredFiles, count_cpus, fingerprint_of
from quantkit.datasets.image_decoding import describe_content, first_line, silence_pillow
from quantkit.datasets.image_folder import walk
from quantkit.datasets.mask_map import MaskMap, parse_mask_map
from quantkit.errors import DatasetError, QuantKitError
from quantkit.machine import is_machine_fault, persistently
from quantkit.types import Array, Dataset, MaskAnnotations

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG specification, section 11.2.1 (IHDR): bit depth and color type follow signature, length, type, width and height.
_BIT_DEPTH, _COLOR_TYPE, _HEADER_BYTES = 24, 25, 26
_GREY = 0
_LOSSY = (".jpg", ".jpeg", ".jpe", ".webp")


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """`MaskAnnotations` of PNG files, decoded on access.

    Attributes:
        source: the folder.
        paths: by sample id.
        classes: class names by index, empty where they are not known.
        ignored: the value of pixels that count for nothing, or None.
        reduce_zero_label: whether the files count classes from 1, and 0 is ignored.
        mapping: what values or colors mean, where they are no class indices.
    """

    source: str
    paths: Mapping[str, Path]
    classes: Sequence[str] = ()
    ignored: int | None = 255
    reduce_zero_label: bool = False
    mapping: MaskMap | None = None
    _files: StoredFiles = field(default_factory=StoredFiles, repr=False)

    def __getitem__(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """Class of every pixel, uint8 [height, width]. Raises `DatasetError` naming the file."""
        if sample_id not in self.paths:
            raise DatasetError(f"{self.source}: no mask was found for {sample_id!r}")
        path = self.paths[sample_id]
        if self.mapping is not None:
            keys = _colors(path, self._files) if self.mapping.is_color else _values(path, self._files)
            return self.mapping(keys, self.ignored, str(path))
        mask = _class_indices(path, self._files)
        if self.reduce_zero_label and self.ignored is not None:
            kept = (mask != 0) & (mask != self.ignored)
            mask = np.where(kept, mask - np.uint8(1), np.uint8(self.ignored))
        return mask

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted pairs of sample id and SHA-256 of its file, and over what the values mean."""
        with ThreadPoolExecutor(count_cpus()) as pool:
            hashes = list(pool.map(self._files.hash, self.paths.values()))
        meaning = ("values", f"ignored {self.ignored}, from {int(self.reduce_zero_label)}")
        mapped = [] if self.mapping is None else [("map", self.mapping.text)]
        return fingerprint_of([*zip(self.paths, hashes, strict=True), meaning, *mapped])


def open_masks(
    labels: Path,
    dataset: Dataset,
    *,
    classes: Sequence[str] | None = None,
    ignored: int | None = 255,
    rename: tuple[str, str] | None = None,
    reduce_zero_label: bool = False,
    mapping: str | None = None,
) -> MaskAnnotations:
    """Finds the mask of every sample: the PNG file of the same relative path below `labels`.

    A mask is gray or has a palette (the index is the class) with up to 8 bits, or is gray with 16 bits and values up
    to 255; one with three equal channels is taken as gray. Nothing is read before it is asked for.

    Args:
        labels: folder of the masks.
        dataset: whose samples need one; `ids` tell their paths.
        classes: names by index.
        ignored: the value of pixels that count for nothing; None or -1 if every pixel counts.
        rename: how the name of a mask differs from its image's, both without extension: the end of the image's name
            and what stands there instead. ("_leftImg8bit", "_gtFine_labelTrainIds") for Cityscapes, ("", "_mask") where
            something is appended.
        reduce_zero_label: for files that count classes from 1 (ADE20K): 0 becomes `ignored`, and n becomes n - 1.
        mapping: what values or colors mean, as `quantkit.datasets.mask_map.parse_mask_map` reads it.

    Raises:
        DatasetError: no such folder, or a sample without a mask.
    """
    if not labels.is_dir():
        what = "is a file" if labels.exists() else "does not exist"
        raise DatasetError(f"{labels} {what}: --labels takes the folder of the masks (PNG)")
    ignored = None if ignored == -1 else ignored
    if ignored is not None and not 0 <= ignored <= 255:
        raise DatasetError(f"--ignored {ignored} must be a value from 0 to 255, or -1 if every pixel counts")
    if reduce_zero_label and ignored is None:
        raise DatasetError("masks that count classes from 1 need an ignored value, which 0 becomes: 255, for example")
    files = sorted(walk(labels))
    masks = {_without_suffix(file): labels / file for file in files if file.lower().endswith(".png")}
    wanted = {sample: _mask_name(sample, rename) for sample in dataset.ids}
    if missing := [sample for sample, name in wanted.items() if name not in masks]:
        raise DatasetError(_explain_missing(labels, files, wanted, missing))
    return MaskFiles(
        source=str(labels),
        paths={sample: masks[name] for sample, name in wanted.items()},
        classes=tuple(classes or ()),
        ignored=ignored,
        reduce_zero_label=reduce_zero_label,
        mapping=None if mapping is None else parse_mask_map(mapping),
    )


def _without_suffix(path: str) -> str:
    # As `name_samples` makes ids; a number after an id that comes again is part of the suffix.
    return unicodedata.normalize("NFC", PurePosixPath(path).with_suffix("").as_posix())


def _mask_name(sample: str, rename: tuple[str, str] | None) -> str:
    name = _without_suffix(sample)
    if rename is None:
        return name
    old, new = rename
    if not name.endswith(old):
        raise DatasetError(f"the name of {sample!r} does not end in {old!r}, which its mask has {new!r} for")
    return name.removesuffix(old) + new


def _explain_missing(labels: Path, files: Sequence[str], wanted: Mapping[str, str], missing: Sequence[str]) -> str:
    name = wanted[missing[0]]
    text = f"{labels} holds no mask for {missing[0]!r}: {name}.png is not there"
    if len(missing) > 1:
        text += f", nor are those of {len(missing) - 1} more of {len(wanted)} samples"
    stem = PurePosixPath(name).name
    for file in files:
        found = PurePosixPath(_without_suffix(file))
        if found.as_posix() == name and file.lower().endswith(_LOSSY):
            return f"{text}; {file} is not a PNG, and lossy compression changes classes"
        if found.name == stem and file.lower().endswith(".png"):
            return f"{text}, but {file} is: paths below --labels must be those below --data"
    beginning = [file for file in files if _without_suffix(file).startswith(name)]
    if beginning:
        return f"{text}, but {beginning[0]} is: declare what the names of masks have at their end"
    return text


def _class_indices(path: Path, files: StoredFiles) -> npt.NDArray[np.uint8]:
    values = _values(path, files)
    if values.size and (highest := int(values.max())) > 255:
        raise DatasetError(f"{path}: holds the value {highest}, and class indices go up to 255: is it an instance map?")
    return values.astype(np.uint8)


def _values(path: Path, files: StoredFiles) -> npt.NDArray[np.integer]:
    """Gray values or palette indices."""
    pixels, mode, header = persistently(lambda: _decode(path, files), f"decode {path}")
    values = _one_channel(path, np.asarray(pixels))
    if mode == "L" and header[_COLOR_TYPE] == _GREY and header[_BIT_DEPTH] < 8:
        # Pillow spreads 2- and 4-bit greys over 0 to 255; the class is what the file holds.
        values = values // (255 // ((1 << header[_BIT_DEPTH]) - 1))
    return values


def _colors(path: Path, files: StoredFiles) -> npt.NDArray[np.integer]:
    """Colors, those of a palette too, as ``red << 16 | green << 8 | blue``."""
    image, _, _ = persistently(lambda: _decode(path, files), f"decode {path}")
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int64), -1, 0)
    packed: npt.NDArray[np.int64] = red << 16 | green << 8 | blue
    return packed


def _decode(path: Path, files: StoredFiles) -> tuple[Image.Image, str, bytes]:
    """The image of a PNG, its mode and the beginning of the file."""
    silence_pillow()
    try:
        content = files.read(path)
        header = content[:_HEADER_BYTES]
        if not header.startswith(_PNG_SIGNATURE):
            raise DatasetError(f"{path}: {describe_content(header, 'a PNG image')}")
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            image.load()
            return image, image.mode, header
    except QuantKitError:
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything, bombs included
        if is_machine_fault(error):
            raise
        reason = isinstance(error, OSError) and error.strerror
        raise DatasetError(f"{path}: cannot be read ({reason or first_line(error)})") from error


def _one_channel(path: Path, pixels: Array) -> npt.NDArray[np.integer]:
    """[height, width] of what was decoded; alpha is dropped."""
    values: npt.NDArray[np.integer] = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels  # type: ignore[assignment]
    if values.ndim == 2:
        return values
    colors = values[:, :, : 1 if values.shape[2] == 2 else 3]
    differing = (colors[:, :, 1:] != colors[:, :, :1]).any(axis=2)
    if differing.any():
        row, column = np.unravel_index(differing.argmax(), differing.shape)
        shown = ", ".join(str(v) for v in colors[row, column])
        raise DatasetError(
            f"{path}: is in color ({shown} at row {row}, column {column}), and what class a color means is not known: "
            "say it with --mask-map, or save it with class indices, in gray or with a palette"
        )
    return colors[:, :, 0]
