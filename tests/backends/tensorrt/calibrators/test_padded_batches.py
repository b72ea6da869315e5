import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.calibrators.padded_batches import PaddedBatches
from quantkit.errors import CalibrationError, DatasetError
from quantkit.types import Batch, TensorSpec


def spec(batch_size, dtype=np.float32, shape=(2,)):
    return TensorSpec("x", np.dtype(dtype), (batch_size, *shape))


def split(values, batch_size):
    """Batches as the data set gives them: the last one may be smaller."""
    for start in range(0, len(values), batch_size):
        part = np.ascontiguousarray(values[start : start + batch_size])
        yield Batch(inputs={"x": part}, ids=tuple(f"s{start + i}" for i in range(len(part))))


@given(st.integers(1, 30), st.integers(1, 8), st.sampled_from(["pad", "drop"]))
def test_batches_are_full_ordered_and_counted(num_samples, batch_size, last):
    values = np.arange(num_samples * 2, dtype=np.float32).reshape(num_samples, 2)
    told = []
    if last == "drop" and num_samples < batch_size:
        with pytest.raises(CalibrationError, match="do not fill a batch"):
            PaddedBatches(
                lambda: split(values, batch_size), [spec(batch_size)], num_samples=num_samples, last_batch=last
            )
        return
    batches = PaddedBatches(
        lambda: split(values, batch_size),
        [spec(batch_size)],
        num_samples=num_samples,
        last_batch=last,
        notify=told.append,
    )
    found = list(batches)
    assert len(found) == len(batches)
    assert all(b.inputs["x"].shape == (batch_size, 2) and b.inputs["x"].flags.c_contiguous for b in found)
    rows = np.concatenate([b.inputs["x"] for b in found])
    ids = [name for b in found for name in b.ids]
    used = min(len(rows), num_samples)
    assert np.array_equal(rows[:used], values[:used])
    assert len(told) == (num_samples % batch_size != 0)
    assert np.array_equal(rows, values[[int(name[1:]) for name in ids]])
    if last == "pad":
        assert used == num_samples


def test_batches_can_be_read_again():
    values = np.zeros((5, 2), np.float32)
    batches = PaddedBatches(lambda: split(values, 2), [spec(2)], num_samples=5)
    assert [b.ids for b in batches] == [b.ids for b in batches] == [("s0", "s1"), ("s2", "s3"), ("s4", "s0")]


def test_unreadable_samples_are_not_planned_for():
    skipped = {}
    batches = PaddedBatches(lambda: (), [spec(2)], num_samples=7, skipped=skipped)
    assert len(batches) == 4
    skipped.update({"a": "broken", "b": "broken", "c": "broken"})
    assert len(batches) == 2


@pytest.mark.parametrize(
    ("given_type", "wanted", "fed"),
    [
        (np.float16, np.float16, np.float32),
        (np.float64, np.float32, np.float32),
        (np.uint8, np.uint8, np.float32),
        (np.int64, np.int32, np.int32),
        (np.int64, np.int64, np.int64),
        (np.bool_, np.bool_, np.bool_),
    ],
)
def test_types_are_those_that_tensorrt_reads(given_type, wanted, fed):
    values = np.ones((2, 2), given_type)
    batches = PaddedBatches(lambda: split(values, 2), [spec(2, wanted)], num_samples=2)
    assert batches.inputs[0].dtype == fed
    (batch,) = batches
    assert batch.inputs["x"].dtype == fed
    assert (batch.inputs["x"] == 1).all()


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        (np.float32("nan"), np.float32, "s3: input 'x' has a value that is NaN or infinite in FP32: nan"),
        (np.float64(1e300), np.float32, "s3: .* NaN or infinite in FP32: 1e"),
        (np.int64(2**31), np.int32, "s3: .* no int32: 2147483648"),
        (np.float32(0.5), np.int64, "s3: .* no int64: 0.5"),
    ],
)
def test_unusable_values_name_sample_and_input(value, wanted, message):
    values = np.zeros((4, 2), value.dtype)
    values[3, 1] = value
    with pytest.raises(DatasetError, match=message):
        list(PaddedBatches(lambda: split(values, 2), [spec(2, wanted)], num_samples=4))


def test_another_input_or_shape_is_refused():
    values = np.zeros((2, 2), np.float32)
    other = TensorSpec("y", np.dtype(np.float32), (2, 2))
    with pytest.raises(CalibrationError, match="takes input 'y', but the data have 'x'"):
        list(PaddedBatches(lambda: split(values, 2), [other], num_samples=2))
    with pytest.raises(CalibrationError, match=r"\[2\] do not fit the calibration profile \[2, 3\]"):
        list(PaddedBatches(lambda: split(values, 2), [spec(2, shape=(3,))], num_samples=2))
    with pytest.raises(CalibrationError, match="a batch of 2 samples where 1 were planned"):
        list(PaddedBatches(lambda: split(values, 2), [spec(1)], num_samples=2))


@pytest.mark.parametrize("shape", [("N", 3), (None, 3), (2, -1), ()])
def test_the_profile_has_a_fixed_shape(shape):
    with pytest.raises(CalibrationError, match="no fixed shape"):
        PaddedBatches(lambda: (), [TensorSpec("x", np.dtype(np.float32), shape)], num_samples=2)


def test_inputs_have_one_batch_size():
    inputs = [spec(2), TensorSpec("y", np.dtype(np.float32), (4, 2))]
    with pytest.raises(CalibrationError, match="differ in batch size"):
        PaddedBatches(lambda: (), inputs, num_samples=2)


def test_leaving_early_closes_the_reader():
    closed = []

    def read():
        try:
            yield from split(np.zeros((4, 2), np.float32), 2)
        finally:
            closed.append(True)

    iterator = iter(PaddedBatches(read, [spec(2)], num_samples=4))
    next(iterator)
    iterator.close()
    assert closed == [True]


def test_batches_are_padded_where_the_model_has_its_batch():
    """A state [2, N, 3] beside sound [N, 4], and a sample rate that is the same for all."""
    axes = {"state": 1, "rate": None}
    inputs = [
        TensorSpec("x", np.dtype(np.float32), (4, 4)),
        TensorSpec("state", np.dtype(np.float32), (2, 4, 3)),
        TensorSpec("rate", np.dtype(np.int64), ()),
    ]
    state = np.arange(30, dtype=np.float32).reshape(2, 5, 3)
    parts = [
        Batch(
            inputs={"x": np.ones((n, 4), np.float32), "state": state[:, i : i + n].copy(), "rate": np.array(16000)},
            ids=tuple(f"s{i + j}" for j in range(n)),
            axes=axes,
        )
        for i, n in ((0, 4), (4, 1))
    ]
    full, padded = PaddedBatches(lambda: parts, inputs, num_samples=5, axes=axes)
    assert full.inputs["state"].shape == padded.inputs["state"].shape == (2, 4, 3)
    assert np.array_equal(padded.inputs["state"], state[:, [4, 0, 1, 2]])
    assert padded.inputs["rate"] == 16000
    assert padded.inputs["rate"].shape == ()
    assert padded.ids == ("s4", "s0", "s1", "s2")
