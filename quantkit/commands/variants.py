"""The variants of an evaluation: made from a table, or taken as they are; what each of them is."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantkit.caches.siblings import describe_provenance
from quantkit.calibration.table import TABLE_KEY
from quantkit.commands.fp16_check import in_fp16
from quantkit.commands.quantized_graph import quantize_graph
from quantkit.commands.wanted_variants import how_to_make
from quantkit.errors import BackendError, EvaluationError, ModelError, QuantKitError
from quantkit.evaluation.accurate_session import open_accurate
from quantkit.evaluation.engines import OpenEngine, open_engines
from quantkit.evaluation.models import choose_variants, model_evaluation
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision, save_model
from quantkit.graph.placement.tensorrt import match_nodes
from quantkit.notices import Notice
from quantkit.storage import temporary_folder
from quantkit.types import CalibrationTable, Dataset, Evaluation, Latency, PathLike, Runner
from quantkit.types.options import EvaluationOptions


@dataclass(frozen=True)
class OpenVariants:
    """Variants that can be run.

    Attributes:
        runners: by name, the FP32 model first, for accuracy: see `quantkit.evaluation.accurate_session.open_accurate`.
        models: those that ONNX Runtime runs.
        engines: the others.
        skipped: of the INT8 models that were made here: what they leave in float, with the reason.
        warnings: variants that the model cannot have, one sentence each.
        origins: of finished INT8 models of quantkit's: which table they were made of, one sentence each.
    """

    runners: Mapping[str, Runner]
    models: Mapping[str, FloatModel]
    engines: Mapping[str, OpenEngine]
    skipped: Mapping[str, Mapping[str, str]]
    warnings: tuple[str, ...]
    origins: Mapping[str, tuple[str, ...]]

    def describe(
        self,
        metrics: Mapping[str, Mapping[str, float]],
        latencies: Mapping[str, Sequence[Latency]],
        *,
        num_samples: int,
        model_hash: str,
    ) -> tuple[Evaluation, ...]:
        """What was measured of each.

        Args:
            metrics: by variant.
            latencies: by variant, at each batch size; none where they were not timed.
            num_samples: behind the metrics.
            model_hash: of the FP32 model.
        """
        made = [
            model_evaluation(
                name,
                model,
                metrics[name],
                latencies.get(name, ()),
                num_samples=num_samples,
                origin=self.origins.get(name, ()),
                device=getattr(self.runners[name], "device", "cpu"),
            )
            for name, model in self.models.items()
        ]
        loaded = [
            engine.evaluation(
                name, metrics[name], latencies.get(name, ()), num_samples=num_samples, model_hash=model_hash
            )
            for name, engine in self.engines.items()
        ]
        return (*made, *loaded)


@contextmanager
def open_variants(
    model: FloatModel,
    table: CalibrationTable | None,
    options: EvaluationOptions,
    dataset: Dataset,
) -> Iterator[OpenVariants]:
    """Makes the variants that are asked for, and opens them with the finished models and engines.

    Args:
        model: the FP32 model.
        table: for INT8.
        options: with the variants to make, and finished models and engines.
        dataset: without a table, a few of its samples tell where FP16 overflows.

    Raises:
        QuantKitError: no variant that was asked for by name can be had, or a name is taken.
    """
    chosen = choose_variants(options.variants, table, float_precision(model.graph))
    threads = options.threads
    models, engines = options.models or {}, options.engines or {}
    if options.exclude:  # a mistyped name is an error of the user's, not a model that cannot be INT8
        match_nodes(model.prepared(), options.exclude)
    with ExitStack() as stack:
        given, opened = open_engines(stack, models, engines, threads=threads, cuda_graph=options.cuda_graph)
        folder = stack.enter_context(temporary_folder())
        made, left, refused, notes = _make_variants(model, table, chosen, options, dataset, folder)
        if refused and options.variants is not None and not (len(made) > 1 or given or opened):
            raise next(iter(refused.values()))
        finished, origins = _given_models(given, made, table)
        onnx_models = made | finished
        if taken := onnx_models.keys() & opened.keys():
            raise EvaluationError(f"--engine {min(taken)}: that name is taken; call the engine something else")
        runners: dict[str, Runner] = {}
        for name, variant in list(onnx_models.items()):
            try:
                runners[name] = stack.enter_context(open_accurate(variant, name=f"the {name} model", threads=threads))
            except BackendError as error:
                if options.variants is not None or name == chosen[0] or name in finished:
                    raise
                refused[name] = error
                del onnx_models[name]
        yield OpenVariants(
            runners={**runners, **{name: engine.runner for name, engine in opened.items()}},
            models=onnx_models,
            engines=opened,
            skipped={name: reasons for name, reasons in left.items() if name in onnx_models},
            warnings=tuple(f"{name} is left out: {error}" for name, error in refused.items()),
            origins={**origins, **notes},
        )


def _make_variants(
    model: FloatModel,
    table: CalibrationTable | None,
    chosen: Sequence[str],
    options: EvaluationOptions,
    dataset: Dataset,
    folder: Path,
) -> tuple[dict[str, FloatModel], dict[str, Mapping[str, str]], dict[str, QuantKitError], dict[str, tuple[str, ...]]]:
    """The variants by name, what the INT8 ones leave in float, which ones the model cannot have, and notes on them."""
    models = {chosen[0]: model}
    left: dict[str, Mapping[str, str]] = {}
    refused: dict[str, QuantKitError] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for name in chosen[1:]:
        try:
            if name == "fp16":
                graph, notes[name] = in_fp16(model, table, dataset)
            elif table is not None:
                said: list[Notice] = []
                graph, plan = quantize_graph(model, table, how_to_make(name, options), said.append)
                left[name] = plan.skipped
                notes[name] = tuple(notice.text for notice in said if notice.topic == "weights")
        except ModelError as error:
            refused[name] = error
            continue
        models[name] = FloatModel(save_model(graph, folder / f"{name}.onnx")[0])
    return models, left, refused, notes


def _given_models(
    models: Mapping[str, PathLike], taken: Container[str], table: CalibrationTable | None
) -> tuple[dict[str, FloatModel], dict[str, tuple[str, ...]]]:
    """Finished models by name, and of which table they were made; each is read before anything runs."""
    opened, origins = {}, {}
    for name, path in models.items():
        if name in taken:
            raise EvaluationError(f"--variant {name}: that name is taken; call {path} something else")
        opened[name] = FloatModel(path)
        made_of = opened[name].graph.metadata_props.get(TABLE_KEY, "")
        origins[name] = describe_provenance(Path(path), made_of, table)
    return opened, origins
