"""Latency and throughput of variants, measured fairly: one process, one input, the variants taking turns.

Here by the host's clock; by a device's own events in `quantkit.evaluation.latency.device`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from quantkit.errors import EvaluationError
from quantkit.evaluation.latency.intervals import find_references, rank_interval, speedup_intervals
from quantkit.types import Array, Latency, Runner

_BLOCK_NS = 30_000_000
"""Length of a turn: long enough to be in step, short enough that a slow moment of the machine hits every variant."""

_MIN_CALLS_PER_BLOCK = 2
_MAX_CALLS_PER_BLOCK = 100_000
"""Where the clock is too coarse for a call."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """How long each variant is timed.

    Attributes:
        duration_s: timed seconds per variant, at least.
        min_iterations: timed calls or queries per variant, at least.
        warmup_s: seconds of untimed calls per variant, at least one call.
    """

    duration_s: float = 3.0
    min_iterations: int = 20
    warmup_s: float = 0.5

    def __post_init__(self) -> None:
        if self.duration_s < 0 or self.warmup_s < 0 or self.min_iterations < 1:
            raise EvaluationError(
                f"latency: duration {self.duration_s} s, warm-up {self.warmup_s} s and {self.min_iterations} "
                "iterations must be positive"
            )


def measure_latency(
    runners: Mapping[str, Runner],
    inputs: Mapping[str, Array],
    options: LatencyOptions = LatencyOptions(),
    *,
    threads: int = 0,
    backends: Mapping[str, str] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_progress: Callable[[float], None] | None = None,
    rounds: dict[str, list[list[float]]] | None = None,
) -> dict[str, Latency]:
    """Times calls of every runner on the same inputs.

    After a warm-up of each, the runners take turns in blocks of as many calls as take about 30 ms by the warm-up; each
    round starts one runner later, so none is always first. A block that ended by the clock would mostly end with a slow
    call: of these there would be too many, and blocks would be too alike. A fast runner begins its block with one call
    that is not timed, because the others have just filled the caches. Garbage collection rests during a block. It ends
    when every runner has both its duration and its iterations. What is timed is `Runner.run` on the host's clock:
    copies to and from a device are inside.

    Args:
        runners: by variant name.
        inputs: one batch, [N, ...] each; it must have the batch size that the runners take.
        options: how long.
        threads: as the runners were opened; only noted.
        backends: variant → backend: a speed-up is over the first variant of the same one; None if all are of one.
        clock: nanoseconds.
        on_progress: called after each round with the share that is done, 0 to 1.
        rounds: filled with the times of the calls in ms, by variant and block.

    Returns:
        variant → latency, in the order of `runners`.

    Raises:
        EvaluationError: no runner or no input.
    """
    check_measurement(runners, inputs)
    calls = {name: _make_call(runner, inputs) for name, runner in runners.items()}
    typical = {name: _warm_up(call, int(options.warmup_s * 1e9), clock) for name, call in calls.items()}
    rounds = {} if rounds is None else rounds
    rounds |= {name: [] for name in calls}

    def time_block(name: str) -> tuple[int, float]:
        count = min(max(math.ceil(_BLOCK_NS / max(typical[name], 1)), _MIN_CALLS_PER_BLOCK), _MAX_CALLS_PER_BLOCK)
        block = _time_block(calls[name], clock, count=count, settle=typical[name] < _BLOCK_NS)
        rounds[name].append([ns / 1e6 for ns in block])
        return len(block), sum(block) / 1e9

    take_turns(list(calls), time_block, options, on_progress=on_progress)
    batch_size = len(next(iter(inputs.values())))
    speedups = speedup_intervals(rounds, find_references(list(rounds), backends))
    return {
        name: summarize(
            times,
            batch_size=batch_size,
            span_ms=sum(chain.from_iterable(times)),
            threads=threads,
            speedup_interval=speedups[name],
        )
        for name, times in rounds.items()
    }


def take_turns(
    names: Sequence[str],
    time_block: Callable[[str], tuple[int, float]],
    options: LatencyOptions,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Times blocks of each variant in rounds, until each has its duration and its iterations.

    Each round starts one variant later, so none is always first.

    Args:
        names: of the variants.
        time_block: times one block of a variant; returns its calls and its seconds.
        options: how long.
        on_progress: called after each round with the share that is done, 0 to 1.
    """
    calls = dict.fromkeys(names, 0)
    seconds = dict.fromkeys(names, 0.0)
    turn, done = 0, 0.0
    while done < 1:
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            count, length = time_block(name)
            calls[name] += count
            seconds[name] += length
        turn += 1
        done = min(calls.values()) / options.min_iterations
        if options.duration_s:
            done = min(done, min(seconds.values()) / options.duration_s)
        if on_progress is not None:
            on_progress(min(done, 1.0))


def check_measurement(runners: Mapping[str, object], inputs: Mapping[str, Array]) -> None:
    """Raises `EvaluationError` where there is nothing to time, by either method."""
    if not runners or not inputs:
        raise EvaluationError("latency needs at least one variant and one input")


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile as trtexec reports it: element ``max(n - 1 - int((1 - percent / 100) n), 0)``.

    Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp.

    >>> nearest_rank([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90)
    9

    Args:
        ordered: at least one value, ascending.
        percent: from 0 to 100.
    """
    excluded = int((100 - percent) * len(ordered) / 100)
    return ordered[max(len(ordered) - 1 - excluded, 0)]


def _make_call(runner: Runner, inputs: Mapping[str, Array]) -> Callable[[], object]:
    wanted = {spec.name: spec.dtype for spec in runner.inputs}
    ready = {
        name: np.ascontiguousarray(array, wanted[name])
        if name in wanted and np.issubdtype(array.dtype, np.floating) and np.issubdtype(wanted[name], np.floating)
        else array
        for name, array in inputs.items()
    }
    return lambda: runner.run(ready)


def _warm_up(call: Callable[[], object], length_ns: int, clock: Callable[[], int]) -> float:
    """Runs for `length_ns`, at least once; returns the median time of the later half of the calls, ns."""
    begin = clock()
    times: list[int] = []
    while True:
        start = clock()
        call()
        end = clock()
        times.append(end - start)
        if end - begin >= length_ns:
            return statistics.median(times[len(times) // 2 :])


def _time_block(call: Callable[[], object], clock: Callable[[], int], *, count: int, settle: bool) -> list[int]:
    times: list[int] = []
    with _no_garbage_collection():
        if settle:
            call()
        for _ in range(count):
            start = clock()
            call()
            times.append(clock() - start)
    return times


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def summarize(rounds: Sequence[Sequence[float]], *, batch_size: int, span_ms: float, **rest: Any) -> Latency:
    """The latency of a variant.

    Args:
        rounds: its times in ms, by block.
        batch_size: samples of each.
        span_ms: time that all of them took together.
        rest: further fields of `Latency`.
    """
    ordered = sorted(chain.from_iterable(rounds))
    return Latency(
        batch_size=batch_size,
        iterations=len(ordered),
        median_ms=statistics.median(ordered),
        mean_ms=statistics.fmean(ordered),
        minimum_ms=ordered[0],
        p90_ms=nearest_rank(ordered, 90),
        p99_ms=nearest_rank(ordered, 99),
        throughput=batch_size * len(ordered) / (span_ms / 1e3) if span_ms else 0.0,
        median_interval_ms=rank_interval(rounds, 50),
        p90_interval_ms=rank_interval(rounds, 90),
        p99_interval_ms=rank_interval(rounds, 99),
        **rest,
    )
