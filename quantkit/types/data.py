"""What a model is fed: preprocessing, samples, batches, data sets."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from quantkit.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[np.generic]"
PathLike = str | os.PathLike[str]
ColorOrder = Literal["RGB", "BGR", "L"]
Resize = Literal["stretch", "crop", "letterbox", "height", "limit"]
PadPosition = Literal["center", "top-left"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of an input or output. A dimension is an int, a symbol's name, or None."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model input: ``(resized pixels * scale - mean) / std``, pixels from 0 to 255.

    The same definition serves calibration, evaluation and latency measurement, and is stored with every artifact.

    Attributes:
        size: (height, width) in pixels that the model takes; where the size varies, what no image exceeds.
        color: order of the channels; "L" is one gray channel.
        resize: "stretch" to `size`; "crop": shorter side to `shorter_side`, then the center; "letterbox": fit and pad;
            "height": to the height of `size`, the width by aspect, at most that of `size`, and padded; "limit":
            shrunk until it fits into `size`, each side rounded to `multiple_of`, not padded.
        shorter_side: pixels, for "crop" only.
        interpolation: Pillow's filter.
        pad_value: 0 to 255, for "letterbox" and "height".
        scale: factor applied first.
        mean: subtracted after scaling, one value for each channel or one for all.
        std: divisor, likewise.
        layout: "NCHW" or "NHWC".
        dtype: numpy name of the model input's type.
        pad_position: of the image in the padding.
        multiple_of: sides of "limit" are rounded to it; "letterbox" (both sides) and "height" (the width) are then
            padded up to it, instead of to `size`.
        pixel_max: the value that is white in images of more than 8 bits; None is 65535 for integers, 255 for floats.
        function: a user's "file.py:name" that does all of this instead; `size` is then (0, 0), and of the other fields
            `dtype` alone has a meaning.
        function_hash: SHA-256 of its source file.
    """

    size: tuple[int, int]
    color: ColorOrder = "RGB"
    resize: Resize = "stretch"
    shorter_side: int | None = None
    interpolation: Interpolation = "bilinear"
    pad_value: int = 114
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "NCHW"
    dtype: str = "float32"
    pad_position: PadPosition = "center"
    multiple_of: int | None = None
    function: str | None = None
    function_hash: str | None = None
    pixel_max: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in _PREPROCESSING_CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise DatasetError(f"preprocessing: {name} {value!r} is not one of {', '.join(allowed)}")
        if len(self.size) != 2 or min(self.size) < (1 if self.function is None else 0):
            raise DatasetError(f"preprocessing: size {self.size!r} must be two positive numbers, height and width")
        if self.resize == "crop":
            if self.shorter_side is None or self.shorter_side < max(self.size):
                raise DatasetError(
                    f"preprocessing: shorter_side {self.shorter_side!r} must be at least {max(self.size)}, "
                    "the larger side of the crop"
                )
        elif self.shorter_side is not None:
            raise DatasetError(f"preprocessing: shorter_side has no meaning with resize {self.resize!r}")
        if self.multiple_of is not None and self.resize not in _VARIABLE:
            raise DatasetError(f"preprocessing: multiple_of has no meaning with resize {self.resize!r}")
        if self.multiple_of is not None and not 1 <= self.multiple_of <= min(self.size):
            raise DatasetError(
                f"preprocessing: multiple_of {self.multiple_of} must be from 1 to {min(self.size)}, the smaller limit"
            )
        if self.pad_position != "center" and self.resize not in _PADDED:
            raise DatasetError(f"preprocessing: pad_position has no meaning with resize {self.resize!r}")
        if self.pixel_max is not None and not (math.isfinite(self.pixel_max) and self.pixel_max > 0):
            raise DatasetError(f"preprocessing: pixel_max {self.pixel_max} must be positive and finite")
        if not 0 <= self.pad_value <= 255:
            raise DatasetError(f"preprocessing: pad_value {self.pad_value} must be from 0 to 255")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DatasetError(f"preprocessing: scale {self.scale} must be positive and finite")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, self.channels) or not all(math.isfinite(v) for v in values):
                raise DatasetError(
                    f"preprocessing: {name} {values!r} must be a finite number for each channel of {self.color}, or one"
                )
        if any(v <= 0 for v in self.std):
            raise DatasetError(f"preprocessing: std {self.std!r} must be positive")
        if self.dtype not in ("float32", "float16", "float64", "uint8", "int8"):
            raise DatasetError(f"preprocessing: images cannot fill a model input of type {self.dtype}")

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.color == "L" else 3

    @property
    def varying(self) -> tuple[bool, bool]:
        """Whether the height, and whether the width of the input depends on the image."""
        if self.resize == "limit":
            return True, True
        return self.multiple_of is not None and self.resize != "height", self.multiple_of is not None

    def declared(self) -> dict[str, Any]:
        """The fields by name; those that came later only where they are set, so that older files stay as they are."""
        return {k: v for k, v in asdict(self).items() if k not in _LATER_FIELDS or v != _LATER_FIELDS[k]}


