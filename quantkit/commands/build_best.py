"""The fastest engine that keeps its accuracy: FP16, INT8, or INT8 with operators left in float, whichever is measured.

INT8 is not always faster: reformats, unfused layers and small products can cost more than its products save. So FP16
and INT8 are built, and INT8 with one run of consecutive operators after the other in FP16. All are timed in turns. The
runs without which INT8 is faster, by the 95% interval of the speed-up, are left in float together, or the best one
alone where that is true of all runs; that engine, INT8 and FP16 are timed once more, since a choice made among many
measurements is too good by chance. INT8 is kept where it is clearly at least 1.02 times as fast as FP16, as NVIDIA
ModelOpt's autotuner asks for. Operators in float only make the output more precise, so that what the table or its plan
says of accuracy holds for all of them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from quantkit.backends.cuda.context import using_device
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.manifest import find_manifest, manifest_path, write_engine
from quantkit.calibration.plan_file import load_plan
from quantkit.commands.build import BuiltEngine
from quantkit.commands.engine_search import FP16, Choice, EngineSearch, TimedEngine, cut_into_runs, timed_engine
from quantkit.commands.planned_build import PlannedBuild, default_engine_path, plan_build
from quantkit.commands.timed_builds import TimedBuilds, check_can_time
from quantkit.errors import BackendError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, accepts_tell, announcing, telling_once
from quantkit.refinement.quality import describe_quality, is_low
from quantkit.storage import check_writable, temporary_folder
from quantkit.types import PathLike
from quantkit.types.option import make_options
from quantkit.types.options import EngineOptions, TimedBuildOptions
from quantkit.types.plan import QuantizationPlan


@dataclass(frozen=True)
class BestEngine:
    """The chosen engine, what was tried, and why it was chosen."""

    built: BuiltEngine
    chosen: str
    reason: str
    trials: tuple[TimedEngine, ...]


@accepts_tell
def build_best(
    model: PathLike | FloatModel,
    options: BuildOptions | None = None,
    *,
    engine: EngineOptions | None = None,
    search: TimedBuildOptions | None = None,
    output: PathLike | None = None,
    notify: Notify | None = None,
    **keywords: Any,
) -> BestEngine:
    """Builds FP16 and INT8 engines, times them in turns on this machine's GPU, and keeps the fastest accurate one.

    Args:
        model: an ONNX model in float.
        options: how TensorRT builds.
        engine: what from; its precision is not used. A plan of `tune` says whether INT8 keeps a budget.
        search: how many engines are built, and how long each is timed.
        output: the engine; None writes MODEL.best.engine next to the model.
        notify: called with each `Notice`; without it, notices are only logged.
        keywords: fields of `EngineOptions`, instead of those in `engine`.

    Raises:
        BackendUnavailableError: there is no GPU to time engines on.
        QuantKitError: one line that names the file, node or option, and the fix.
    """
    notify = telling_once(announcing(notify))
    search = search or TimedBuildOptions()
    engine = make_options(EngineOptions, engine, keywords)
    with using_device(engine.gpu):
        return _build_best(FloatModel.open(model), options, engine, search, output, notify)


def _build_best(
    model: FloatModel,
    options: BuildOptions | None,
    engine: EngineOptions,
    search: TimedBuildOptions,
    output: PathLike | None,
    notify: Notify,
) -> BestEngine:
    path = Path(output) if output is not None else default_engine_path(model.path, "best")
    int8, fp16 = _quantized_options(engine), _fp16_options(engine)
    quantized, half = plan_best(model, options, engine, path, notify)
    is_accurate, accuracy = _accuracy(quantized, engine.plan)
    key = _key(half, quantized, search, accuracy)
    if not engine.force and (kept := _kept(path, key)) is not None:
        notify(Notice("info", "reuse", f"Reusing {path}: same model, table, library, GPU and options"))
        return kept
    with temporary_folder() as folder:
        builds = TimedBuilds(
            quantized.source.model,
            quantized.options,
            folder,
            latency_s=search.latency_s,
            progress=engine.progress,
            notify=notify,
        )
        builds.build(FP16, fp16)
        if is_accurate:
            choice = EngineSearch(
                quantized.source.model, builds, int8, cut_into_runs(quantized, search.max_builds - 3)
            ).run()
        else:
            choice = Choice(FP16, "", (timed_engine(FP16, "", builds, builds.time([FP16])),))
        reason = "; ".join(filter(None, (choice.reason, accuracy)))
        chosen = builds.built[choice.name]
        facts = {"key": key, "chosen": choice.name, "reason": reason, "tried": msgspec.to_builtins(choice.trials)}
        manifest = write_engine(path, chosen.path.read_bytes(), replace(chosen.manifest, selection=facts))
    built = BuiltEngine(path, manifest, reused=False, num_quantized=chosen.num_quantized)
    return BestEngine(built, choice.name, reason, choice.trials)


def plan_best(
    model: FloatModel, options: BuildOptions | None, engine: EngineOptions, path: Path, notify: Notify
) -> tuple[PlannedBuild, PlannedBuild]:
    """What is built at least: the INT8 engine, and that in FP16.

    Raises:
        QuantKitError: one line: what cannot be built, or not timed on this machine.
    """
    check_writable(path, manifest_path(path))
    check_can_time("--precision best")
    quantized = plan_build(model, options, _quantized_options(engine), output=path, notify=notify)
    return quantized, plan_build(model, options, _fp16_options(engine), output=path, notify=_silent)


def _quantized_options(engine: EngineOptions) -> EngineOptions:
    """Options of the INT8 engine: without what is for FP16 alone."""
    return replace(engine, precision="int8", data=None, constant=None)


def _fp16_options(engine: EngineOptions) -> EngineOptions:
    """Options of the FP16 engine: without what is for INT8 alone."""
    return replace(
        engine,
        precision="fp16",
        exclude=(),
        plan=None,
        quantize_all=False,
        calibration_cache=None,
        min_coverage=None,
        high_precision=None,
        mode="auto",
    )


def _accuracy(planned: PlannedBuild, plan: QuantizationPlan | PathLike | None) -> tuple[bool, str]:
    """Whether INT8 may be used, and what is known of its accuracy."""
    if plan is not None:
        plan = plan if isinstance(plan, QuantizationPlan) else load_plan(plan)
        words = {"met": "meets", "missed": "misses", "unknown": "may miss"}[plan.verdict]
        said = f"the plan {words} its budget of {plan.max_drop}: {plan.explanation}"
        return plan.verdict != "missed", said if plan.verdict != "missed" else f"INT8 was not tried: {said}"
    table = planned.source.table
    if table is None or not table.quality:
        return True, "its accuracy is not known: a plan of quantkit tune (--plan) says whether it keeps a budget"
    said = describe_quality(table.quality)
    if is_low(table.quality):
        return False, f"INT8 was not tried: its output differs much from that of the float model: {said}"
    return True, f"INT8 output when it was calibrated: {said}"


def _key(half: PlannedBuild, quantized: PlannedBuild, search: TimedBuildOptions, accuracy: str) -> str:
    """A digest of everything that decides which engines are built, the known accuracy of INT8 included."""
    facts = [half.wanted.facts, quantized.wanted.facts, msgspec.to_builtins(search), accuracy]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _kept(path: Path, key: str) -> BestEngine | None:
    """The engine at `path`, if it was chosen among the same ones."""
    try:
        manifest = find_manifest(path)
        if manifest is None or manifest.selection.get("key") != key:
            return None
        trials = msgspec.convert(manifest.selection["tried"], tuple[TimedEngine, ...])
        chosen, reason = str(manifest.selection["chosen"]), str(manifest.selection["reason"])
    except (BackendError, msgspec.ValidationError, KeyError):
        return None
    return BestEngine(BuiltEngine(path, manifest, reused=True), chosen, reason, trials)


def _silent(_: Notice) -> None:
    """The INT8 build says the same."""
