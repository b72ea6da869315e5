import numpy as np
import pytest

from quantkit.calibration.collect import Collector
from quantkit.calibration.parallel import CollectorGroup
from quantkit.calibration.statistics import new_statistics, update
from quantkit.errors import NonFiniteActivationError, OutOfDeviceMemoryError
from quantkit.types import Batch, TensorSpec

VALUES = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)


class Doubler:
    """A runner with memory for so many rows at once."""

    def __init__(self, capacity=1000, batch="n"):
        self.inputs = (TensorSpec("x", np.dtype(np.float32), (batch, 5)),)
        self.outputs = (TensorSpec("y", np.dtype(np.float32), (batch, 5)),)
        self.capacity, self.fed = capacity, []

    def run(self, inputs):
        if len(inputs["x"]) > self.capacity:
            raise OutOfDeviceMemoryError("too much")
        self.fed.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"]}


def batches(values=VALUES, size=8):
    for start in range(0, len(values), size):
        rows = np.ascontiguousarray(values[start : start + size])
        yield Batch(inputs={"x": rows}, ids=tuple(f"{start + i}" for i in range(len(rows))))


def expected(values):
    statistics = new_statistics()
    update(statistics, values)
    return statistics


def collect(members, values=VALUES, size=8):
    with CollectorGroup(members) as group:
        for batch in batches(values, size):
            group.observe(batch)
        return group.statistics, group


def members(count, **options):
    return [(Doubler(), Collector(["x", "y"], **options)) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_statistics_do_not_depend_on_who_gets_what(count):
    found, group = collect(members(count))
    for name, factor in (("x", 1), ("y", 2)):
        wanted = expected(factor * VALUES)
        np.testing.assert_array_equal(found[name].histogram, wanted.histogram)
        assert (found[name].minimum, found[name].maximum) == (wanted.minimum, wanted.maximum)
    assert group.num_samples == len(VALUES)


@pytest.mark.parametrize("count", [1, 3])
def test_a_failure_of_any_member_ends_the_run(count):
    values = VALUES.copy()
    values[17, 2] = np.nan
    with pytest.raises(
        NonFiniteActivationError, match=r"tensor 'x' became NaN or infinite on 17: check .* the weights"
    ):
        collect(members(count), values)


def test_a_tensor_that_one_member_dropped_is_empty():
    values = VALUES.copy()
    values[3] = np.inf
    found, group = collect(members(2, optional={"x", "y"}), values)
    assert group.dropped == {"x", "y"}
    assert found["x"].count == found["y"].count == 0


def test_a_batch_that_memory_is_short_for_is_run_in_parts():
    runner = Doubler(capacity=3)
    found, _ = collect([(runner, Collector(["y"]))])
    assert set(runner.fed) == {2}
    np.testing.assert_array_equal(found["y"].histogram, expected(2 * VALUES).histogram)


def test_memory_that_is_short_for_one_sample_or_a_fixed_batch_is_an_error():
    with pytest.raises(OutOfDeviceMemoryError):
        collect([(Doubler(capacity=0), Collector(["y"]))])
    with pytest.raises(OutOfDeviceMemoryError):
        collect([(Doubler(capacity=3, batch=8), Collector(["y"]))])


def test_earlier_statistics_are_added_to():
    start = {"y": expected(2 * VALUES)}
    group = [(Doubler(), Collector(["y"], start=start)), (Doubler(), Collector(["y"]))]
    found, _ = collect(group)
    assert found["y"].count == 4 * VALUES.size / 2


def test_copies_of_a_tensor_that_one_member_dropped_are_empty_too():
    values = VALUES.copy()
    values[3] = np.inf
    found, group = collect(members(2, optional={"x", "y"}, copies={"y": "x"}), values)
    assert group.dropped == {"x", "y"}
    assert found["x"].count == found["y"].count == 0


def test_the_memory_of_a_batch_that_failed_is_let_go_of_before_its_halves_run():
    class Holder:
        alive = 0

        def __init__(self):
            Holder.alive += 1

        def __del__(self):
            Holder.alive -= 1

    class Runner(Doubler):
        def run(self, inputs):
            assert Holder.alive == 0
            held = Holder()
            assert held
            return super().run(inputs)

    collect([(Runner(capacity=3), Collector(["y"]))])
