"""Samples in files of their own: a folder or list of .npz files, each with the arrays of one sample by input name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from quantkit.datasets.array_files import parse_arrays
from quantkit.datasets.arrays import cast_row, check_has_inputs, is_castable
from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.fingerprint import StoredFiles, compute_fingerprint
from quantkit.datasets.image_files import name_samples
from quantkit.datasets.remote_path import Source
from quantkit.datasets.stored_files import Place, read_stored
from quantkit.datasets.tar_samples import find_tars, holds_array_members, read_tars
from quantkit.errors import DatasetError
from quantkit.machine import decode_text
from quantkit.types import Array, Preprocessing, Sample, TensorSpec

_SUFFIX = ".npz"
_LABELS = frozenset({"label", "target"})


@dataclass(frozen=True, eq=False)
class SampleFiles:
    """A `Dataset` of which each sample is a file; lengths may vary where the model's dimensions do.

    Attributes:
        paths: the files.
        inputs: of the model, the batch as their first dimension.
        axes: where the model has the batch, by input, if it is not the first dimension.
        ids: names of the files, relative to where they were found.
        targets: class index of each file, None without labels.
        classes: class names by index, empty where there are none.
    """

    paths: Sequence[Place]
    inputs: Sequence[TensorSpec]
    axes: Mapping[str, int | None]
    ids: Sequence[str]
    targets: Sequence[int] | None = None
    classes: Sequence[str] = ()
    kind: str = "sample files"
    preprocessing: Preprocessing | None = None
    _files: StoredFiles = field(default_factory=StoredFiles, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Reads one file. Raises `DatasetError` where an array is missing or does not fit its input."""
        path = self.paths[index]
        try:
            content = self._files.read(path)
        except OSError as error:
            raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
        stored, found = parse_arrays(content, path, {spec.name for spec in self.inputs})
        check_has_inputs(self.inputs, stored, found, path)
        arrays = {spec.name: self._of_sample(spec, stored[spec.name], path) for spec in self.inputs}
        return Sample(self.ids[index], arrays, None if self.targets is None else self.targets[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of the files."""
        return compute_fingerprint(self)

    def content_hash(self, index: int) -> str:
        """SHA-256 of a file's bytes, or a word where it cannot be read."""
        return self._files.hash(self.paths[index])

    def _of_sample(self, spec: TensorSpec, array: Array, path: Place) -> Array:
        """The array without its batch dimension, which it may have, of size 1 and where the model has it."""
        where = f"{path}: array {array.dtype} {list(array.shape)} for input {spec.name!r}"
        wanted = spec.shape[1:]
        axis = self.axes.get(spec.name, 0)
        if array.ndim == len(wanted) + 1 and axis is not None and array.shape[axis] == 1:
            array = np.squeeze(array, axis)
        elif array.ndim == len(wanted) + 1 and axis is None and array.size == 1:
            array = array.reshape(())
        fits = array.ndim == len(wanted) and all(
            want == have for want, have in zip(wanted, array.shape, strict=True) if isinstance(want, int)
        )
        if not fits:
            shape = f"[{', '.join('?' if n is None else str(n) for n in wanted)}]"
            hint = "" if self.axes.get(spec.name) else f"; --batch-axis {spec.name}=1 if that is where its batch is"
            raise DatasetError(f"{where} does not fit its shape {shape} for one sample{hint}")
        if not is_castable(array.dtype, spec.dtype):
            raise DatasetError(f"{where} of type {spec.dtype}: the cast is not safe")
        return cast_row(array, spec.dtype, f"{where}: its row")


def holds_sample_files(path: Source) -> bool:
    """Whether `path` is a folder or tar of .npz files, or a .txt list of nothing else.

    Raises:
        DatasetError: it is a tar that cannot be used.
    """
    if path.is_dir() and any(path.glob(f"*{_SUFFIX}")):
        return True
    return holds_array_members(find_tars(path)) or bool(_listed(path))


def open_sample_files(
    path: Source,
    inputs: Sequence[TensorSpec],
    *,
    axes: Mapping[str, int | None],
    classes: Sequence[str] | None = None,
) -> SampleFiles:
    """Opens a folder, list or tar that `holds_sample_files`.

    An array "label" or "target" that is no input is the sample's class: an index or a name; in tars also a .cls file.

    Args:
        path: the folder or tar, or a text file with a path a line, relative to its own folder.
        inputs: of the model, the batch as their first dimension.
        axes: where the model has the batch, if it is not the first dimension.
        classes: class names by index.

    Raises:
        DatasetError: some of the files have a label and others have none, or a label is no class.
    """
    paths: Sequence[Place]
    names: Sequence[str]
    if not any(path.glob(f"*{_SUFFIX}")) and (tars := find_tars(path)):
        found = read_tars(tars, (_SUFFIX,), classes)
        if found.targets is not None:
            return SampleFiles(found.members, inputs, axes, name_samples(found.names), found.targets, found.classes)
        paths, names = found.members, found.names
    elif path.is_dir():
        names = sorted(p.name for p in path.glob(f"*{_SUFFIX}"))
        paths = [path / name for name in names]
    else:
        names = _listed(path)
        paths = [path.parent / name for name in names]
    targets, known = _labels(paths, _LABELS - {spec.name for spec in inputs}, classes)
    return SampleFiles(paths, inputs, axes, name_samples(names), targets, known)


def _labels(
    paths: Sequence[Place], keys: Collection[str], classes: Sequence[str] | None
) -> tuple[list[int] | None, Sequence[str]]:
    words: dict[Place, str] = {}
    unlabeled = None
    for path in paths:
        try:
            found, _ = parse_arrays(read_stored(path), path, keys)
        except (OSError, DatasetError):
            continue  # left out, or an error, when its turn comes
        if not found:
            unlabeled = path
        for key, array in found.items():
            if array.size != 1 or array.dtype.kind not in "iuU":
                raise DatasetError(f"{path}: {key!r} is {array.dtype} {list(array.shape)}, not one class index or name")
            words[path] = str(array.reshape(-1)[0])
    if not words:
        return None, ()
    if unlabeled is not None:
        raise DatasetError(f"{unlabeled} has no label, but {next(iter(words))} has one")
    indices, names = index_labels({word: str(path) for path, word in words.items()}, classes)
    return [indices[words[path]] if path in words else 0 for path in paths], names


def _listed(path: Source) -> list[str]:
    """The lines of a list of .npz files; nothing if it is another list."""
    if path.suffix.lower() != ".txt" or not path.is_file():
        return []
    try:
        lines = [line.strip() for line in decode_text(read_stored(path)).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []  # whoever reads lists of images says so
    return lines if all(line.endswith(_SUFFIX) for line in lines) else []
