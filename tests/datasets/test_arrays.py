from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quantkit.datasets.array_files import StoredArray
from quantkit.datasets.arrays import open_arrays
from quantkit.errors import DatasetError
from quantkit.types import TensorSpec

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 2, 3)).astype(np.float32)


def spec(name: str = "x", dtype: str = "float32", shape: tuple[int | str | None, ...] = ("N", 2, 3)) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


def save(path: Path, array: npt.ArrayLike) -> Path:
    np.save(path, array)
    return path


def save_all(path: Path, **arrays: npt.ArrayLike) -> Path:
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


def test_npy_is_read_row_by_row_and_rows_are_copied(tmp_path: Path) -> None:
    dataset = open_arrays(save(tmp_path / "x.npy", X), [spec()])
    assert isinstance(dataset.arrays["x"], StoredArray)
    assert len(dataset) == 5
    assert list(dataset.ids) == ["0", "1", "2", "3", "4"]
    assert (dataset.targets, dataset.classes, dataset.preprocessing) == (None, (), None)
    row = dataset[3].inputs["x"]
    assert np.array_equal(row, X[3])
    row[:] = 0  # the caller's
    assert np.array_equal(dataset[3].inputs["x"], X[3])
    with pytest.raises(IndexError):
        dataset[5]


def test_rows_are_contiguous_and_native(tmp_path: Path) -> None:
    stored = np.asfortranarray(X.astype(">f4"))
    row = open_arrays(save(tmp_path / "x.npy", stored), [spec()])[1].inputs["x"]
    assert row.flags.c_contiguous
    assert row.dtype.isnative
    assert np.array_equal(row, X[1])


def test_npz_is_read_by_input_name(tmp_path: Path) -> None:
    mask = RNG.integers(0, 2, (5, 4))
    path = save_all(tmp_path / "x.npz", mask=mask, x=X, labels=np.array([4, 0, 1, 1, 2]), unused=np.zeros(9))
    dataset = open_arrays(path, [spec(), spec("mask", "int64", (None, "length"))])
    assert dataset.targets == [4, 0, 1, 1, 2]
    sample = dataset[2]
    assert (sample.id, sample.target) == ("2", 1)
    assert list(sample.inputs) == ["x", "mask"]
    assert np.array_equal(sample.inputs["mask"], mask[2])


def test_labels_may_be_named_targets_or_be_strings(tmp_path: Path) -> None:
    assert open_arrays(save_all(tmp_path / "a.npz", x=X, targets=np.arange(5)), [spec()]).targets == [0, 1, 2, 3, 4]
    words = np.array(["cat", "ant", "cat", "cat", "dog"])
    named = open_arrays(save_all(tmp_path / "b.npz", x=X, labels=words), [spec()])
    assert (named.targets, named.classes) == ([1, 0, 1, 1, 2], ("ant", "cat", "dog"))
    given = open_arrays(tmp_path / "b.npz", [spec()], classes=["dog", "cat", "ant"])
    assert given.targets == [1, 2, 1, 1, 0]


def test_input_named_labels_is_an_input(tmp_path: Path) -> None:
    dataset = open_arrays(save_all(tmp_path / "a.npz", labels=X), [spec("labels")])
    assert dataset.targets is None
    assert np.array_equal(dataset[0].inputs["labels"], X[0])


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("float64", "float32"),
        ("float64", "float16"),
        ("float16", "float32"),
        ("uint8", "float32"),
        ("uint8", "float16"),
        ("int16", "float32"),
        ("int32", "float64"),
        ("int32", "int64"),
        ("int64", "int32"),
        ("uint8", "int8"),
        ("bool", "bool"),
    ],
)
def test_safe_casts_are_accepted(tmp_path: Path, have: str, want: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(have)
    result = open_arrays(save(tmp_path / "x.npy", values), [spec("x", want, ("N", 3))])[1].inputs["x"]
    assert result.dtype == want
    assert np.array_equal(result, values[1].astype(want))


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("int32", "float32"),
        ("int64", "float32"),
        ("int64", "float64"),
        ("uint16", "float16"),
        ("float32", "int64"),
        ("bool", "float32"),
        ("int64", "bool"),
        ("complex64", "float32"),
        ("U3", "float32"),
    ],
)
def test_unsafe_casts_are_refused_with_both_types(tmp_path: Path, have: str, want: str) -> None:
    path = save(tmp_path / "x.npy", np.zeros((2, 3), have))
    with pytest.raises(DatasetError, match=rf"array {np.dtype(have)} \[2, 3\] for input 'x' of type {want}"):
        open_arrays(path, [spec("x", want, ("N", 3))])


