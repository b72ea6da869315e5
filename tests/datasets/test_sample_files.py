"""Folders and lists of .npz files, one a sample."""

import numpy as np
import pytest

from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import holds_arrays, open_samples
from quantkit.errors import DatasetError
from quantkit.types import TensorSpec
from quantkit.types.options import ImageOptions

INPUTS = [
    TensorSpec("x", np.dtype("float32"), ("N", None, 3)),
    TensorSpec("state", np.dtype("float32"), (2, "N", 4)),
    TensorSpec("sr", np.dtype("int64"), ()),
]


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        lead = (1,) if i % 2 else ()
        state = np.ones((2, 1, 4) if i % 2 else (2, 4))
        np.savez(tmp_path / f"{i}.npz", x=np.full((*lead, 5 + i % 2, 3), 1.0 * i), state=state, sr=16000)
    return tmp_path


def opened(path, **said):
    return open_samples(INPUTS, path, ImageOptions(**said), None, num_samples=None, seed=0, order="given")


def test_each_file_is_a_sample_with_or_without_its_batch(folder):
    dataset = opened(folder)
    assert list(dataset.ids) == ["0.npz", "1.npz", "2.npz", "3.npz"]
    assert [dataset[i].inputs["x"].shape for i in range(4)] == [(5, 3), (6, 3), (5, 3), (6, 3)]
    assert {dataset[i].inputs["state"].shape for i in range(4)} == {(2, 4)}
    batches = list(make_batches(dataset, 4, strict=True, workers=1, skipped={}))
    assert [batch.ids for batch in batches] == [("0.npz", "2.npz"), ("1.npz", "3.npz")]
    assert batches[0].inputs["state"].shape == (2, 2, 4)


def test_a_list_gives_the_order(folder):
    (folder / "list.txt").write_text("3.npz\n\n0.npz\n")
    assert holds_arrays(folder / "list.txt")
    assert list(opened(folder / "list.txt").ids) == ["3.npz", "0.npz"]


def test_the_fingerprint_is_of_the_files(folder):
    before = opened(folder).fingerprint
    np.savez(folder / "3.npz", x=np.zeros((5, 3)), state=np.ones((2, 4)), sr=16000)
    assert opened(folder).fingerprint != before


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((5, 3)), "sr": 1}, "no array for input 'state'; it holds .*, or pass --constant state=..."),
        (
            {"x": np.zeros((5, 4)), "state": np.zeros((2, 4)), "sr": 1},
            r"does not fit its shape \[\?, 3\] for one",
        ),
        ({"x": np.zeros((5, 3)), "state": np.zeros((2, 4)), "sr": 0.5}, "the cast is not safe"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DatasetError, match=rf"bad\.npz.*{words}"):
        opened(tmp_path)[0]


def test_a_state_of_one_says_how_to_place_it(tmp_path):
    np.savez(tmp_path / "0.npz", x=np.zeros((5, 3)), state=np.zeros((2, 1, 4)), sr=1)
    fixed = [INPUTS[0], TensorSpec("state", np.dtype("float32"), (2, 1, 4)), INPUTS[2]]
    dataset = open_samples(fixed, tmp_path, None, None, num_samples=None, seed=0, order="given")
    with pytest.raises(DatasetError, match="--batch-axis state=1"):
        dataset[0]


def test_labels_are_classes(folder):
    for i, label in enumerate(["b", "a", "b", "a"]):
        with np.load(folder / f"{i}.npz") as arrays:
            np.savez(folder / f"{i}.npz", **arrays, label=label)
    dataset = opened(folder)
    assert (list(dataset.targets), list(dataset.classes)) == ([1, 0, 1, 0], ["a", "b"])
    assert [dataset[i].target for i in range(4)] == [1, 0, 1, 0]
    (folder / "1.npz").write_bytes(b"damaged")  # it is told when it is read
    assert opened(folder)[2].target == 1
    np.savez(folder / "3.npz", x=np.zeros((5, 3)), state=np.ones((2, 4)), sr=1)
    with pytest.raises(DatasetError, match=r"3\.npz has no label, but .*0\.npz has one"):
        opened(folder)
    np.savez(folder / "0.npz", x=np.zeros((5, 3)), state=np.ones((2, 4)), sr=1)
    with pytest.raises(DatasetError, match=r"3\.npz has no label, but .*2\.npz has one"):
        opened(folder)
    np.savez(folder / "0.npz", label=np.zeros(2, int))
    with pytest.raises(DatasetError, match=r"0\.npz: 'label' is int64 \[2\], not one class index or name"):
        opened(folder)


def test_an_input_of_that_name_is_no_label(tmp_path):
    spec = TensorSpec("label", np.dtype("int64"), ("N",))
    np.savez(tmp_path / "0.npz", label=3)
    dataset = open_samples([spec], tmp_path, None, None, num_samples=None, seed=0, order="given")
    assert dataset.targets is None
    assert dataset[0].inputs["label"] == 3


def test_image_options_mean_nothing_here(folder):
    with pytest.raises(DatasetError, match="no meaning for arrays"):
        opened(folder, size=(8, 8))
