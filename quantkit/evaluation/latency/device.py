"""Latency of variants by a device's own events and trtexec's method: a runner records them, this sums them up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from quantkit.evaluation.latency.host import LatencyOptions, check_measurement, nearest_rank, summarize, take_turns
from quantkit.evaluation.latency.intervals import find_references, speedup_intervals
from quantkit.types import Array, Latency, QueryTimes, TimedRunner

TRTEXEC = LatencyOptions(min_iterations=10, warmup_s=0.2)
"""trtexec's --duration, --iterations and --warmUp."""

_BLOCK_MS = 100.0
"""Length of a turn: long enough for the clocks to settle, short enough that a hot moment hits every variant."""

# Thresholds of trtexec's warnings: NVIDIA/TensorRT, samples/common/sampleReporting.cpp.
_UNSTABLE_VARIATION = 0.025
_BOUND_BY_ENQUEUE = 0.8


def measure_device_latency(
    runners: Mapping[str, TimedRunner],
    inputs: Mapping[str, Array],
    options: LatencyOptions = TRTEXEC,
    *,
    backends: Mapping[str, str] | None = None,
    on_progress: Callable[[float], None] | None = None,
    rounds: dict[str, list[list[float]]] | None = None,
) -> dict[str, Latency]:
    """Times queries of every runner on the same inputs, as trtexec does.

    After a warm-up of each, the runners take turns in blocks of about 100 ms; each round starts one runner later. A
    query's latency is the copy to the device, the computation and the copy back, each by the device's events. Unlike
    trtexec, which overlaps the copies of one query with the computation of another, queries follow each other on one
    stream (its ``--exposeDMA``): the times of a query are the same, the throughput is that of one stream.

    Args:
        runners: by variant name.
        inputs: one batch, [N, ...] each, that every runner takes.
        options: how long; the defaults are trtexec's own.
        backends: variant → backend: a speed-up is over the first variant of the same one; None if all are of one.
        on_progress: called after each round with the share that is done, 0 to 1.
        rounds: filled with the times of the computation in ms, by variant and block.

    Returns:
        variant → latency, in the order of `runners`.

    Raises:
        EvaluationError: no runner or no input.
    """
    check_measurement(runners, inputs)
    for runner in runners.values():
        runner.time_block(inputs, duration_ms=1e3 * options.warmup_s)
    blocks: dict[str, list[QueryTimes]] = {name: [] for name in runners}

    def time_block(name: str) -> tuple[int, float]:
        block = runners[name].time_block(inputs, duration_ms=_BLOCK_MS)
        blocks[name].append(block)
        return len(block), block.span_ms / 1e3

    take_turns(list(runners), time_block, options, on_progress=on_progress)
    batch_size = len(next(iter(inputs.values())))
    compute = {name: [list(block.compute_ms) for block in timed] for name, timed in blocks.items()}
    if rounds is not None:
        rounds |= compute
    speedups = speedup_intervals(compute, find_references(list(runners), backends))
    return {
        name: _summarize(
            timed,
            batch_size=batch_size,
            cuda_graph=runners[name].uses_cuda_graph,
            speedup_interval=speedups[name],
        )
        for name, timed in blocks.items()
    }


def latency_notes(latency: Latency) -> tuple[str, ...]:
    """Doubts about a latency that its numbers raise by themselves, as trtexec has them; one sentence each."""
    notes = []
    if latency.compute_variation is not None and latency.compute_variation > _UNSTABLE_VARIATION:
        notes.append(
            f"its compute time is unstable (coefficient of variation {100 * latency.compute_variation:.1f}%): lock "
            "the GPU's clocks (nvidia-smi --lock-gpu-clocks), or leave the GPU to this measurement alone"
        )
    if latency.enqueue_ms is not None and latency.enqueue_ms > _BOUND_BY_ENQUEUE * (latency.compute_ms or 0.0):
        remedy = "" if latency.cuda_graph else "; try --cuda-graph, or a larger batch"
        notes.append(
            f"it is bound by enqueue: the host needs {latency.enqueue_ms:.3g} ms to hand over "
            f"{latency.compute_ms:.3g} ms of computation, so the GPU may wait{remedy}"
        )
    return tuple(notes)


def _summarize(blocks: Sequence[QueryTimes], **rest: Any) -> Latency:
    h2d, compute, d2h, enqueue = (
        list(chain.from_iterable(getattr(block, part) for block in blocks))
        for part in ("h2d_ms", "compute_ms", "d2h_ms", "enqueue_ms")
    )
    mean = statistics.fmean(compute)
    return summarize(
        [list(map(sum, zip(b.h2d_ms, b.compute_ms, b.d2h_ms, strict=True))) for b in blocks],
        span_ms=sum(block.span_ms for block in blocks),
        threads=0,
        method="device",
        compute_ms=statistics.median(compute),
        compute_p99_ms=nearest_rank(sorted(compute), 99),
        compute_variation=statistics.pstdev(compute, mean) / mean if mean else 0.0,
        h2d_ms=statistics.median(h2d),
        d2h_ms=statistics.median(d2h),
        enqueue_ms=statistics.median(enqueue),
        **rest,
    )