def test_out_of_range_values_name_row_and_input(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.array([[1, 2], [3, 2**31]]))
    dataset = open_arrays(path, [spec("ids", "int32", ("N", 2))])
    assert dataset[0].inputs["ids"].dtype == np.int32
    with pytest.raises(DatasetError, match=r"row 1 of .*x\.npy, input 'ids' holds values of int64 that int32 cannot"):
        dataset[1]
    path = save(tmp_path / "y.npy", np.array([[1.0], [1e6]]))
    with pytest.raises(DatasetError, match=r"row 1 .*infinity as float16"):
        open_arrays(path, [spec("x", "float16", ("N", 1))])[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_name_row_and_input(tmp_path: Path, value: float) -> None:
    bad = X.copy()
    bad[2, 1, 1] = value
    dataset = open_arrays(save(tmp_path / "x.npy", bad), [spec()])
    assert dataset[1].id == "1"
    with pytest.raises(DatasetError, match=r"^2: row 2 of .*x\.npy, input 'x' contains NaN or infinity$"):
        dataset[2]


@pytest.mark.parametrize("shape", [("N", 2, 3), (None, None, None), (1, "a", 3)])
def test_matching_shapes_are_accepted(tmp_path: Path, shape: tuple[int | str | None, ...]) -> None:
    assert len(open_arrays(save(tmp_path / "x.npy", X), [spec(shape=shape)])) == 5


@pytest.mark.parametrize("shape", [("N", 2, 4), ("N", 6), ("N", 2, 3, 1), ()])
def test_mismatched_shapes_are_refused(tmp_path: Path, shape: tuple[int | str | None, ...]) -> None:
    with pytest.raises(DatasetError, match=r"float32 \[5, 2, 3\] for input 'x' does not fit its shape \["):
        open_arrays(save(tmp_path / "x.npy", X), [spec(shape=shape)])


def test_mismatched_archives_are_refused(tmp_path: Path) -> None:
    two = [spec("x"), spec("y")]
    for arrays, inputs, words in (
        ({"arr_0": X}, [spec()], "no array for input 'x'; it holds 'arr_0'"),
        ({}, [spec()], "it holds nothing"),
        ({"x": X}, two, "no array for input 'y'; it holds 'x'; add it, or pass --constant y=..."),
        ({"x": X, "y": X[:4]}, two, "different numbers of samples: 'x' 5, 'y' 4"),
        ({"x": X[:0]}, [spec()], "contains no samples"),
        ({"x": np.float32(1)}, [spec()], "contains no samples"),
        ({"x": X, "labels": np.arange(4)}, [spec()], r"'labels' is int64 \[4\], but must be 5 class indices"),
        ({"x": X, "labels": np.zeros(5)}, [spec()], r"'labels' is float64 \[5\]"),
        ({"x": X, "labels": np.zeros((5, 2), int)}, [spec()], "must be 5 class indices"),
        ({"x": X, "labels": np.array([0, 1, -1, 0, 0])}, [spec()], r"'labels' row 2: label '-1'"),
    ):
        path = save_all(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(DatasetError, match=words) as raised:
            open_arrays(path, inputs)
        assert "\n" not in str(raised.value)
    with pytest.raises(
        DatasetError, match=r"one array, but the model has inputs 'x', 'y': .*\.npz, or pass --constant"
    ):
        open_arrays(save(tmp_path / "x.npy", X), two)


def test_a_fixed_first_dimension_hints_at_a_batch_elsewhere(tmp_path: Path) -> None:
    for shape, axis in (((2, 3), 0), ((4, 5, "N"), 2), ((4, 2, 3, 1), 1), (("N", 2, 4), 0), ((5, 2, 4), 0)):
        with pytest.raises(DatasetError, match="does not fit") as raised:
            open_arrays(save(tmp_path / "x.npy", X), [spec(shape=shape)])
        assert (f"pass --batch-axis x={axis} " in str(raised.value)) == (axis > 0), shape
        assert ("--batch-axis" in str(raised.value)) == (axis > 0), shape


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_refused_without_loading(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    objects = np.array([Boom(), Boom()], dtype=object)
    if suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, x=objects)
    with pytest.raises(DatasetError, match="cannot be read as arrays of numbers"):
        open_arrays(path, [spec()])
    path.write_bytes(pickle.dumps(Boom()))
    with pytest.raises(DatasetError, match="cannot be read as arrays of numbers"):
        open_arrays(path, [spec()])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole_npy = save(tmp_path / "x.npy", X).read_bytes()
    whole_npz = save_all(tmp_path / "x.npz", x=X).read_bytes()
    for name, content in (
        ("a.npy", b""),
        ("b.npy", whole_npy[:-4]),
        ("c.npy", whole_npy[:40]),
        ("d.npz", whole_npz[:-40]),
        ("e.npz", whole_npz[:60] + bytes(len(whole_npz) - 120) + whole_npz[-60:]),
        ("f.npz", b"PK\x03\x04"),
        ("g.npy", b"not an array"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"{name}") as raised:
            open_arrays(path, [spec()])
        assert "\n" not in str(raised.value)


def test_fingerprint_depends_on_the_values(tmp_path: Path) -> None:
    first = open_arrays(save(tmp_path / "x.npy", X), [spec()]).fingerprint
    assert open_arrays(save(tmp_path / "other.npy", X), [spec()]).fingerprint == first
    assert open_arrays(save_all(tmp_path / "x.npz", x=X), [spec()]).fingerprint == first
    changed = X.copy()
    changed.view(np.uint8).reshape(-1)[-1] ^= 1
    assert open_arrays(save(tmp_path / "y.npy", changed), [spec()]).fingerprint != first
