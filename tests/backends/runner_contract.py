"""What every `Runner` must do, as a class of tests: a backend's own tests inherit from it and open the model."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.datasets.batching import fixed_batch_size, run_padded
from quantkit.errors import BackendError
from quantkit.types import Batch, Runner

X = np.array([[1, -2, 0.5], [-0.5, 3, -1]], np.float32)
Y = np.array([[3, 0, 2], [0, 7, 0]], np.float32)


class RunnerContract:
    """The model is y = relu(2 x + 1): float32 "x" and "y" of shape [N, 3], N from 1 to 8 at least."""

    def open(self) -> Runner:
        raise NotImplementedError

    @pytest.fixture
    def runner(self):
        with self.open() as runner:
            yield runner

    def test_runner_lists_its_inputs_and_outputs(self, runner):
        assert isinstance(runner, Runner)
        assert [(s.name, s.dtype, s.shape[1:]) for s in runner.inputs] == [("x", np.float32, (3,))]
        assert [(s.name, s.dtype, s.shape[1:]) for s in runner.outputs] == [("y", np.float32, (3,))]
        assert fixed_batch_size(runner) is None

    def test_runner_takes_any_batch_size_in_any_order(self, runner):
        for size in (2, 1, 8, 8, 3, 1):
            x = np.resize(X, (size, 3)).astype(np.float32) * size
            outputs = runner.run({"x": x})
            assert list(outputs) == ["y"]
            assert outputs["y"].dtype == np.float32
            np.testing.assert_array_equal(outputs["y"], np.maximum(2 * x + 1, 0))

    def test_outputs_are_owned_by_the_caller(self, runner):
        x = X.copy()
        first = runner.run({"x": x})["y"]
        runner.run({"x": x + 1})
        np.testing.assert_array_equal(first, Y)
        first[:] = 7
        np.testing.assert_array_equal(runner.run({"x": x})["y"], Y)
        np.testing.assert_array_equal(x, X)

    def test_inputs_need_not_be_contiguous(self, runner):
        np.testing.assert_array_equal(runner.run({"x": np.asfortranarray(X)})["y"], Y)
        np.testing.assert_array_equal(runner.run({"x": np.repeat(X, 2, axis=0)[::2]})["y"], Y)

    @pytest.mark.parametrize(
        "inputs",
        [
            {},
            {"X": X},
            {"x": X, "z": X},
            {"x": X[0]},
            {"x": X[:, :2]},
            {"x": X.astype(np.int64)},
            {"x": X > 0},
        ],
        ids=["none", "other name", "one too many", "rank", "size", "integers", "bool"],
    )
    def test_mismatched_inputs_are_refused_and_the_runner_stays_usable(self, runner, inputs):
        with pytest.raises(BackendError) as caught:
            runner.run(inputs)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)

    def test_closed_runner_is_refused_and_can_be_closed_again(self):
        runner = self.open()
        runner.run({"x": X})
        runner.close()
        runner.close()
        with pytest.raises(BackendError, match="closed"):
            runner.run({"x": X})

    def test_context_manager_closes_after_an_error(self):
        with pytest.raises(ZeroDivisionError), self.open() as runner:
            raise ZeroDivisionError
        with pytest.raises(BackendError, match="closed"):
            runner.run({"x": X})

    def test_two_runners_are_independent(self, runner):
        with self.open() as other:
            other.run({"x": X * 2})
            np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
            runner.close()
            np.testing.assert_array_equal(other.run({"x": X})["y"], Y)

    def test_batches_are_run(self, runner):
        np.testing.assert_array_equal(run_padded(runner, Batch({"x": X}, ("a", "b")))["y"], Y)
