"""Arrays that are model inputs already: .npy for one input, .npz by input name. Nothing is normalized here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from quantkit.datasets.array_files import StoredArray, load_arrays
from quantkit.datasets.batch_axes import doubtful_batch_axis
from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.fingerprint import compute_fingerprint, hash_arrays
from quantkit.errors import ChangedDataError, DatasetError
from quantkit.types import Array, Preprocessing, Sample, TensorSpec

ARRAY_SUFFIXES = (".npy", ".npz")
_LABEL_KEYS = ("labels", "targets")


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """A `Dataset` whose sample i is row i of an array for each input.

    Attributes:
        path: the file, for messages.
        arrays: [N, ...] by input name, as stored; those of .npy are read row by row.
        dtypes: the model's types by input name.
        ids: the row numbers.
        targets: class index per row, None without labels.
        classes: class names by index, empty where there are none.
    """

    path: Path
    arrays: Mapping[str, Array | StoredArray]
    dtypes: Mapping[str, np.dtype]
    ids: Sequence[str]
    targets: Sequence[int] | None
    classes: Sequence[str]
    kind: str = "arrays"
    preprocessing: Preprocessing | None = None
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Copies one row.

        Raises:
            DatasetError: it holds NaN or infinity, or what the model's type cannot.
            ChangedDataError: it is not what was hashed or read before.
        """
        name = self.ids[index]
        inputs = {
            key: cast_row(row, self.dtypes[key], f"{name}: row {name} of {self.path}, input {key!r}")
            for key, row in self._read(index).items()
        }
        return Sample(id=name, inputs=inputs, target=None if self.targets is None else self.targets[index])

    @property
    def remarks(self) -> Sequence[str]:
        """Which arrays of bytes are fed to a floating-point input."""
        return [
            f"input {name!r}: uint8 values are fed as 0 to 255, unscaled; save them preprocessed if the model wants "
            "other values"
            for name, array in self.arrays.items()
            if array.dtype == np.uint8 and self.dtypes[name].kind == "f"
        ]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the row numbers and the stored values of all inputs; independent of where the file lies."""
        return compute_fingerprint(self)

    def content_hash(self, index: int) -> str:
        """SHA-256 of the row's names, types, shapes and values, computed once."""
        if index not in self._hashes:
            self._read(index)
        return self._hashes[index]

    def _read(self, index: int) -> dict[str, Array]:
        """One row as it is stored; what is read from a file each time is hashed each time."""
        rows = {name: np.asarray(array[index]) for name, array in self.arrays.items()}
        if index in self._hashes and not any(isinstance(array, StoredArray) for array in self.arrays.values()):
            return rows
        found = hash_arrays(rows)
        if self._hashes.setdefault(index, found) != found:
            raise ChangedDataError(f"row {index} of {self.path} was changed while it was in use: run again")
        return rows


def open_arrays(path: Path, inputs: Sequence[TensorSpec], *, classes: Sequence[str] | None = None) -> ArrayRows:
    """Opens .npy (read row by row; one input) or .npz (arrays named as the inputs, labels as "labels" or "targets").

    Floats are cast to the input's float type; integers to float types that hold each of their values, and to narrower
    integer types where the values fit. Pickled objects are refused.

    Args:
        path: the file; each array has shape [N, ...] with the N of all others.
        inputs: the model's inputs; their first dimension is the batch.
        classes: class names by index.

    Raises:
        DatasetError: an input without an array, a type or shape that does not fit, different N.
    """
    stored, found = load_arrays(path, {*(spec.name for spec in inputs), *_LABEL_KEYS})
    if isinstance(stored, StoredArray):
        if len(inputs) != 1:
            names = ", ".join(repr(spec.name) for spec in inputs)
            raise DatasetError(
                f"{path} contains one array, but the model has inputs {names}: save them by name as .npz, "
                "or pass --constant NAME=... for each that is the same number for every sample"
            )
        rows: Mapping[str, Array | StoredArray] = {inputs[0].name: stored}
    else:
        rows = stored
    check_has_inputs(inputs, rows, found, path)
    arrays = {spec.name: rows[spec.name] for spec in inputs}
    count = _count(arrays, path)
    for spec in inputs:
        _check(spec, arrays[spec.name], path)
    key = next((k for k in _LABEL_KEYS if k in rows and k not in arrays), None)
    targets, names_by_index = (None, ()) if key is None else _targets(np.asarray(rows[key]), key, count, path, classes)
    return ArrayRows(
        path=path,
        arrays=arrays,
        dtypes={spec.name: spec.dtype for spec in inputs},
        ids=[str(i) for i in range(count)],
        targets=targets,
        classes=names_by_index,
    )


