"""Samples that a user's own code makes: a function that prepares an image, and a loader that reads any files.

Code runs only where the user names its file; tables and reports hold its name and the hash of its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quantkit.datasets.arrays import cast_row, is_castable, or_constant
from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.fingerprint import compute_fingerprint, hash_arrays
from quantkit.datasets.image_files import name_samples
from quantkit.datasets.preprocess import upright
from quantkit.errors import DatasetError, OptionError
from quantkit.types import Array, Preprocessing, Sample, TensorSpec
from quantkit.user_code import call, load_symbol, short_name, source_hash


@dataclass(frozen=True, eq=False)
class ImageFunction:
    """A user's function from a Pillow image to one sample of the model's input, called by several threads.

    Attributes:
        name: "file.py:function", without folders.
        function: takes the upright image as it is stored, of any mode.
        spec: of the input.
    """

    name: str
    function: Callable[[Image.Image], Any]
    spec: TensorSpec

    def __call__(self, image: Image.Image, sample: str) -> Array:
        """The sample's array, of the input's type.

        Raises:
            OptionError: the function failed, by file and line, or returned what the input cannot take.
        """
        made = call(f"{self.name} on {sample!r}", self.function, upright(image), error=OptionError)
        try:
            return _fit(made, self.spec, f"{self.name} on {sample!r}")
        except DatasetError as error:
            raise OptionError(str(error)) from None


def open_image_function(spec: TensorSpec, symbol: str) -> tuple[Preprocessing, ImageFunction]:
    """Loads the function that `symbol`, "file.py:name", names, and how it is declared.

    Raises:
        OptionError: no such file or name, or an error in the file.
    """
    name = short_name(symbol)
    declared = Preprocessing(size=(0, 0), dtype=spec.dtype.name, function=name, function_hash=source_hash(symbol))
    return declared, ImageFunction(name, _load(symbol, "--preprocess"), spec)


@dataclass(frozen=True, eq=False)
class LoadedSamples:
    """A `Dataset` of what a user's loader yielded, held in memory.

    Attributes:
        loader: "file.py:function", without folders, and the beginning of its source's hash.
        rows: arrays by input name.
        ids: as the loader says, else their numbers.
        targets: class index of each sample, None without labels.
        classes: class names by index, empty where there are none.
    """

    loader: str
    rows: Sequence[Mapping[str, Array]]
    ids: Sequence[str]
    targets: Sequence[int] | None
    classes: Sequence[str]
    kind: str = "loader"
    preprocessing: Preprocessing | None = None
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """The sample as it was yielded."""
        return Sample(self.ids[index], self.rows[index], None if self.targets is None else self.targets[index])

    @property
    def remarks(self) -> Sequence[str]:
        """Which code made the samples."""
        return (f"loader: {self.loader}",)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, arrays and the loader's source."""
        return compute_fingerprint(self)

    def content_hash(self, index: int) -> str:
        """SHA-256 of a sample's arrays and of the loader's source."""
        if index not in self._hashes:
            self._hashes[index] = hash_arrays(self.rows[index], self.loader)
        return self._hashes[index]


def open_loaded(
    path: Path, inputs: Sequence[TensorSpec], symbol: str, *, classes: Sequence[str] | None = None
) -> LoadedSamples:
    """Runs a user's loader on `path`.

    Args:
        path: what --data names, handed to the loader as it is.
        inputs: the model's inputs; their first dimension is the batch, which samples do not have.
        symbol: "file.py:function". It yields dicts of arrays (or numbers) by input name, and optionally "id" and
            "label" (a class index or name) where no input has that name.
        classes: class names by index.

    Raises:
        OptionError: the loader failed, by file and line, or yielded what the inputs cannot take.
        DatasetError: labels that are no classes, or no sample.
    """
    function, name = _load(symbol, "--loader"), short_name(symbol)
    what = f"{name}({str(path)!r})"
    made = call(what, list, call(what, function, path, error=OptionError), error=OptionError)
    if not made:
        raise DatasetError(f"{name} yielded no sample of {path}")
    rows: list[dict[str, Array]] = []
    for number, found in enumerate(made):
        where = f"sample {number} of {name}"
        if not isinstance(found, Mapping):
            raise OptionError(f"{where} is {type(found).__name__}: a dict of arrays by input name is needed")
        try:
            rows.append({spec.name: _fit(_taken(found, spec, where), spec, where) for spec in inputs})
        except DatasetError as error:
            raise OptionError(str(error)) from None
    known = {spec.name for spec in inputs}
    ids = [str(found.get("id", number)) if "id" not in known else str(number) for number, found in enumerate(made)]
    targets, names = _labels(made if "label" not in known else (), name, classes)
    loader = f"{name} (source {source_hash(symbol)[:12]})"
    return LoadedSamples(loader, rows, name_samples(ids), targets, names)


def _load(symbol: str, flag: str) -> Callable[..., Any]:
    function: Callable[..., Any] = load_symbol(symbol, error=OptionError)
    if not callable(function):
        raise OptionError(f"{flag}: {short_name(symbol)} is no function")
    return function


def _taken(found: Mapping[str, Any], spec: TensorSpec, where: str) -> Any:
    if spec.name not in found:
        held = ", ".join(map(repr, found))
        raise OptionError(f"{where} has no {spec.name!r}, an input of the model; it has {held}; {or_constant(spec)}")
    return found[spec.name]


def _fit(made: Any, spec: TensorSpec, where: str) -> Array:
    """What the user's code made as an array of the input's type. Raises `DatasetError` if it cannot be one."""
    try:
        array = np.asarray(made)
    except ValueError as error:  # a ragged list
        raise DatasetError(f"{where}: no array for {spec.name!r} ({error})") from error
    if array.dtype.kind in "biu" and spec.dtype.kind == "f" and (array.astype(spec.dtype) == array).all():
        array = array.astype(spec.dtype)  # whole numbers that the type holds
    wanted = spec.shape[1:]
    shape = f"[{', '.join('?' if n is None else str(n) for n in wanted)}]"
    fits = array.ndim == len(wanted) and all(
        want == have for want, have in zip(wanted, array.shape, strict=True) if isinstance(want, int)
    )
    if array.dtype.kind not in "biuf" or not fits or not is_castable(array.dtype, spec.dtype):
        batch = "without a batch dimension; of steps of a sequence, name the states: --state INPUT=OUTPUT"
        hint = f", {batch}" if array.ndim == len(spec.shape) else ""
        raise DatasetError(
            f"{where}: {array.dtype} {list(array.shape)} for input {spec.name!r}, which takes {spec.dtype} {shape} for "
            f"one sample{hint}"
        )
    return cast_row(array, spec.dtype, f"{where}: input {spec.name!r}")


def _labels(
    made: Iterable[Mapping[str, Any]], name: str, classes: Sequence[str] | None
) -> tuple[list[int] | None, Sequence[str]]:
    labels = [None if found.get("label") is None else str(found["label"]) for found in made]
    given = [label for label in labels if label is not None]
    if not given:
        return None, ()
    if len(given) < len(labels):
        raise OptionError(f"sample {labels.index(None)} of {name} has no label, but others have one")
    indices, names = index_labels(dict.fromkeys(given, f"a sample of {name}"), classes)
    return [indices[label] for label in given], names
