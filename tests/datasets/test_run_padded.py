import numpy as np
import pytest

from quantkit.datasets.batching import fixed_batch_size, run_padded
from quantkit.errors import ModelError
from quantkit.types import Batch, TensorSpec


class Recorder:
    """Returns its input, two rows for each sample, and something that does not depend on the batch."""

    def __init__(self, batch):
        self.inputs = (TensorSpec("x", np.dtype(np.float32), (batch, 3)),)
        self.outputs = ()
        self.calls = []

    def run(self, inputs):
        x = inputs["x"]
        self.calls.append(x.copy())
        return {"same": x, "twice": np.repeat(x, 2, axis=0), "constant": np.float32(7), "odd": np.zeros((5, 2))}

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


def batch_of(n):
    return Batch(inputs={"x": np.arange(3 * n, dtype=np.float32).reshape(n, 3)}, ids=tuple(map(str, range(n))))


@pytest.mark.parametrize(("leading", "fixed"), [("n", None), (None, None), (4, 4), (0, None)])
def test_fixed_batch_size(leading, fixed):
    assert fixed_batch_size(Recorder(leading)) == fixed


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_fixed_batch_equals_dynamic_batch(count):
    batch = batch_of(count)
    free, fixed = Recorder("n"), Recorder(4)
    expected, outputs = run_padded(free, batch), run_padded(fixed, batch)
    np.testing.assert_array_equal(outputs["same"], expected["same"])
    np.testing.assert_array_equal(outputs["twice"], expected["twice"])
    assert outputs["constant"] == 7
    assert outputs["odd"].shape == (5, 2)
    assert all(len(call) == 4 for call in fixed.calls)
    assert len(fixed.calls) == -(-count // 4)


def test_padding_repeats_real_samples():
    runner = Recorder(4)
    run_padded(runner, batch_of(3))
    assert {tuple(row) for row in runner.calls[0]} <= {tuple(row) for row in batch_of(3).inputs["x"]}


class Suppression(Recorder):
    """As many boxes as the sample says."""

    def run(self, inputs):
        return {"boxes": np.zeros((1, int(inputs["x"].max()), 4), np.float32)}


def test_an_output_whose_size_depends_on_values_is_named():
    with pytest.raises(ModelError, match=r"output 'boxes' is of another size for each sample: .*--batch-size 1$"):
        run_padded(Suppression(1), batch_of(3))