def check_has_inputs(inputs: Sequence[TensorSpec], rows: Container[str], found: Iterable[str], path: object) -> None:
    """Raises `DatasetError` where there is no array for an input, naming what the file holds."""
    if missing := next((spec for spec in inputs if spec.name not in rows), None):
        held = ", ".join(map(repr, found)) or "nothing"
        raise DatasetError(f"{path} has no array for input {missing.name!r}; it holds {held}; {or_constant(missing)}")


def or_constant(spec: TensorSpec) -> str:
    """What helps where data have no array for an input."""
    return f"add it, or pass --constant {spec.name}=... if it is the same number for every sample"


def _count(arrays: Mapping[str, Array | StoredArray], path: Path) -> int:
    counts = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise DatasetError(f"{path}: the arrays have different numbers of samples: {listed}")
    count = min(counts.values())
    if count == 0:
        raise DatasetError(f"{path} contains no samples: the first dimension of an array is the number of samples")
    return count


def _check(spec: TensorSpec, array: Array | StoredArray, path: Path) -> None:
    where = f"{path}: array {array.dtype} {list(array.shape)} for input {spec.name!r}"
    wanted = f"[{', '.join('?' if n is None else str(n) for n in spec.shape)}]"
    fits = array.ndim == len(spec.shape) and all(
        want == have for want, have in zip(spec.shape[1:], array.shape[1:], strict=True) if isinstance(want, int)
    )
    if not fits:
        is_fixed = isinstance(spec.shape[0] if spec.shape else None, int) and spec.shape[0] != 1
        axis = doubtful_batch_axis(spec) or (1 if is_fixed and array.ndim == len(spec.shape) - 1 else None)
        hint = "" if axis is None else f"; pass --batch-axis {spec.name}={axis} if that is where its batch is"
        raise DatasetError(f"{where} does not fit its shape {wanted}; the first dimension counts the samples{hint}")
    if not is_castable(array.dtype, spec.dtype):
        raise DatasetError(f"{where} of type {spec.dtype}: the cast is not safe; convert it with .astype({spec.dtype})")


def is_castable(have: np.dtype, want: np.dtype) -> bool:
    """Whether values of one type may be passed as another."""
    if have.newbyteorder("=") == want.newbyteorder("="):
        return True
    if have.kind == "f" and want.kind == "f":
        return True
    if have.kind in "iu" and want.kind in "iu":
        return True  # the values of each row are checked
    # numpy calls int64 to float64 safe, but 2**53 + 1 is lost
    return have.kind in "iu" and want.kind == "f" and np.can_cast(have, want, "safe") and have.itemsize < want.itemsize


def cast_row(row: Array, dtype: np.dtype, where: str) -> Array:
    """A contiguous copy of another type.

    Raises:
        DatasetError: NaN, infinity, or values that the type cannot hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.array(row, dtype=dtype, order="C")
    if dtype.kind == "f" and not np.isfinite(result).all():
        overflow = " as " + str(dtype) if row.dtype.kind == "f" and np.isfinite(row).all() else ""
        raise DatasetError(f"{where} contains NaN or infinity{overflow}")
    if dtype.kind in "iu" and row.dtype != dtype and not (result == row).all():
        raise DatasetError(f"{where} holds values of {row.dtype} that {dtype} cannot")
    return result


def _targets(
    labels: Array, key: str, count: int, path: Path, classes: Sequence[str] | None
) -> tuple[list[int], tuple[str, ...]]:
    if labels.shape != (count,) or labels.dtype.kind not in "iuU":
        raise DatasetError(
            f"{path}: {key!r} is {labels.dtype} {list(labels.shape)}, but must be {count} class indices or names"
        )
    try:
        words = [str(label) for label in labels.tolist()]
    except (SystemError, ValueError) as error:  # code points beyond Unicode
        raise DatasetError(f"{path}: {key!r} contains names that are not Unicode text: save it again") from error
    places: dict[str, str] = {}
    for row, word in enumerate(words):
        places.setdefault(word, f"{path}, {key!r} row {row}")
    indices, names = index_labels(places, classes)
    return [indices[word] for word in words], names
