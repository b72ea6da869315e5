"""Engines of one model that differ in what stays in float: built, and timed in turns on the GPU of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.commands.build import BuiltEngine, build
from quantkit.commands.planned_build import plan_build
from quantkit.errors import BackendUnavailableError
from quantkit.evaluation.engines import open_timed_engine
from quantkit.evaluation.latency.device import TRTEXEC, measure_device_latency
from quantkit.evaluation.latency.inputs import random_inputs
from quantkit.evaluation.latency.intervals import speedup_intervals
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, telling_once
from quantkit.progress import show_progress
from quantkit.storage import temporary_folder
from quantkit.types import CalibrationTable, TimedRunner
from quantkit.types.evaluation import Interval
from quantkit.types.options import EngineOptions, TimedBuildOptions


@dataclass(frozen=True)
class Timings:
    """Computation on the GPU of engines that took turns.

    Attributes:
        rounds: engine → for each of its turns, the times in ms.
    """

    rounds: Mapping[str, Sequence[Sequence[float]]]

    def median_ms(self, name: str) -> float:
        """Median time of one query."""
        return statistics.median(chain.from_iterable(self.rounds[name]))

    def speedup(self, name: str, reference: str) -> float:
        """How many times as fast an engine is as another."""
        return self.median_ms(reference) / self.median_ms(name)

    def interval(self, name: str, reference: str) -> Interval | None:
        """95% interval of `speedup`; None where there are too few turns for one."""
        pair = {reference: self.rounds[reference], name: self.rounds[name]}
        return speedup_intervals(pair, {reference: reference, name: reference})[name]


class TimedBuilds:
    """Builds engines into a folder, and times them.

    Args:
        model: an ONNX model in float.
        options: how TensorRT builds.
        folder: for the engines.
        latency_s: timed seconds of each engine.
        progress: show a progress bar on a terminal.
        notify: hears what each build says: `telling_once` keeps that from being said again by every one.
    """

    def __init__(
        self,
        model: FloatModel,
        options: BuildOptions,
        folder: Path,
        *,
        latency_s: float,
        progress: bool,
        notify: Notify,
    ) -> None:
        self._model, self._options, self._folder = model, options, folder
        self._latency_s, self._progress, self._notify = latency_s, progress, notify
        self.built: dict[str, BuiltEngine] = {}

    def build(self, name: str, engine: EngineOptions) -> None:
        """Builds an engine."""
        path = self._folder / f"{name}.engine"
        self.built[name] = build(self._model, self._options, engine=engine, output=path, notify=self._notify)

    def time(self, names: Sequence[str]) -> Timings:
        """Times engines in turns on the same random inputs, of the shapes that they are tuned for."""
        profiles = self._options.profiles
        shapes = {name: shape.optimum for name, shape in profiles[0].shapes.items()} if profiles else {}
        rounds: dict[str, list[list[float]]] = {}
        with ExitStack() as stack:
            runners: dict[str, TimedRunner] = {}
            for name in names:
                runner = stack.enter_context(open_timed_engine(self.built[name].path, name=name).runner)
                assert isinstance(runner, TimedRunner)
                runners[name] = runner
            inputs = random_inputs(runners[names[0]].inputs, shapes)
            with show_progress(None, "timing", 100, self._progress) as bar:
                measure_device_latency(
                    runners,
                    inputs,
                    replace(TRTEXEC, duration_s=self._latency_s),
                    on_progress=lambda share: bar.update(round(100 * share) - bar.n) and None,
                    rounds=rounds,
                )
        return Timings(rounds)


class FloatCosts:
    """What tensors in float cost, in time: engines with them in float and with one of them in INT8, timed in turns."""

    def __init__(
        self, model: FloatModel, table: CalibrationTable, search: TimedBuildOptions, progress: bool, notify: Notify
    ) -> None:
        self._model, self._table, self._search, self._progress, self._notify = model, table, search, progress, notify

    def costs(
        self,
        asked: Sequence[str],
        in_float: tuple[str, ...],
        tensors_of: Callable[[Sequence[str]], dict[str, str]],
    ) -> dict[str, float]:
        """Milliseconds that each of the first units of `asked` costs in float, where it clearly costs any.

        Args:
            asked: units, those to measure first in front; as many as may be built are.
            in_float: all that stay in float.
            tensors_of: tensors of units, with the reason.
        """

        def engine(units: Sequence[str]) -> EngineOptions:
            table = replace(self._table, float_tensors={**self._table.float_tensors, **tensors_of(units)})
            return EngineOptions(precision="int8", table=table, progress=self._progress)

        measured = asked[: self._search.max_builds - 1]
        with temporary_folder() as folder:
            notify = telling_once(self._notify)
            planned = plan_build(self._model, None, engine(in_float), output=folder / "float.engine", notify=notify)
            builds = TimedBuilds(
                self._model,
                planned.options,
                folder,
                latency_s=self._search.latency_s,
                progress=self._progress,
                notify=notify,
            )
            builds.build("float", engine(in_float))
            for number, unit in enumerate(measured, 1):
                builds.build(f"int8-{number}", engine([other for other in in_float if other != unit]))
            times = builds.time(list(builds.built))
        found = {}
        for number, unit in enumerate(measured, 1):
            interval = times.interval(f"int8-{number}", "float")
            cost = times.median_ms("float") - times.median_ms(f"int8-{number}")
            is_clear = interval is not None and interval[0] > 1
            text = f"{unit} in float costs {cost:.4g} ms" if is_clear else f"{unit} in float costs no measurable time"
            self._notify(Notice("info", "engine", f"{text} of {times.median_ms('float'):.4g} ms"))
            if is_clear:
                found[unit] = cost
        return found


def check_can_time(asked: str) -> None:
    """Whether engines can be run here, before any is built.

    Args:
        asked: the option that wants it.

    Raises:
        BackendUnavailableError: there is no GPU, or pycuda is missing.
    """
    if find_gpu() is None:
        raise BackendUnavailableError(f"{asked} times engines: it needs an NVIDIA GPU, and this machine has none")
    PrimaryContext()
