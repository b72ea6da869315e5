"""Which engine is the fastest: FP16, INT8, or INT8 with runs of operators in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from quantkit.commands.planned_build import PlannedBuild
from quantkit.commands.timed_builds import TimedBuilds, Timings
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.placement.tensorrt import exact_patterns, exclude_tensors, plan_tensorrt
from quantkit.notices import join_names
from quantkit.types.evaluation import Interval
from quantkit.types.options import EngineOptions

LEAST_SPEEDUP = 1.02
"""Over FP16: the lower end of the 95% interval has to reach it."""

FP16, _INT8, _MIXED = "fp16", "int8", "int8-mixed"


@dataclass(frozen=True)
class TimedEngine:
    """An engine that was built and timed.

    Attributes:
        name: "fp16"; "int8"; "int8-1" and so on, with one run of operators in float; "int8-mixed", with several.
        in_float: operators that it leaves in float beside those that INT8 leaves there, in words; empty for none.
        size_bytes: of the engine.
        compute_ms: median time of one query on the GPU, without copies.
        speedup: over FP16.
        interval: 95% interval of the speed-up; None of FP16 itself, and where there were too few turns.
    """

    name: str
    in_float: str
    size_bytes: int
    compute_ms: float
    speedup: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, why, and all that were timed."""

    name: str
    reason: str
    trials: tuple[TimedEngine, ...]


@dataclass
class EngineSearch:
    """INT8, and INT8 with runs of operators in float."""

    model: FloatModel
    builds: TimedBuilds
    quantized: EngineOptions
    runs: Mapping[str, Sequence[str]]

    def run(self) -> Choice:
        """Builds and times, at most one engine for each run, INT8, FP16, and one for the runs that help together."""
        self.builds.build(_INT8, self.quantized)
        for name, nodes in self.runs.items():
            self._leave(name, nodes)
        first = self.builds.time([_INT8, FP16, *self.runs])
        helping = [name for name in self.runs if (first.interval(name, _INT8) or (0, 0))[0] > 1]
        words = {name: _words(nodes) for name, nodes in self.runs.items()}
        finalists = [FP16, _INT8]
        if 1 < len(helping) < len(self.runs):
            self._leave(_MIXED, [node for name in helping for node in self.runs[name]])
            words[_MIXED] = f"as in {join_names(helping)}"
            finalists.append(_MIXED)
        elif helping:
            finalists.append(max(helping, key=lambda name: first.speedup(name, _INT8)))
        last = self.builds.time(finalists) if helping else first
        trials = {
            name: timed_engine(name, words.get(name, ""), self.builds, first) for name in (FP16, _INT8, *self.runs)
        }
        trials |= {name: timed_engine(name, words.get(name, ""), self.builds, last) for name in finalists}
        best = max((trials[name] for name in finalists[1:]), key=lambda trial: trial.speedup)
        is_faster = best.interval is not None and best.interval[0] >= LEAST_SPEEDUP
        return Choice(best.name if is_faster else FP16, _reason(best, is_faster), tuple(trials.values()))

    def _leave(self, name: str, nodes: Sequence[str]) -> None:
        patterns = exact_patterns(self.model.prepared(), nodes)
        self.builds.build(name, replace(self.quantized, exclude=(*self.quantized.exclude, *patterns)))


def _reason(best: TimedEngine, is_faster: bool) -> str:
    interval = "too few turns for an interval: time longer (--latency-s)"
    if best.interval is not None:
        interval = f"95% interval {best.interval[0]:.3f} to {best.interval[1]:.3f}"
    found = f"{best.name} is {best.speedup:.3f}x as fast as FP16 ({interval})"
    return found if is_faster else f"{found}, and not clearly {LEAST_SPEEDUP}x"


def timed_engine(name: str, in_float: str, builds: TimedBuilds, timings: Timings) -> TimedEngine:
    """What was measured of an engine that was built."""
    size = builds.built[name].manifest.engine_size_bytes
    interval = None if name == FP16 else timings.interval(name, FP16)
    return TimedEngine(name, in_float, size, timings.median_ms(name), timings.speedup(name, FP16), interval)


def _words(nodes: Sequence[str]) -> str:
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} to {nodes[-1]} ({len(nodes)} operators)"


def cut_into_runs(planned: PlannedBuild, count: int) -> dict[str, list[str]]:
    """Runs of consecutive quantized products, as many as may be tried; none where that is one or none."""
    source = planned.source
    graph = source.model.prepared()
    plan = plan_tensorrt(graph, exclude=source.exclude, quantize_all=source.quantize_all)
    if source.table is not None:
        plan = exclude_tensors(plan, source.table.in_float)
    quantized = {edge.node for edge in plan.activations} & weighted_nodes(graph)
    names = [str(node.name) for node in graph.graph if str(node.name) in quantized]
    count = min(count, len(names))
    if count < 2:
        return {}
    ends = [round(i * len(names) / count) for i in range(count + 1)]
    runs = [names[start:end] for start, end in pairwise(ends)]
    return {f"{_INT8}-{i}": run for i, run in enumerate(runs, 1)}
