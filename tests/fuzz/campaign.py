"""A run of many inputs: each parser in a process of its own, with little memory and little time for each input."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .oracle import Broken, Targets, check, make_input

__all__ = ["MEMORY_BYTES", "TIMEOUT_S", "Failure", "Outcome", "run_target"]

MEMORY_BYTES = 4 << 30
TIMEOUT_S = 5.0

_REPORT_S = 1.0
_MOST_FAILURES = 200


@dataclass(frozen=True)
class Failure:
    """Input `index` of a run, and what the parser did."""

    index: int
    what: str


@dataclass
class Outcome:
    """What a parser did with its inputs: peak_bytes is of the process, imports included."""

    accepted: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest_index: int = -1
    peak_bytes: int = 0
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return self.accepted + self.refused + len(self.failures)


def run_target(
    load: Callable[[], Targets],
    name: str,
    *,
    inputs: int,
    seed: int,
    shared: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> Outcome:
    """Tries `inputs` damaged files on one parser. A process that dies or hangs counts as a failure and is replaced.

    Args:
        load: a function of a module, by which the child finds the targets.
        name: of the target.
        inputs: how many.
        seed: of the run.
        shared: folder of real files to start from, too.
        timeout_s: that one input may take.
        memory_bytes: of address space that the child may have.
    """
    context = multiprocessing.get_context("spawn")
    outcome, start = Outcome(), 0
    while start < inputs and len(outcome.failures) < _MOST_FAILURES:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = context.Pipe(duplex=False)
            shared_counts = context.Array("q", [-1, 0, 0], lock=False)  # its input, how many it accepted and refused
            words = Path(folder) / "stderr"
            options = (seed, start, inputs, shared, timeout_s, memory_bytes)
            child = context.Process(target=_run, args=(load, name, options, theirs, shared_counts, words))
            child.start()
            theirs.close()
            finished = _receive(ours, outcome)
            child.join()
            place, accepted, refused = shared_counts
            outcome.accepted += accepted
            outcome.refused += refused
            if finished:
                return outcome
            if place < start:
                raise RuntimeError(f"the process for {name!r} did not start")
            last = words.read_text(errors="replace").strip().splitlines() if words.exists() else []
            if last and last[0].startswith("Process SpawnProcess"):
                raise RuntimeError(f"input {place} of {name!r} could not be made: {last[-1]}")
            reason = next((line for line in last if line.startswith(("Timeout", "Fatal"))), "")
            where = next((line.strip() for line in last if "/quantkit/" in line), "")
            what = f"the process ended with {child.exitcode}: {reason} {where}".strip()
            outcome.failures.append(Failure(place, what))
            start = place + 1
    return outcome


def _receive(pipe: Connection, outcome: Outcome) -> bool:
    """Adds up what a child reports; whether it came to its end."""
    while True:
        try:
            failures, slowest, peak, seconds, finished = pipe.recv()
        except EOFError:
            return False
        outcome.failures += failures
        outcome.seconds += seconds
        outcome.peak_bytes = max(outcome.peak_bytes, peak)
        if slowest[0] > outcome.slowest_s:
            outcome.slowest_s, outcome.slowest_index = slowest
        if finished:
            return True


def _run(
    load: Callable[[], Targets],
    name: str,
    options: tuple[int, int, int, Path | None, float, int],
    pipe: Connection,
    counts: Any,
    words: Path,
) -> None:
    """In the child: inputs from `start` on; what happened is reported every second; `counts` is kept up to date."""
    seed, start, inputs, shared, timeout_s, memory_bytes = options
    target = load()[name]
    seeds = target.seeds(shared)
    file = open(words, "w")  # noqa: SIM115
    os.dup2(file.fileno(), sys.stderr.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(file)
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=base) as name_of_folder:
        folder = Path(name_of_folder)
        if target.setup is not None:
            target.setup(folder)
        slowest = (0.0, -1)
        reported = time.monotonic()
        for index in range(start, inputs):
            counts[0] = index
            content = make_input(name, target, seeds, seed=seed, index=index)
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=file)
            started = time.monotonic()
            try:
                counts[1 if check(target, content, folder) else 2] += 1
            except Broken as broken:
                pipe.send(([Failure(index, str(broken))], (0.0, -1), 0, 0.0, False))
            now = time.monotonic()
            slowest = max(slowest, (now - started, index))
            if now - reported > _REPORT_S:
                pipe.send(([], slowest, _peak_bytes(), now - reported, False))
                slowest, reported = (0.0, -1), now
        faulthandler.cancel_dump_traceback_later()
        pipe.send(([], slowest, _peak_bytes(), time.monotonic() - reported, True))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
