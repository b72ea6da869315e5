"""The images of a data set as annotations name them: by file, and by its place below the data's root."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.sampling import Selection
from quantkit.errors import DatasetError
from quantkit.types import Dataset, PathLike


@dataclass(frozen=True)
class AnnotatedImage:
    """One image.

    Attributes:
        id: of the sample.
        path: of the file.
        parts: folders and name of the file below the data's root, in composed Unicode.
    """

    id: str
    path: Path
    parts: tuple[str, ...]


def list_images(dataset: Dataset, data: PathLike) -> list[AnnotatedImage]:
    """The images of a data set in its order.

    Raises:
        DatasetError: it holds arrays.
    """
    return [
        # The name is the file's, for an id may end with the number of a repeated sample.
        AnnotatedImage(name, path, (*PurePosixPath(name).parts[:-1], compose(path.name)))
        for name, path in zip(dataset.ids, _paths(dataset, data), strict=True)
    ]


def compose(text: str) -> str:
    """Text in composed Unicode: file systems differ in how they store accents."""
    return unicodedata.normalize("NFC", text)


def _paths(dataset: Dataset, data: PathLike) -> Sequence[Path]:
    if isinstance(dataset, Selection):
        paths = _paths(dataset.dataset, data)
        return [paths[i] for i in dataset.indices]
    if isinstance(dataset, ImageFiles) and dataset.boxes is not None:
        raise DatasetError("--crops makes samples of parts of images: annotations are of whole images")
    if isinstance(dataset, ImageFiles):
        return [Path(str(path)) for path in dataset.paths]  # elsewhere than in folders they tell names alone
    raise DatasetError(f"{data} contains no image files, which boxes need")