_PADDED = ("letterbox", "height")
_VARIABLE = ("letterbox", "height", "limit")
_LATER_FIELDS: dict[str, Any] = {
    "pad_position": "center",
    "multiple_of": None,
    "function": None,
    "function_hash": None,
    "pixel_max": None,
}
_PREPROCESSING_CHOICES: dict[str, tuple[str, ...]] = {
    "color": ("RGB", "BGR", "L"),
    "resize": ("stretch", "crop", "letterbox", "height", "limit"),
    "pad_position": ("center", "top-left"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "layout": ("NCHW", "NHWC"),
}


@dataclass(frozen=True)
class Sample:
    """One preprocessed sample: model inputs by name, without the batch dimension, and its class if known.

    `image_size` is (height, width) in pixels of the image that it was made from, turned as it is to be seen; None for
    arrays.
    """

    id: str
    inputs: Mapping[str, Array]
    target: int | None = None
    image_size: tuple[int, int] | None = None
    axes: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """N samples stacked. `inputs[name]` has shape [N, ...]; `targets` is int64 [N], None where labels are missing;
    `image_sizes` are (height, width) of the N images before preprocessing, None for arrays.
    """

    inputs: Mapping[str, Array]
    ids: tuple[str, ...]
    targets: npt.NDArray[np.int64] | None = None
    image_sizes: tuple[tuple[int, int], ...] | None = None
    axes: Mapping[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.inputs or not self.ids:
            raise DatasetError("a batch needs at least one input and one sample")
        for name, array in self.inputs.items():
            axis = self.axes.get(name, 0)
            if axis is not None and array.shape[axis : axis + 1] != (len(self.ids),):
                raise DatasetError(f"batch: input {name!r} has shape {array.shape} for {len(self.ids)} samples")
            if not array.flags.c_contiguous:
                raise DatasetError(f"batch: input {name!r} is not contiguous")
        if self.targets is not None and self.targets.shape != (len(self.ids),):
            raise DatasetError(f"batch: {self.targets.shape} targets for {len(self.ids)} samples")
        if self.image_sizes is not None and len(self.image_sizes) != len(self.ids):
            raise DatasetError(f"batch: {len(self.image_sizes)} image sizes for {len(self.ids)} samples")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Boxes:
    """M objects in one image, annotated or detected.

    Attributes:
        corners: float64 [M, 4]: left, top, right, bottom. In pixels of the image before preprocessing, or, in
            annotations that say so, as fractions of its width and height.
        classes: int64 [M], class indices.
        scores: float64 [M], confidence of detections; None for annotations.
        crowds: bool [M], annotations that stand for many objects and count neither as found nor as missed (COCO's
            iscrowd); None where there are none.
    """

    corners: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64] | None = None
    crowds: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.corners.shape != (count, 4) or self.classes.shape != (count,):
            raise DatasetError(f"boxes: corners of shape {self.corners.shape} for {self.classes.shape} classes")
        for name in ("scores", "crowds"):
            values = getattr(self, name)
            if values is not None and values.shape != (count,):
                raise DatasetError(f"boxes: {name} of shape {values.shape} for {count} boxes")

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class BoxAnnotations:
    """What is to be found in the images of a data set.

    Attributes:
        source: file or folder that they were read from, for messages.
        boxes: by sample id; every sample of the data set has an entry, an image without objects an empty one.
        classes: class names by index; empty where they are not known.
        is_relative: whether corners are fractions of the image's width and height (YOLO's format) instead of pixels.
        fingerprint: SHA-256 over the annotations, hexadecimal.
        image_sizes: (height, width) of the images that the annotations were made for, by sample id, where they say.
        notes: what was skipped, one sentence each.
    """

    source: str
    boxes: Mapping[str, Boxes]
    classes: tuple[str, ...]
    is_relative: bool
    fingerprint: str
    image_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class MaskAnnotations(Protocol):
    """Class of every pixel in the images of a data set, read on access, safe to read from several threads."""

    @property
    def source(self) -> str:
        """File or folder that they are read from, for messages."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names by index; empty where they are not known."""

    @property
    def ignored(self) -> int | None:
        """The value of pixels that count for nothing, 255 in most data sets; None if there is none."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the masks, hexadecimal."""

    def __getitem__(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """The mask of a sample, uint8 [height, width]. Raises `DatasetError` naming the file."""


@runtime_checkable
class Dataset(Protocol):
    """A fixed sequence of samples, decoded on access, safe to read from several threads.

    `dataset[i]` raises `DatasetError` naming the file where the sample cannot be read.
    """

    @property
    def ids(self) -> Sequence[str]:
        """One stable name per sample, relative to the data's root: no machine path."""

    @property
    def targets(self) -> Sequence[int] | None:
        """Class index per sample, None where there are no labels."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names by index; empty where there are none."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared; None for arrays, which are fed as they are."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted ids and contents, hexadecimal; independent of order and of where the files lie."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
