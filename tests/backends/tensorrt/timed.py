"""A fake libnvinfer that builds, with a runtime beside it that takes the time that a test says.

The builder's engines are JSON of what was asked (`tests.fake_trt.library`); the runtime of `engines` runs them on the
fake GPU, whose clock goes on by what the test's function makes of that JSON.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import quantkit.commands.timed_builds as timed_builds
import quantkit.evaluation.latency.device as device

from . import engines, native
from .engines import Plan, Tensor

CALL_MS, FLOAT_MS, INT8_MS = 1.0, 0.5, 0.3

_milliseconds: list[Callable[[Mapping[str, Any]], float]] = []
"""Of a query of an engine: what was installed last."""

gpu: Any = None
"""Two of them, once installed."""


def install(milliseconds: Callable[[Mapping[str, Any]], float]) -> None:
    """In a process that has the fake library: `import tensorrt` finds both. A later call changes the times alone."""
    global gpu
    is_first = not _milliseconds
    _milliseconds[:] = [milliseconds]
    if not is_first:
        return
    gpu = native.install_driver(count=2)
    bindings = sys.modules["tensorrt"]
    module = types.ModuleType("tensorrt")
    module.__dict__.update(vars(bindings))

    def make_runtime(logger: Any) -> engines.Runtime:
        logger.was_initialised = True
        return engines.Runtime(_Engines(), gpu, logger)

    module.Runtime = make_runtime
    for kind in (engines.TensorIOMode, engines.TensorLocation, engines.TensorFormat):
        setattr(module, kind.__name__, kind)
    sys.modules["tensorrt"] = module
    # A turn is one query: turns end by the host's clock, in which the fake GPU does a thousand.
    device._BLOCK_MS = 0.0
    timed_builds.TRTEXEC = replace(device.TRTEXEC, warmup_s=0.0)


class _Engines(Mapping[bytes, Plan]):
    """Whatever the fake builder made."""

    def __contains__(self, content: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __getitem__(self, content: bytes) -> Plan:
        engine = json.loads(content)
        ranges = engine["profiles"][0] if engine["profiles"] else {}
        inputs = [
            Tensor(name, tuple(dims), low=tuple(ranges.get(name, [dims])[0]), high=tuple(ranges.get(name, [dims])[-1]))
            for name, dims in engine["inputs"]
        ]
        outputs = {name: tuple(dims) for name, dims in engine["output_shapes"]}

        def shape_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
            if name in shapes:
                return shapes[name]
            batch = next(iter(shapes.values()))[0]
            return tuple(batch if size == -1 else size for size in outputs[name])

        def compute(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            shapes = {name: array.shape for name, array in arrays.items()}
            return {name: np.zeros(shape_of(name, shapes), np.float32) for name in outputs}

        return Plan(
            inputs=inputs,
            outputs=[Tensor(name, dims) for name, dims in outputs.items()],
            compute=compute,
            shape_of=shape_of,
            compute_ms=_milliseconds[0](engine),
        )


def milliseconds(engine: Mapping[str, Any], int8_ms: Mapping[str, float]) -> float:
    """Of a query: a call, and each product, which takes as long in INT8 as `int8_ms` says, else `INT8_MS`."""
    quantized = set(engine["int8_products"])
    return CALL_MS + sum(int8_ms.get(name, INT8_MS) if name in quantized else FLOAT_MS for name in engine["products"])


def best(
    model: str, table: str | None, int8_ms: dict[str, float], output: str, words: dict[str, Any]
) -> dict[str, Any]:
    """In a process that has the fake library."""
    from quantkit.commands.build_best import build_best
    from quantkit.types.options import TimedBuildOptions

    install(lambda engine: milliseconds(engine, int8_ms))
    max_builds = words.pop("max_builds", 7)
    told: list[str] = []
    gpu.used.clear()
    found = build_best(
        model,
        search=TimedBuildOptions(max_builds=max_builds, latency_s=0.01),
        table=table,
        output=output,
        progress=False,
        notify=lambda notice: told.append(notice.text),
        **words,
    )
    return {
        "chosen": found.chosen,
        "reason": found.reason,
        "trials": {trial.name: [trial.in_float, trial.speedup, trial.interval] for trial in found.trials},
        "exclude": list(found.built.manifest.exclude),
        "precision": found.built.manifest.precision,
        "gpu": found.built.manifest.gpu,
        "used": sorted(gpu.used),
        "engine": json.loads(Path(output).read_bytes()),
        "selection": json.loads(Path(f"{output}.json").read_text())["selection"],
        "built": sum(text.startswith("building ") for text in told),
        "told": told,
    }


def tune(model: str, table: str, plan_of: list[str], int8_ms: dict[str, float]) -> dict[str, Any]:
    """The search of `tune` where the budget is met with these tensors in float."""
    from quantkit.calibration.table import load_table
    from quantkit.commands.timed_builds import FloatCosts
    from quantkit.graph.float_model import FloatModel
    from quantkit.refinement.budget_search import find_smallest_set
    from quantkit.types.options import TimedBuildOptions

    install(lambda engine: milliseconds(engine, int8_ms))
    told: list[str] = []
    search = TimedBuildOptions(latency_s=0.01)
    times = FloatCosts(FloatModel.open(model), load_table(table), search, False, lambda n: told.append(n.text))
    needed = {plan_of[-1]}
    found = find_smallest_set(
        plan_of,
        lambda units: times.costs(units[:-1], units, lambda names: dict.fromkeys(names, "for the score")),
        lambda units: needed <= set(units),
    )
    return {"in_float": list(found or ()), "told": [text for text in told if "in float costs" in text]}
