from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation.latency.device import latency_notes, measure_device_latency
from quantkit.evaluation.latency.host import LatencyOptions
from quantkit.types import QueryTimes, TensorSpec, TimedRunner

INPUTS = {"x": np.zeros((4, 2), np.float32)}


class ScriptedRunner:
    """A device whose queries compute for the given milliseconds in turn, over and over; copies take 0.5 and 0.25."""

    inputs = (TensorSpec("x", np.dtype("float32"), (None, 2)),)
    outputs = ()

    def __init__(self, *compute_ms: float, enqueue_ms: float = 0.01, order: list[str] | None = None, name: str = ""):
        self.compute_ms, self.enqueue_ms, self.order, self.name = compute_ms, enqueue_ms, order, name
        self.position = 0
        self.uses_cuda_graph = False
        self.blocks: list[float] = []

    def time_block(self, inputs, *, duration_ms, min_queries=1):
        self.blocks.append(duration_ms)
        if self.order is not None:
            self.order.append(self.name)
        compute = []
        while len(compute) < min_queries or sum(compute) + 0.75 * len(compute) < duration_ms:
            compute.append(self.compute_ms[self.position % len(self.compute_ms)])
            self.position += 1
        count = len(compute)
        span = sum(compute) + 0.75 * count
        return QueryTimes((0.5,) * count, tuple(compute), (0.25,) * count, (self.enqueue_ms,) * count, span_ms=span)

    def run(self, inputs):
        raise AssertionError("timing is left to the device")

    def close(self) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None: ...


def measure(*runners, duration_s=0.0, min_iterations=1, warmup_s=0.0, **rest):
    options = LatencyOptions(duration_s=duration_s, min_iterations=min_iterations, warmup_s=warmup_s)
    return measure_device_latency({r.name or "a": r for r in runners}, INPUTS, options, **rest)


def test_fake_runner_satisfies_the_protocol():
    assert isinstance(ScriptedRunner(1.0), TimedRunner)


def test_numbers_follow_their_definitions():
    compute = [float(ms) for ms in range(1, 21)]
    runner = ScriptedRunner(0.25, *compute, 99.0, enqueue_ms=0.125)
    latency = measure(runner, min_iterations=9, duration_s=0)["a"]
    timed = compute[: latency.iterations]
    whole = [ms + 0.75 for ms in timed]
    assert latency.iterations >= 9
    assert (latency.method, latency.batch_size, latency.cuda_graph) == ("device", 4, False)
    assert latency.compute_ms == statistics.median(timed)
    assert latency.median_ms == pytest.approx(statistics.median(whole))
    assert latency.minimum_ms == 1.75
    assert (latency.h2d_ms, latency.d2h_ms, latency.enqueue_ms) == (0.5, 0.25, 0.125)
    assert latency.compute_variation == pytest.approx(statistics.pstdev(timed) / statistics.mean(timed))
    assert latency.throughput == pytest.approx(4 * len(whole) / (sum(whole) / 1e3))
    assert latency.compute_p99_ms == timed[-1]
    assert latency.compared_ms == latency.compute_ms


def test_warm_up_and_duration_follow_the_options():
    runner = ScriptedRunner(4.25)
    latency = measure(runner, warmup_s=0.2, duration_s=1.0, min_iterations=10)["a"]
    assert runner.blocks[0] == 200
    assert set(runner.blocks[1:]) == {100}
    assert latency.iterations * 5 >= 1000 > latency.iterations * 5 - 105
    slow = measure(ScriptedRunner(400.0), duration_s=1.0, min_iterations=10)["a"]
    assert slow.iterations == 10


def test_variants_are_interleaved_with_rotating_start():
    order: list[str] = []
    runners = [ScriptedRunner(9.25, order=order, name=name) for name in ("fp32", "fp16", "int8")]
    measure(*runners, min_iterations=30)
    assert order == ["fp32", "fp16", "int8", "fp32", "fp16", "int8", "fp16", "int8", "fp32", "int8", "fp32", "fp16"]


def test_an_unstable_clock_and_a_busy_host_are_noted_as_trtexec_does():
    steady = measure(ScriptedRunner(1.0))["a"]
    assert latency_notes(steady) == ()
    unsteady = measure(ScriptedRunner(1.0, 1.1), min_iterations=10)["a"]
    (note,) = latency_notes(unsteady)
    assert "unstable (coefficient of variation 4.8%)" in note
    bound = measure(ScriptedRunner(1.0, enqueue_ms=0.81))["a"]
    (note,) = latency_notes(bound)
    assert "bound by enqueue: the host needs 0.81 ms to hand over 1 ms" in note
    assert "--cuda-graph" in note
    assert "--cuda-graph" not in latency_notes(replace(bound, cuda_graph=True))[0]


def test_host_latency_has_no_device_notes():
    latency = measure(ScriptedRunner(1.0))["a"]
    nothing = dict.fromkeys(("compute_ms", "compute_p99_ms", "compute_variation", "h2d_ms", "d2h_ms", "enqueue_ms"))
    by_host = replace(latency, method="host", **nothing)
    assert latency_notes(by_host) == ()
    assert by_host.compared_ms == by_host.median_ms


def test_invalid_arguments_are_refused():
    with pytest.raises(EvaluationError, match="at least one variant"):
        measure_device_latency({}, INPUTS)
    with pytest.raises(EvaluationError, match="duration -1"):
        measure(ScriptedRunner(1.0), duration_s=-1)
    with pytest.raises(EvaluationError, match="same number of queries"):
        QueryTimes((1.0,), (1.0, 2.0), (1.0,), (1.0,), span_ms=3)
    latency = measure(ScriptedRunner(1.0))["a"]
    with pytest.raises(EvaluationError, match="does not go with method 'host'"):
        replace(latency, method="host")
    with pytest.raises(EvaluationError, match="does not go with method 'device'"):
        replace(latency, compute_ms=None)
    with pytest.raises(EvaluationError, match="d2h_ms nan"):
        replace(latency, d2h_ms=float("nan"))


def test_progress_rises_to_one():
    shares: list[float] = []
    measure(ScriptedRunner(99.25), min_iterations=4, on_progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_intervals_use_queries_and_speedups_use_compute_times():
    rng = np.random.default_rng(0)
    slow, fast = ScriptedRunner(*rng.lognormal(1, 0.1, 997), name="a"), ScriptedRunner(*rng.lognormal(0, 0.1, 997))
    fast.name = "b"
    result = measure(slow, fast, duration_s=2.0)
    for latency in result.values():
        low, high = latency.median_interval_ms
        assert low <= latency.median_ms <= high < 1.1 * low
        assert latency.p90_interval_ms[0] <= latency.p90_ms <= latency.p90_interval_ms[1]
    assert result["a"].speedup_interval is None
    low, high = result["b"].speedup_interval
    assert low <= result["a"].compute_ms / result["b"].compute_ms <= high
    assert low == pytest.approx(np.e, rel=0.05)
    assert result["a"].median_ms / result["b"].median_ms < low


def test_engines_of_another_library_are_compared_among_themselves():
    runners = [ScriptedRunner(ms, name=name) for name, ms in (("t32", 4.0), ("r32", 3.0), ("t8", 2.0), ("r8", 1.0))]
    backends = {"t32": "TensorRT", "t8": "TensorRT", "r32": "RTX", "r8": "RTX"}
    result = measure(*runners, duration_s=1.0, backends=backends)
    found = {name: latency.speedup_interval for name, latency in result.items()}
    assert found == {"t32": None, "r32": None, "t8": (2, 2), "r8": (3, 3)}
