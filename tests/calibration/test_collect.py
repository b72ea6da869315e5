import numpy as np
import pytest

from quantkit.calibration.collect import ACTIVATION_BUDGET_BYTES, Collector, collect, fitting_batch_size
from quantkit.calibration.statistics import new_statistics, update
from quantkit.errors import NonFiniteActivationError
from quantkit.types import Batch, TensorSpec


class Doubler:
    """A runner that returns twice its input, and counts rows that it was fed."""

    def __init__(self, batch="n", width=4):
        self.inputs = (TensorSpec("x", np.dtype(np.float32), (batch, width)),)
        self.outputs = (TensorSpec("y", np.dtype(np.float32), (batch, width)),)
        self.fed = []

    def run(self, inputs):
        self.fed.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"]}

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def batches_of(values, size):
    for start in range(0, len(values), size):
        rows = np.ascontiguousarray(values[start : start + size])
        yield Batch(inputs={"x": rows}, ids=tuple(f"{start + i}.png" for i in range(len(rows))))


VALUES = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)


def expected(values):
    statistics = new_statistics()
    update(statistics, values)
    return statistics


@pytest.mark.parametrize("batch", ["n", 4, 16])
def test_inputs_and_outputs_are_observed_and_filling_is_not(batch):
    runner = Doubler(batch)
    collector = collect(runner, batches_of(VALUES, 4), ["x", "y"], batch_first={"y"})
    assert collector.num_samples == 10
    np.testing.assert_array_equal(collector.statistics["x"].histogram, expected(VALUES).histogram)
    np.testing.assert_array_equal(collector.statistics["y"].histogram, expected(2 * VALUES).histogram)
    if isinstance(batch, int):
        assert set(runner.fed) == {batch}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_tensor_is_named_with_its_sample(bad):
    values = VALUES.copy()
    values[6, 2] = bad
    with pytest.raises(NonFiniteActivationError, match=r"tensor 'y'.*on 6\.png") as error:
        collect(Doubler(), batches_of(values, 4), ["y"])
    assert "\n" not in str(error.value)


def test_batch_size_fits_the_budget():
    one = Batch(inputs={"x": VALUES[:1]}, ids=("a",))
    assert fitting_batch_size(Doubler(), one) == 32
    assert fitting_batch_size(Doubler(batch=7), one) == 7
    wide = np.zeros((1, ACTIVATION_BUDGET_BYTES // 4 // 3), np.float32)
    assert fitting_batch_size(Doubler(width=wide.shape[1]), Batch(inputs={"x": wide}, ids=("a",))) == 3


def test_a_collector_takes_tensors_that_do_not_depend_on_the_batch():
    collector = Collector(["c"])
    collector.add(Batch(inputs={"x": VALUES}, ids=tuple("abcdefghij")), {"c": np.float32(3)})
    assert collector.statistics["c"].count == 1


class SequenceFirst(Doubler):
    """A model of a fixed batch size whose output has the batch second: [4, batch, 1]."""

    def run(self, inputs):
        self.fed.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"].T[:, :, None]}


@pytest.mark.parametrize("fixed", [3, 4, 7])
@pytest.mark.parametrize("fed_at_once", [4, 10])
def test_no_sample_is_lost_where_the_batch_comes_second(fixed, fed_at_once):
    values = VALUES.copy()
    values[-1, -1] = 50  # in the last, partial piece
    collector = collect(SequenceFirst(fixed), batches_of(values, fed_at_once), ["y"])
    assert collector.statistics["y"].maximum == 100
    whole = expected(2 * values)
    assert collector.statistics["y"].bin_width == whole.bin_width
    # Copies that filled a piece up are counted too, and nothing else.
    assert (collector.statistics["y"].histogram >= whole.histogram).all()
    assert collector.statistics["y"].count == whole.count + 4 * collector.num_repeated


def test_an_optional_tensor_that_is_not_finite_is_dropped_for_good():
    collector = Collector(["a", "b"], optional={"b"})
    finite, infinite = np.ones((1, 2), np.float32), np.full((1, 2), np.inf, np.float32)
    for b in (finite, infinite, finite):
        collector.add(Batch({"a": finite, "b": b}, ("s",)), {})
    assert collector.dropped == {"b"}
    assert collector.statistics["a"].count == 6
    assert collector.statistics["b"].count == 0
    with pytest.raises(NonFiniteActivationError, match="'a'"):
        collector.add(Batch({"a": infinite, "b": finite}, ("s",)), {})


def test_copies_have_the_statistics_of_what_they_copy():
    collector = Collector(["a", "b"], copies={"b": "a"})
    collector.add(Batch({"a": VALUES}, tuple("abcdefghij")), {})
    collector.add(Batch({"a": -VALUES}, tuple("abcdefghij")), {})
    for name in "ab":
        assert collector.statistics[name].count == 2 * VALUES.size
        assert collector.statistics[name].minimum == -collector.statistics[name].maximum


def test_what_a_needed_tensor_copies_has_to_be_finite():
    infinite = Batch({"a": np.full((1, 2), np.inf, np.float32)}, ("s",))
    both = Collector(["a", "b"], optional={"a", "b"}, copies={"b": "a"})
    both.add(infinite, {})
    assert both.statistics["b"].count == 0
    with pytest.raises(NonFiniteActivationError, match="'a'"):
        Collector(["a", "b"], optional={"a"}, copies={"b": "a"}).add(infinite, {})


def test_the_first_tensor_that_is_not_finite_is_named_whatever_its_size():
    batch = Batch({name: np.full((1, size), np.nan, np.float32) for name, size in (("a", 1), ("b", 9))}, ("s",))
    with pytest.raises(NonFiniteActivationError, match="'a'"):
        Collector(["a", "b"]).add(batch, {})
