"""Times models and engines without data: random inputs, the models taking turns, by the host's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.backends.tensorrt.build.profiles import parse_shapes
from quantkit.errors import EvaluationError
from quantkit.evaluation.engines import open_engines
from quantkit.evaluation.latency.host import LatencyOptions, measure_latency, nearest_rank
from quantkit.evaluation.latency.inputs import random_inputs
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import share_weights
from quantkit.progress import show_progress
from quantkit.types import Latency, PathLike, Runner
from quantkit.types.option import make_options
from quantkit.types.options import BenchOptions


@dataclass(frozen=True)
class Bench:
    """What was timed.

    Attributes:
        latencies: by model; speed-ups are over the first.
        percentiles: by model: percent → ms, by nearest rank as trtexec reports them.
        times: by model: each timed call, in ms, in the order of the calls.
        shapes: of the inputs.
    """

    latencies: Mapping[str, Latency]
    percentiles: Mapping[str, Mapping[float, float]]
    times: Mapping[str, Sequence[float]]
    shapes: Mapping[str, tuple[int, ...]]


def bench(models: Sequence[PathLike], options: BenchOptions | None = None, **keywords: object) -> Bench:
    """Times one model or several, which take turns.

    Args:
        models: ONNX models, engines, or what another runtime runs; all must take the same inputs.
        options: settings; None takes the defaults of `BenchOptions`.
        keywords: fields of `BenchOptions`, instead of those in `options`.

    Raises:
        QuantKitError: a model cannot be opened, or its inputs have dimensions that nobody says.
    """
    options = make_options(BenchOptions, options, keywords)
    named = _name(models)
    with ExitStack() as stack:
        own, opened = open_engines(stack, named, {}, threads=options.threads, cuda_graph=False)
        runners: dict[str, Runner] = {}
        for name in named:
            if name in opened:
                runners[name] = opened[name].runner
            else:
                graph = share_weights(FloatModel(own[name]).graph)
                runners[name] = stack.enter_context(OnnxRuntimeRunner(graph, name=name, threads=options.threads))
        shapes = parse_shapes(options.shapes, "--shapes") if options.shapes else {}
        inputs = random_inputs(next(iter(runners.values())).inputs, shapes, batch_size=options.batch_size)
        rounds: dict[str, list[list[float]]] = {}
        with show_progress(None, "timing", 100, options.progress) as bar:
            latencies = measure_latency(
                runners,
                inputs,
                LatencyOptions(
                    duration_s=options.duration,
                    min_iterations=options.iterations,
                    warmup_s=options.warm_up_ms / 1000,
                ),
                threads=options.threads,
                on_progress=lambda share: bar.update(round(100 * share) - bar.n),
                rounds=rounds,
            )
    times = {name: tuple(chain.from_iterable(found)) for name, found in rounds.items()}
    ordered = {name: sorted(found) for name, found in times.items()}
    percentiles = {name: {p: nearest_rank(found, p) for p in options.percentile} for name, found in ordered.items()}
    return Bench(latencies, percentiles, times, {name: array.shape for name, array in inputs.items()})


def _name(models: Sequence[PathLike]) -> dict[str, PathLike]:
    named = {Path(model).name: model for model in models}
    if len(named) < len(models):
        raise EvaluationError("two models have one file name: rename one, or time them apart")
    return named
