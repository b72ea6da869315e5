"""Simulates how often latency intervals contain the true value if consecutive calls are correlated.

python benchmarks/latency_intervals.py [--runs 300]

Prints the Markdown table of docs/explanation/latency.md.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.latency.intervals import binomial_ranks, rank_interval, speedup_intervals

Times = npt.NDArray[np.float64]

SPREAD = 0.05
"""Standard deviation of the logarithm of a time, of calls within a round and of rounds."""


@dataclass(frozen=True)
class Machine:
    """Correlation of latencies in a run: of each call, and of each round, with the previous one."""

    name: str
    calls: float = 0.0
    rounds: float = 0.0
    shape: tuple[int, int] = (100, 30)
    rounds_differ: bool = True


MACHINES = (
    Machine("independent", rounds_differ=False),
    Machine("correlation 0.9 from call to call", calls=0.9, rounds_differ=False),
    Machine("each round has its own speed"),
    Machine("..., and resembles the round before by 0.5", calls=0.5, rounds=0.5),
    Machine("..., by 0.9: slow phases a tenth of the run long", calls=0.5, rounds=0.9),
    Machine("30 rounds of 2 calls", calls=0.5, rounds=0.5, shape=(30, 2)),
)


def autocorrelated(rng: np.random.Generator, count: int, correlation: float) -> Times:
    noise = rng.normal(size=count) * math.sqrt(1 - correlation**2)
    values = np.empty(count)
    last = rng.normal()
    for i in range(count):
        last = values[i] = correlation * last + noise[i]
    return values


def simulate(rng: np.random.Generator, machine: Machine) -> tuple[Times, Times]:
    """Latencies of two variants in the same rounds, the second twice as fast; each [rounds, calls]."""
    rounds, calls = machine.shape
    moment = SPREAD * autocorrelated(rng, rounds, machine.rounds)[:, None] * machine.rounds_differ
    own = [SPREAD * autocorrelated(rng, rounds * calls, machine.calls).reshape(machine.shape) for _ in range(2)]
    return np.exp(own[0] + moment), np.exp(own[1] + moment) / 2


def held(interval: tuple[float, float] | None, truth: float) -> float:
    """NaN if there is no interval."""
    return math.nan if interval is None else float(interval[0] <= truth <= interval[1])


def independent_interval(times: Times, percent: float) -> tuple[float, float] | None:
    ordered, ranks = np.sort(times.ravel()), binomial_ranks(times.size, percent / 100)
    return None if ranks is None else (ordered[ranks[0] - 1], ordered[ranks[1] - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    print("| calls | median | p99 | median, as if independent | speed-up |\n|---|---|---|---|---|")
    for machine in MACHINES:
        rng = np.random.default_rng(0)
        whole = SPREAD * math.sqrt(1 + machine.rounds_differ)
        p99 = math.exp(whole * NormalDist().inv_cdf(0.99))
        found = []
        for _ in range(runs):
            slow, fast = simulate(rng, machine)
            speedup = speedup_intervals({"slow": slow, "fast": fast}, {"slow": "slow", "fast": "slow"})["fast"]
            found.append(
                [
                    held(rank_interval(slow, 50), 1.0),
                    held(rank_interval(slow, 99), p99),
                    held(independent_interval(slow, 50), 1.0),
                    held(speedup, 2.0),
                ]
            )
        columns = np.array(found).T
        cells = [f"{100 * np.nanmean(c):.0f}%" if np.isfinite(c).any() else "(none)" for c in columns]
        print(f"| {machine.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
