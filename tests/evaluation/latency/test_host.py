from __future__ import annotations

import gc
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import EvaluationError
from quantkit.evaluation.latency.host import LatencyOptions, measure_latency, nearest_rank
from quantkit.types import TensorSpec
from quantkit.types.options import parse_batch_sizes

MS = 1_000_000
INPUTS = {"x": np.zeros((4, 2), np.float32)}


class VirtualClock:
    """Time that passes only where a runner says so, and the order in which they ran."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now


class TimedRunner:
    """A runner whose calls take the given milliseconds in turn, the last for ever."""

    outputs = ()

    def __init__(self, clock: VirtualClock, name: str, *durations_ms: float, dtype: str = "float32") -> None:
        self.clock, self.name, self.durations = clock, name, list(durations_ms)
        self.inputs = (TensorSpec("x", np.dtype(dtype), ("N", 2)),)
        self.seen: list[np.dtype] = []
        self.gc: list[bool] = []

    def run(self, inputs):
        duration = self.durations.pop(0) if len(self.durations) > 1 else self.durations[0]
        self.clock.now += int(duration * MS)
        self.clock.calls.append(self.name)
        self.seen.append(inputs["x"].dtype)
        self.gc.append(gc.isenabled())
        return {}

    def close(self) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None: ...


def measure(clock, runners, *, duration_s=0.0, min_iterations=1, warmup_s=0.0, **rest):
    options = LatencyOptions(duration_s=duration_s, min_iterations=min_iterations, warmup_s=warmup_s)
    return measure_latency({r.name: r for r in runners}, INPUTS, options, clock=clock, **rest)


def runs_of(calls):
    """[(name, calls in a row)]."""
    blocks: list[list] = []
    for name in calls:
        if blocks and blocks[-1][0] == name:
            blocks[-1][1] += 1
        else:
            blocks.append([name, 1])
    return [tuple(block) for block in blocks]


def test_variants_are_interleaved_with_rotating_start():
    clock = VirtualClock()
    runners = [TimedRunner(clock, name, 10) for name in "abc"]
    result = measure(clock, runners, min_iterations=9)
    # One warm-up call each, then rounds of blocks: one call to fill the caches and three timed ones, 30 ms.
    assert "".join(clock.calls[:3]) == "abc"
    assert "".join(clock.calls[3:]) == "aaaabbbbcccc" + "bbbbccccaaaa" + "ccccaaaabbbb"
    assert [latency.iterations for latency in result.values()] == [9, 9, 9]


def test_a_slow_model_is_timed_from_its_first_call_in_a_block():
    clock = VirtualClock()
    measure(clock, [TimedRunner(clock, "slow", 100), TimedRunner(clock, "quick", 15)], min_iterations=2)
    assert runs_of(clock.calls[2:]) == [("slow", 2), ("quick", 3)]


def test_measurement_meets_minimum_duration_and_iterations():
    clock = VirtualClock()
    result = measure(
        clock, [TimedRunner(clock, "a", 1), TimedRunner(clock, "b", 40)], duration_s=0.3, min_iterations=24
    )
    assert result["b"].iterations == 24
    assert result["a"].iterations == 30 * 12
    long = measure(clock, [TimedRunner(clock, "a", 10)], duration_s=1.0, min_iterations=5)
    assert long["a"].iterations * 10 >= 1000


def test_warm_up_lasts_as_long_as_asked_and_is_not_counted():
    clock = VirtualClock()
    runner = TimedRunner(clock, "a", *[500] * 3, 10)
    result = measure(clock, [runner], warmup_s=1.5, min_iterations=3)
    assert result["a"].minimum_ms == 10
    assert result["a"].p99_ms == 10


def test_numbers_follow_their_definitions():
    clock = VirtualClock()
    timed = [float(ms) for ms in range(101, 121)]
    runner = TimedRunner(clock, "a", 100, *timed, 1)
    latency = measure(clock, [runner], min_iterations=20, threads=3)["a"]
    assert (latency.iterations, latency.batch_size, latency.threads) == (20, 4, 3)
    assert latency.median_ms == statistics.median(timed)
    assert latency.mean_ms == pytest.approx(statistics.mean(timed))
    assert (latency.minimum_ms, latency.p90_ms, latency.p99_ms) == (101, 118, 120)
    assert latency.throughput == pytest.approx(4 * 20 / (sum(timed) / 1000))


def test_inputs_are_cast_once_to_the_model_types():
    clock = VirtualClock()
    half = TimedRunner(clock, "half", 10, dtype="float16")
    measure(clock, [half])
    assert set(half.seen) == {np.dtype("float16")}


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_disabled_and_restored(enabled):
    clock = VirtualClock()
    runner = TimedRunner(clock, "a", 10)
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        measure(clock, [runner])
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert not any(runner.gc[1:])


def test_progress_rises_to_one():
    clock = VirtualClock()
    shares: list[float] = []
    measure(clock, [TimedRunner(clock, "a", 10)], min_iterations=9, on_progress=shares.append)
    assert shares == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]


def test_invalid_arguments_are_refused():
    clock = VirtualClock()
    with pytest.raises(EvaluationError, match="at least one variant"):
        measure_latency({}, INPUTS)
    with pytest.raises(EvaluationError, match="duration -1"):
        measure(clock, [TimedRunner(clock, "a", 1)], duration_s=-1)


@pytest.mark.parametrize(
    ("n", "percent", "index"), [(10, 90, 8), (10, 99, 9), (100, 99, 98), (1, 50, 0), (1000, 90, 899)]
)
def test_percentile_is_trtexecs(n, percent, index):
    assert nearest_rank(list(range(n)), percent) == index


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(0, 100))
def test_percentile_has_the_expected_number_of_values_above(values, percent):
    ordered = sorted(values)
    value = nearest_rank(ordered, percent)
    assert value in ordered
    assert sum(v > value for v in ordered) <= (100 - percent) * len(ordered) / 100


def test_intervals_hold_their_percentiles_and_the_reference_has_no_ratio():
    clock = VirtualClock()
    rng = np.random.default_rng(0)
    a, b = (TimedRunner(clock, name, *rng.lognormal(mean, 0.1, 3000)) for name, mean in (("a", 1.0), ("b", 0.3)))
    result = measure(clock, [a, b], min_iterations=1200)
    for latency in result.values():
        for value, interval in (
            (latency.median_ms, latency.median_interval_ms),
            (latency.p90_ms, latency.p90_interval_ms),
            (latency.p99_ms, latency.p99_interval_ms),
        ):
            assert interval[0] <= value <= interval[1]
            assert interval[1] - interval[0] < 0.2 * value
    assert result["a"].speedup_interval is None
    low, high = result["b"].speedup_interval
    assert low <= result["a"].median_ms / result["b"].median_ms <= high
    assert low == pytest.approx(np.exp(0.7), rel=0.02)


def test_a_speedup_is_over_the_first_of_the_same_backend():
    clock = VirtualClock()
    runners = [TimedRunner(clock, name, ms) for name, ms in (("a", 12), ("b", 6), ("c", 2))]
    result = measure(clock, runners, min_iterations=40, backends={"a": "x", "b": "y", "c": "y"})
    assert [latency.speedup_interval for latency in result.values()] == [None, None, (3, 3)]


def test_a_short_measurement_has_no_intervals():
    clock = VirtualClock()
    latency = measure(clock, [TimedRunner(clock, "a", 10), TimedRunner(clock, "b", 5)], min_iterations=12)["b"]
    assert latency.median_interval_ms is None
    assert latency.speedup_interval is None


@pytest.mark.parametrize(("text", "sizes"), [("1", (1,)), ("1,8,32", (1, 8, 32)), (" 32 , 1", (32, 1)), ("08", (8,))])
def test_batch_sizes_are_parsed(text, sizes):
    assert parse_batch_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "1,", "0", "-1", "1.5", "1;8", "eight", "1,8,1", "8,08", "1" * 12, "１"])
def test_wrong_batch_sizes_name_the_option(text):
    with pytest.raises(EvaluationError, match="--batch-sizes"):
        parse_batch_sizes(text)


class BusyMachine(VirtualClock):
    """Gives the process the processor for some milliseconds, then takes it away for as many more."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.left = 4.0

    def work(self, ms: float) -> float:
        wall = ms = ms * self.rng.uniform(0.98, 1.02)
        while ms > self.left:
            ms -= self.left
            wall += 8 * self.rng.uniform(0.8, 1.2)
            self.left = 4 * self.rng.uniform(0.8, 1.2)
        self.left -= ms
        return wall


class InterruptedRunner(TimedRunner):
    def run(self, inputs):
        self.clock.now += int(MS * self.clock.work(self.durations[0]))
        return {}


def test_speedup_interval_is_extended_on_a_busy_machine():
    for seed in range(8):
        clock = BusyMachine(seed)
        runners = [InterruptedRunner(clock, "a", 1.3), InterruptedRunner(clock, "b", 2.1)]
        found = measure(clock, runners, duration_s=1.0, min_iterations=20, warmup_s=0.5)
        slow, (low, high) = found["b"], found["b"].speedup_interval
        base = found["a"].median_ms
        assert slow.median_interval_ms[1] > 3 * slow.median_interval_ms[0]
        assert high > 0.9 * base / slow.median_interval_ms[0]
        assert low < 1.1 * base / slow.median_interval_ms[1]


def test_slow_call_does_not_end_a_block():
    clock = VirtualClock()
    runner = TimedRunner(clock, "a", 10, 10, 200, *[10] * 9)
    measure(clock, [runner, TimedRunner(clock, "b", 10)], min_iterations=4)
    assert runs_of(clock.calls[2:]) == [("a", 4), ("b", 8), ("a", 4)]
