"""Inputs whose batch is not the first dimension, and inputs that never change."""

import re

import numpy as np
import pytest

from quantkit.datasets.batch_axes import PlacedSamples, constant_inputs, find_batch_axes, first_axes
from quantkit.datasets.batching import batch_axes, leading_size, make_batches, run_padded, take_rows
from quantkit.datasets.open import open_samples
from quantkit.errors import DatasetError
from quantkit.types import TensorSpec
from quantkit.types.options import ImageOptions

FLOAT, INT = np.dtype("float32"), np.dtype("int64")
SOUND = TensorSpec("x", FLOAT, ("N", None))
STATE = TensorSpec("state", FLOAT, (2, "N", 3))
FIXED = TensorSpec("state", FLOAT, (2, 1, 3))
RATE = TensorSpec("sr", INT, ())
OTHER = TensorSpec("y", FLOAT, ())


def opened(path, inputs, **said):
    preprocessing = ImageOptions(**said) if said else None
    return open_samples(inputs, path, preprocessing, None, num_samples=None, seed=0, order="given")


@pytest.fixture
def arrays(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(20.0).reshape(5, 4), state=np.arange(30.0).reshape(5, 2, 3))
    return path


def test_a_batch_is_found_by_its_name_and_else_declared():
    assert find_batch_axes([SOUND, STATE, RATE], {}) == {"state": 1, "sr": None}
    assert find_batch_axes([SOUND, FIXED], {}) == {}
    unnamed = [TensorSpec("x", FLOAT, ("?", 4)), TensorSpec("y", FLOAT, (2, "?", 3))]
    assert find_batch_axes(unnamed, {}) == {}
    assert find_batch_axes([SOUND, FIXED], {"state": 1}) == {"state": 1}
    one = TensorSpec("x", FLOAT, (1, 4))
    assert find_batch_axes([one, FIXED, TensorSpec("size", FLOAT, (2,))], {}) == {"state": 1}
    assert find_batch_axes([one, TensorSpec("cache", FLOAT, (2, 3, 1, 1, 8))], {}) == {"cache": 2}
    assert [spec.shape for spec in first_axes([SOUND, STATE], {"state": 1})] == [("N", None), (None, 2, 3)]


@pytest.mark.parametrize(("declared", "words"), [({"y": 1}, "no such input"), ({"state": 3}, "3 dimensions")])
def test_an_axis_that_is_not_there(declared, words):
    with pytest.raises(DatasetError, match=f"--batch-axis .*{words}"):
        find_batch_axes([SOUND, STATE], declared)


def test_batches_are_stacked_where_the_model_has_them(arrays):
    dataset = opened(arrays, [SOUND, STATE, RATE], constant={"sr": 16000})
    assert batch_axes(dataset) == {"state": 1, "sr": None}
    (batch,) = make_batches(dataset, 8, strict=True, workers=1, skipped={})
    shapes = {name: array.shape for name, array in batch.inputs.items()}
    assert shapes == {"x": (5, 4), "state": (2, 5, 3), "sr": ()}
    assert batch.inputs["sr"] == 16000
    np.testing.assert_array_equal(batch.inputs["state"][:, 3], np.arange(18, 24).reshape(2, 3))
    taken = take_rows(batch, np.array([3, 3]))
    assert taken["state"].shape == (2, 2, 3)
    np.testing.assert_array_equal(taken["state"][:, 1], batch.inputs["state"][:, 3])


def test_a_constant_is_part_of_what_identifies_the_samples(arrays):
    prints = {opened(arrays, [SOUND, STATE, RATE], constant={"sr": rate}).fingerprint for rate in (8000, 16000)}
    assert len(prints) == 2
    assert opened(arrays, [SOUND, STATE]).fingerprint not in prints
    dataset = opened(arrays, [SOUND, STATE, RATE], constant={"sr": 16000}).dataset
    assert isinstance(dataset, PlacedSamples)
    assert dataset.remarks == ("input 'sr' is 16000 for every sample",)


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (SOUND, 1, "no single number"),
        (RATE, 0.5, "int64 cannot hold"),
        (RATE, float("inf"), "int64 cannot hold"),
        (TensorSpec("sr", np.dtype("float32"), (1,)), 1e50, "float32 cannot hold"),
        (OTHER, 1, "no such input"),
    ],
)
def test_a_constant_that_the_input_cannot_be(spec, value, words):
    name = "sr" if spec.name == "y" else spec.name
    with pytest.raises(DatasetError, match=re.escape(f"--constant {name}={value:g}: ") + f".*{words}"):
        constant_inputs([spec], {name: value})


class Recurrent:
    """Takes one state at a time, and returns it."""

    inputs = (SOUND, FIXED)

    def run(self, inputs):
        assert inputs["state"].shape == (2, 1, 3)
        return {"y": inputs["x"] * 2, "hn": inputs["state"] + 1}


def test_a_fixed_batch_of_one_input_is_that_of_the_model(arrays):
    assert leading_size([SOUND, FIXED]) is None
    assert leading_size([SOUND, FIXED], {"state": 1}) == 1
    dataset = opened(arrays, [SOUND, FIXED], batch_axis={"state": 1})
    (batch,) = make_batches(dataset, 8, strict=True, workers=1, skipped={})
    outputs = run_padded(Recurrent(), batch)
    assert {name: array.shape for name, array in outputs.items()} == {"y": (5, 4), "hn": (5, 2, 1, 3)}
    np.testing.assert_array_equal(outputs["hn"][3, :, 0], batch.inputs["state"][:, 3] + 1)
