"""Latency of the variants of an evaluation at one or more batch sizes, and signs that it was disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.datasets.batching import fixed_batch_size, make_batches, take_rows
from quantkit.errors import BackendError
from quantkit.evaluation.latency.device import TRTEXEC, measure_device_latency
from quantkit.evaluation.latency.host import LatencyOptions, measure_latency
from quantkit.interrupts import fulfils_wish
from quantkit.notices import join_names, logs_duration
from quantkit.progress import show_progress
from quantkit.types import Array, Dataset, Latency, Runner, TimedRunner

if TYPE_CHECKING:
    from quantkit.types.options import EvaluationOptions


@dataclass(frozen=True)
class Timing:
    """Latencies by variant, in the order of the batch sizes, and what could not be timed, one sentence each."""

    latencies: Mapping[str, tuple[Latency, ...]]
    warnings: tuple[str, ...]


@logs_duration
def time_batches(
    runners: Mapping[str, Runner],
    dataset: Dataset,
    options: EvaluationOptions,
    *,
    should_stop: Callable[[], bool],
) -> Timing:
    """Times all variants together at each batch size that they take.

    A model of a fixed batch size is timed at that alone. Where a larger batch than the first fails (memory), its
    sentence says so, and what was timed before stays.

    Args:
        runners: by variant name.
        dataset: what is fed: its first samples, repeated where there are too few.
        options: the batch sizes, the seconds at each, and how data are read.
        should_stop: asked between rounds; what was not finished by then is left out.
    """
    plan, warnings = _plan(runners, options.batch_sizes)
    found: dict[str, list[Latency]] = {name: [] for name in runners}
    with show_progress(None, "timing", 100 * len(plan), options.progress) as bar:
        for done, (size, names) in enumerate(plan.items()):

            def advance(share: float, done: int = done) -> None:
                if should_stop():
                    raise _StoppedError
                bar.update(round(100 * (done + share)) - bar.n)

            try:
                inputs = _repeat(dataset, size, strict=options.strict, workers=options.workers)
                timed = time_variants(
                    {name: runners[name] for name in names},
                    inputs,
                    duration_s=options.latency_s,
                    threads=options.threads,
                    on_progress=advance,
                )
            except (_StoppedError, KeyboardInterrupt) as stop:
                if isinstance(stop, KeyboardInterrupt) and not fulfils_wish():
                    raise
                warnings.append(f"timing was interrupted at batch size {size}: latencies there are left out")
                break
            except (BackendError, MemoryError) as error:
                if not done:
                    raise
                warnings.append(f"batch size {size} could not be timed: {error}")
                continue
            for name, latency in timed.items():
                found[name].append(latency)
    return Timing({name: tuple(latencies) for name, latencies in found.items()}, tuple(warnings))


class _StoppedError(Exception):
    """The user wants the measurement to end."""


def _plan(runners: Mapping[str, Runner], batch_sizes: Sequence[int]) -> tuple[dict[int, list[str]], list[str]]:
    """Batch size → variants that take it, and why some do not take some."""
    taken = {name: _taken(runner, batch_sizes) for name, runner in runners.items()}
    plan: dict[int, list[str]] = {}
    for size in dict.fromkeys([*batch_sizes, *(size for sizes in taken.values() for size in sizes)]):
        if names := [name for name, sizes in taken.items() if size in sizes]:
            plan[size] = names
    warnings = []
    for name, sizes in taken.items():
        if (left := [str(size) for size in batch_sizes if size not in sizes]) and tuple(batch_sizes) != (1,):
            takes = join_names([str(size) for size in sizes])
            warnings.append(f"{name} takes batches of {takes} alone: not timed at {join_names(left)}")
    return plan, warnings


def _taken(runner: Runner, batch_sizes: Sequence[int]) -> tuple[int, ...]:
    """Those of the batch sizes that the model takes, or the only one that it takes."""
    fixed, largest = fixed_batch_size(runner), getattr(runner, "max_batch_size", None)
    if fixed is not None:
        return (fixed,)
    fitting = tuple(size for size in batch_sizes if largest is None or size <= largest)
    return fitting or (int(largest or 1),)


def _repeat(dataset: Dataset, size: int, *, strict: bool, workers: int | None) -> Mapping[str, Any]:
    """Inputs of the first samples, as many as are timed at once, repeated where there are too few."""
    batch = next(iter(make_batches(dataset, size, strict=strict, workers=workers, skipped={})))
    return take_rows(batch, np.arange(size) % len(batch))


def timing_warnings(latencies: Mapping[str, Sequence[Latency]], environment: Mapping[str, str]) -> list[str]:
    """Signs that other work disturbed the measurement."""
    if not any(latencies.values()):
        return []
    found = []
    load, cores = float(environment.get("load_average", 0)), int(environment.get("cpu_cores", 1))
    if load > cores:
        found.append(f"the machine was busy (load {load:.1f} on {cores} cores): latencies are longer and less certain")
    disturbed = {
        name: [str(latency.batch_size) for latency in measured if latency.mean_ms > 1.5 * latency.median_ms]
        for name, measured in latencies.items()
    }
    if listed := [f"{name} (batch {', '.join(sizes)})" for name, sizes in disturbed.items() if sizes]:
        found.append(f"calls were interrupted, mean times are over 1.5 times the median: {'; '.join(listed)}")
    return found


def time_variants(
    runners: Mapping[str, Runner],
    inputs: Mapping[str, Array],
    *,
    duration_s: float,
    threads: int,
    on_progress: Callable[[float], None],
) -> dict[str, Latency]:
    """Times the variants: engines by the device's events, the others by the host's clock, each kind among itself."""
    device = {name: runner for name, runner in runners.items() if isinstance(runner, TimedRunner)}
    host = {name: runner for name, runner in runners.items() if name not in device}
    found: dict[str, Latency] = {}
    share = len(host) / len(runners)
    if host:
        found |= measure_latency(
            host,
            inputs,
            LatencyOptions(duration_s=duration_s),
            threads=threads,
            on_progress=lambda done: on_progress(share * done),
        )
    if device:
        found |= measure_device_latency(
            device,
            inputs,
            replace(TRTEXEC, duration_s=duration_s),
            backends={name: str(getattr(runner, "backend", "")) for name, runner in device.items()},
            on_progress=lambda done: on_progress(share + (1 - share) * done),
        )
    return {name: found[name] for name in runners}
