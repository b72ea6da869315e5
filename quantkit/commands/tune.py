"""Which tensors have to stay in float so that the task's own score keeps a budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from quantkit.backends.cuda.context import using_device
from quantkit.commands.cluster import staying_connected
from quantkit.commands.evaluation_data import EvaluationData
from quantkit.commands.extensions import with_extensions
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.commands.format_plan import float8_nodes
from quantkit.commands.kept_evaluations import VARIANT, KeptEvaluations, open_validation
from quantkit.commands.sensitivity import find_fitting_table, make_table, rank_units
from quantkit.commands.timed_builds import FloatCosts, check_can_time
from quantkit.errors import EvaluationError
from quantkit.evaluation import Limits, check_limits
from quantkit.evaluation.limits import Drop, parse_drop
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, announcing, plural
from quantkit.refinement.budget_search import find_smallest_set
from quantkit.types import CalibrationTable, GateCheck, PathLike, Report
from quantkit.types.device_choice import first_gpu
from quantkit.types.option import make_options
from quantkit.types.options import TuneOptions
from quantkit.types.plan import PlanPoint, QuantizationPlan
from quantkit.types.sensitivity import Sensitivity, UnitSensitivity


def tune(
    model: PathLike | FloatModel,
    data: PathLike,
    val: PathLike,
    options: TuneOptions | None = None,
    *,
    task: str | TaskOptions = "classify",
    notify: Notify | None = None,
    **keywords: Any,
) -> QuantizationPlan:
    """Finds the smallest set of tensors to leave in float with which the INT8 model's score keeps a budget.

    Args:
        model: an ONNX model in FP32.
        data: calibration images or arrays: the ranking comes from them.
        val: labeled validation data: the choice is made on them alone.
        options: settings; None takes the defaults of `TuneOptions`.
        task: what the outputs mean, as for `evaluate`.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `TuneOptions`, instead of those in `options`.

    Returns:
        The plan, also where the budget is missed: then it is the best that was found.

    Raises:
        EvaluationError: the task has no score, or the data have no labels.
        QuantKitError: one line that names the file, tensor or option, and the fix.
    """
    options = make_options(TuneOptions, options, keywords)
    task = task if isinstance(task, TaskOptions) else TaskOptions(task)
    with with_extensions(options), using_device(first_gpu(options.device)):
        return _tune(FloatModel.open(model), data, val, options, task, announcing(notify))


def open_tuning(
    model: FloatModel, val: PathLike, options: TuneOptions, task: TaskOptions, notify: Notify
) -> tuple[FloatModel, CalibrationTable | None, EvaluationData]:
    """Checks what `tune` is given: the model as it would be analyzed, its table if there is one, validation samples."""
    if task.task == "none":
        raise EvaluationError("--task none has no score to keep: choose another task")
    model.check_float()
    parse_drop(options.max_drop)
    if options.objective == "latency":
        check_can_time("--objective latency")
    table = find_fitting_table(model, options, notify)
    fixed = fix_as_calibrated(model, table, options.preprocess)
    return fixed, table, open_validation(fixed, table, val, task, options)


def _tune(
    model: FloatModel, data: PathLike, val: PathLike, options: TuneOptions, task: TaskOptions, notify: Notify
) -> QuantizationPlan:
    _, table, samples = open_tuning(model, val, options, task, notify)
    with staying_connected(options.ray):  # once what is given is known to be right
        table = table or make_table(model, data, options, "balanced", options.table_path, notify=notify)
        model = fix_as_calibrated(model, table)
        search = _Search(KeptEvaluations(model, table, samples, task, options), parse_drop(options.max_drop), notify)
        if options.objective == "latency":
            search.times = FloatCosts(model, table, options, options.progress, notify)
        search.float8_nodes = float8_nodes(model) if options.tries_others else frozenset()
        search.check(())  # what is wrong with the validation data is said before the tensors are ranked
        return search.run(rank_units(model, data, table, options, operators=False, notify=notify))


_Choice = tuple[tuple[str, ...], tuple[str, ...]]
"""Units in float, and in FP8."""


class _Search:
    """One search: the evaluations that were made, by the units in float, and the ranking that says what to try."""

    def __init__(self, evaluations: KeptEvaluations, drop: Drop, notify: Notify) -> None:
        self.evaluations, self.drop, self.notify = evaluations, drop, notify
        self.reports: dict[_Choice, Report] = {}
        self.units: dict[str, UnitSensitivity] = {}
        self.times: FloatCosts | None = None
        self.float8_nodes: frozenset[str] = frozenset()

    def run(self, ranking: Sensitivity) -> QuantizationPlan:
        """The plan: of the smallest set that meets the budget, else of the best that was evaluated."""
        self.units = {unit.name: unit for unit in ranking.units}
        # With everything in float there would be no INT8 model: the last of the ranking stays.
        work = {name: unit.work for name, unit in self.units.items()}

        def costs(units: tuple[str, ...]) -> Mapping[str, float]:
            if self.times is None:
                return work
            return self.times.costs(sorted(units[:-1], key=lambda n: -work[n]), units, self._float_tensors)

        chosen = find_smallest_set(list(self.units)[:-1], costs, lambda units: self.check(units).passed)
        if chosen is None:
            best = min(self.reports, key=lambda choice: (self.check(*choice).value, len(choice[0])))
        else:
            best = self._without_float(chosen)
        check, report = self.check(*best), self.reports[best]
        assert report.score is not None  # the check needs it
        points = {choice: self._point(choice, ranking.work) for choice in self.reports}
        return QuantizationPlan(
            model_name=ranking.model_name,
            model_hash=ranking.model_hash,
            table_checksum=ranking.table_checksum,
            float_tensors=self._float_tensors(best[0]),
            float_nodes=tuple(dict.fromkeys(node for name in best[0] for node in self.units[name].nodes)),
            max_drop=str(self.drop),
            verdict="unknown" if check.undecided else "met" if check.passed else "missed",
            explanation=check.sentence,
            score_name=report.score.name,
            is_fraction=report.score.is_fraction,
            loss_unit=self.drop.mark(report.score),
            point=points[best],
            front=tuple(sorted(points.values(), key=lambda p: (p.num_float, p.num_other, -p.quantized_work))),
            formats=self._formats(best[1]),
            dataset_fingerprint=str(report.dataset["fingerprint"]),
            num_samples=report.baseline.num_samples,
        )

    def _without_float(self, units: tuple[str, ...]) -> _Choice:
        """In FP8 those with kernels for it, as far as the budget is kept: all, else one by one, the worst last."""
        able = tuple(name for name in units if not self.float8_nodes.isdisjoint(self.units[name].nodes))
        rest = tuple(name for name in units if name not in able)
        if not able or self.check(rest, able).passed:
            return rest, able
        chosen: _Choice = units, ()
        for name in reversed(able):
            tried = tuple(n for n in chosen[0] if n != name), (name, *chosen[1])
            chosen = tried if self.check(*tried).passed else chosen
        return chosen

    def check(self, units: tuple[str, ...], others: tuple[str, ...] = ()) -> GateCheck:
        """Whether the budget is met with these units in float, and others in FP8; each choice is evaluated once."""
        choice, start, took = (units, others), time.monotonic(), "from an earlier run"
        if is_new := choice not in self.reports:
            self.reports[choice], is_kept = self.evaluations.report(self._float_tensors(units), self._formats(others))
            took = took if is_kept else f"{time.monotonic() - start:.0f} s"
        (check,) = check_limits(self.reports[choice], Limits(max_drop=self.drop), variants=[VARIANT])
        if is_new:
            kept, chosen = len(self.evaluations.table.float_tensors), self._float_tensors(units)
            told = f"{plural(kept + len(chosen), 'tensor')} in float{f' ({kept} by calibration)' if kept else ''}"
            told += f", {len(self._formats(others))} in FP8" if others else ""
            text = f"evaluation {len(self.reports)}: {told}: {check.sentence} ({took})"
            self.notify(Notice("info", "accuracy", text))
        return check

    def _formats(self, units: Sequence[str]) -> dict[str, Literal["fp8"]]:
        return {tensor: "fp8" for name in units for tensor in self.units[name].tensors}

    def _float_tensors(self, units: Sequence[str]) -> dict[str, str]:
        """Tensors of the units, with the reason."""
        places = {name: f"place {i} of {len(self.units)}" for i, name in enumerate(self.units, 1)}
        stuck = {n for n in units if self.float8_nodes and self.float8_nodes.isdisjoint(self.units[n].nodes)}
        why = {n: f"{places[n]}; FP8 is not for what reads it" if n in stuck else places[n] for n in units}
        return {t: f"for the score (sensitivity: {why[n]})" for n in units for t in self.units[n].tensors}

    def _point(self, choice: _Choice, work: Mapping[str, float]) -> PlanPoint:
        (units, others), report, check = choice, self.reports[choice], self.check(*choice)
        assert report.score is not None  # the check needs it
        nodes = {node for name in others for node in self.units[name].nodes}
        in_float = (nodes - self.float8_nodes).union(*(self.units[name].nodes for name in units))
        quantized = {node for unit in self.units.values() for node in unit.nodes} - in_float
        return PlanPoint(
            num_float=len(self.evaluations.table.float_tensors) + len(self._float_tensors(units)),
            quantized_work=sum(work.get(node, 0.0) for node in quantized),
            score=next(e for e in report.evaluations if e.name == VARIANT).metrics[report.score.name],
            loss=check.value,
            interval=check.interval,
            num_other=len(self._formats(others)),
        )
