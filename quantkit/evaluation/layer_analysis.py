"""A look inside the INT8 variants of an evaluation: what quantization does to each activation, which layers are INT8.

The activations are computed by ONNX Runtime on the CPU with all of them as outputs, as accuracy is: see
`quantkit.evaluation.accurate_session`. The outputs of a model for the CPU keep it from fusing some operators, so that
integers may be computed another way than in the model that is timed: the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.backends.tensorrt.inspection.inspector import parse_inspector
from quantkit.backends.tensorrt.inspection.rtx_plan import read_plan
from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner
from quantkit.datasets import Selection
from quantkit.datasets.batching import fixed_batch_size, make_batches
from quantkit.errors import FatalError, ModelError, QuantKitError
from quantkit.evaluation.accurate_session import open_accurate
from quantkit.evaluation.activation_error import ObservedTensor, measure_tensors
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import OLDEST_OPSET, input_specs
from quantkit.graph.moved_activations import UNMOVED, Movement, find_movement, folded_factors
from quantkit.graph.passes.expose import activation_bytes
from quantkit.graph.qdq_scales import activation_scales
from quantkit.graph.weighted_operators import find_producers, weighted_coverage, weighted_types
from quantkit.interrupts import fulfils_wish
from quantkit.machine import read_input
from quantkit.notices import join_names, logs_duration
from quantkit.numerics import QuantParams
from quantkit.progress import show_progress
from quantkit.types import SCHEMES, UINT8, Batch, Dataset, LayerPlacement, PathLike, TensorQuality

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayer, EngineLayers
    from quantkit.evaluation.engines import OpenEngine
    from quantkit.graph.qdq_scales import ReadScale
    from quantkit.graph.weighted_operators import Producer
    from quantkit.types.options import EvaluationOptions

_BUDGET_BYTES = 128 << 20
"""Exposed activations of one batch of one model; two models are open at once."""

_LARGEST_BATCH = 32


@dataclass(frozen=True)
class LayerAnalysis:
    """What was seen inside of variants: the fields `tensors`, `layers` and `warnings` of a report."""

    tensors: tuple[TensorQuality, ...] = ()
    layers: tuple[LayerPlacement, ...] = ()
    warnings: tuple[str, ...] = ()


@logs_duration
def analyze_layers(
    model: PathLike | FloatModel,
    dataset: Dataset,
    options: EvaluationOptions,
    *,
    variants: Mapping[str, PathLike | FloatModel],
    engines: Mapping[str, OpenEngine] | None = None,
    skipped: Mapping[str, Mapping[str, str]] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LayerAnalysis:
    """Looks into every variant as far as it lets one; what cannot be seen becomes a warning, never an error.

    Activations are those with Q/DQ of one scale that have a name in `model`, or were shifted or scaled by calibration:
    another optimizer may have renamed or fused some. Variants without Q/DQ have none; of engines only the layers are
    seen.

    Args:
        model: the FP32 model.
        dataset: from which samples are taken, evenly.
        options: how many samples activations are compared on, on how many threads.
        variants: ONNX models by name; those without Q/DQ are passed over.
        engines: open engines by name.
        skipped: variant → what it leaves in float and why, of those that were made here.
        should_stop: asked before each batch: whether to be content with those before it.
    """
    collected = _Collected()
    try:
        model = FloatModel.open(model)
        original = model.prepared(OLDEST_OPSET)
    except FatalError:
        raise
    except QuantKitError as error:
        return LayerAnalysis(warnings=(f"the layers are not shown: {error}",))
    look = _Analysis(model, dataset, find_producers(original), options, should_stop)
    for name, given in variants.items():
        try:
            variant = FloatModel.open(given)
            if not variant.is_quantized:
                continue
            # As it is: no opset is converted, so that what is looked into is what was evaluated.
            graph = variant.prepared(OLDEST_OPSET)
            collected.layers += _placements(graph, original, name, (skipped or {}).get(name, {}))
            if options.layer_samples and not (should_stop and should_stop()):
                tensors, notes = look.compare(name, variant, graph)
                collected.tensors += tensors
                collected.warnings += [f"{name}: {note}" for note in notes]
        except FatalError:
            raise
        except KeyboardInterrupt:
            if not fulfils_wish():
                raise
            break
        except QuantKitError as error:
            collected.warnings.append(f"{name}: its activations are not shown: {error}")
    for name, engine in (engines or {}).items():
        if not isinstance(engine.runner, TensorRTRunner):
            continue
        try:
            engine_layers = _engine_layers(engine.runner, engine.path)
            if _is_meant_quantized(engine, engine_layers):
                collected.layers += placements_of_engine(engine_layers, name, weighted=weighted_types(original))
        except QuantKitError as error:
            collected.warnings.append(f"{name}: its layers are not shown: {error}")
    return LayerAnalysis(tuple(collected.tensors), tuple(collected.layers), tuple(collected.warnings))


def placements_of_engine(
    engine_layers: EngineLayers, variant: str, *, weighted: Mapping[str, str] | None = None
) -> tuple[LayerPlacement, ...]:
    """Whether the weighted layers of an engine compute on INT8, in order of execution.

    A layer stands under the names of the weighted ONNX nodes that were fused into it, one entry each, where TensorRT
    tells them; else under the names of all of its nodes, or its own. TensorRT does not say why a layer is float: the
    reasons are likely ones.

    Args:
        engine_layers: of the engine; empty where only names of its layers are known.
        variant: its name.
        weighted: operator type by name of the float model's weighted nodes.
    """
    if not engine_layers.has_details:
        return ()
    reasons = {id(left.layer): left.reason for left in engine_layers.left_in_float}
    found = []
    for layer in engine_layers.weighted:
        reason = "" if layer.is_quantized else reasons.get(id(layer)) or f"it computes in {layer.precision}"
        found += [
            LayerPlacement(variant, node, op_type, layer.is_quantized, reason)
            for node, op_type in _nodes_of(layer, weighted or {})
        ]
    return tuple(found)


@dataclass
class _Collected:
    tensors: list[TensorQuality] = field(default_factory=list)
    layers: list[LayerPlacement] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Match:
    """An activation of the float model in a variant: its scale, the tensor that shows it, and what moves it before."""

    scale: ReadScale
    source: str
    movement: Movement


@dataclass(frozen=True)
class _Analysis:
    """What comparing activations needs of the float model and the data; `producers` are its tensors."""

    model: FloatModel
    dataset: Dataset
    producers: Mapping[str, Producer]
    options: EvaluationOptions
    should_stop: Callable[[], bool] | None

    def compare(self, name: str, variant: FloatModel, graph: ir.Model) -> tuple[list[TensorQuality], list[str]]:
        """Qualities of a variant's tensors in network order, and notes on what is missing."""
        scales, unread = activation_scales(graph)
        if not scales and not unread:
            return [], []
        known, missing = self._match(graph, scales)
        notes = []
        if missing:
            notes.append(
                f"{len(missing)} of its {len(scales)} quantized activations have no counterpart of that name in "
                f"{self.model.name} and are not shown: {join_names(missing)}"
            )
        if unread:
            first, reason = next(iter(unread.items()))
            notes.append(f"{len(unread)} quantized activations are not shown, {first!r} among them: {reason}")
        qualities: list[TensorQuality] = []
        if known:
            qualities, obstacles = self._measure(name, variant, graph, known)
            notes += [f"activation {tensor!r} is not shown: {reason}" for tensor, reason in obstacles.items()]
        return qualities, notes

    def _match(self, graph: ir.Model, scales: Mapping[str, ReadScale]) -> tuple[dict[str, _Match], list[str]]:
        """The activations of the float model that a variant quantizes, in network order, and those of unknown names."""
        values = {str(value.name): value for node in graph.graph for value in node.outputs}
        folded = folded_factors(graph)
        found: dict[str, _Match] = {}
        missing = []
        for tensor, scale in scales.items():
            value = values.get(tensor)
            movement = None if value is None else find_movement(value, self.producers, folded)
            if movement is not None and movement.text and (movement.tensor == tensor or movement.tensor not in scales):
                found[movement.tensor] = _Match(scale, movement.tensor, movement)
            elif tensor in self.producers:
                found[tensor] = _Match(scale, scale.source, UNMOVED)
            else:
                missing.append(tensor)
        return {tensor: found[tensor] for tensor in self.producers if tensor in found}, missing

    def _measure(
        self, name: str, model: FloatModel, graph: ir.Model, matches: Mapping[str, _Match]
    ) -> tuple[list[TensorQuality], dict[str, str]]:
        samples = self._samples()
        first = next(iter(make_batches(samples, 1, strict=False, workers=1, skipped={})))
        groups, size = _groups(graph, {t: m.source for t, m in matches.items()}, first.inputs)
        qualities: list[TensorQuality] = []
        obstacles: dict[str, str] = {}
        settings: dict[str, Any] = {"threads": self.options.threads, "spinning": False}
        with show_progress(None, f"looking into {name}", len(samples) * len(groups), self.options.progress) as bar:
            for group in groups:
                sources = {tensor: matches[tensor].source for tensor in group}
                with ExitStack() as stack:
                    baseline = stack.enter_context(
                        open_accurate(self.model, name=f"the inside of {self.model.name}", tensors=group, **settings)
                    )
                    variant = stack.enter_context(
                        open_accurate(model, name=f"the inside of {name}", tensors=list(sources.values()), **settings)
                    )
                    batches = make_batches(
                        samples,
                        fixed_batch_size(baseline) or fixed_batch_size(variant) or size,
                        strict=False,
                        workers=self.options.workers,
                        skipped={},
                    )
                    found, left = measure_tensors(
                        baseline,
                        variant,
                        name=name,
                        batches=batches if self.should_stop is None else _until(self.should_stop, batches),
                        tensors={tensor: _observed(self.producers[tensor], matches[tensor]) for tensor in group},
                        # A model input is the same in both, whatever it is cast to.
                        aliases={t: s for t, s in sources.items() if t not in first.inputs},
                        on_batch=bar.update,
                    )
                qualities += found
                obstacles |= left
        return qualities, obstacles

    def _samples(self) -> Dataset:
        """Evenly out of all, since data may lie class by class."""
        total, wanted = len(self.dataset), min(self.options.layer_samples, len(self.dataset))
        return Selection(self.dataset, tuple(i * total // wanted for i in range(wanted)))


def _until(should_stop: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if should_stop():
            return
        yield batch


def _observed(producer: Producer, match: _Match) -> ObservedTensor:
    scale = match.scale
    params = QuantParams(np.asarray(scale.scale, np.float32))
    if not scale.is_symmetric:
        # INT8 with a zero point has the same codes, shifted by 128.
        params = replace(params, zero_point=int(np.rint(-scale.minimum / scale.scale)), format=UINT8)
    return ObservedTensor(producer.text, params, producer.low, producer.high, match.movement)


def _groups(graph: ir.Model, sources: Mapping[str, str], inputs: Mapping[str, Any]) -> tuple[list[list[str]], int]:
    """The tensors in runs that fit the budget on one sample, and how many samples fit it at once."""
    shapes = {}
    for spec in input_specs(graph):
        fed = inputs[spec.name].shape if spec.name in inputs else ()
        leading = spec.shape[:1]
        shapes[spec.name] = (leading[0], *fed[1:]) if leading and isinstance(leading[0], int) else fed
    sizes = activation_bytes(graph, list(sources.values()), shapes)
    groups: list[list[str]] = []
    totals: list[int] = []
    for tensor, source in sources.items():
        if not groups or totals[-1] + sizes[source] > _BUDGET_BYTES:
            groups.append([])
            totals.append(0)
        groups[-1].append(tensor)
        totals[-1] += sizes[source]
    return groups, min(max(_BUDGET_BYTES // max(*totals, 1), 1), _LARGEST_BATCH)


def _placements(graph: ir.Model, original: ir.Model, variant: str, skipped: Mapping[str, str]) -> list[LayerPlacement]:
    return [
        LayerPlacement(
            variant=variant,
            node=operator.name,
            op_type=operator.op_type,
            is_int8=operator.is_quantized,
            reason="" if operator.is_quantized else skipped.get(operator.name) or operator.reason,
        )
        for operator in weighted_coverage(graph, original)
    ]


def _engine_layers(runner: TensorRTRunner, path: Path) -> EngineLayers:
    """What the library tells of an engine; of a plan of TensorRT-RTX without details, what that says itself."""
    engine_layers = parse_inspector(runner.describe_layers(), name=path.name)
    if engine_layers.has_details:
        return engine_layers
    content = read_input(path, ModelError, most_bytes=None)
    return read_plan(content) or engine_layers


def _is_meant_quantized(engine: OpenEngine, engine_layers: EngineLayers) -> bool:
    """Whether to explain layers that are not INT8: for an engine that was built as FP16, nobody asks."""
    asked = engine.manifest is not None and engine.manifest.precision in SCHEMES
    return asked or any(layer.is_quantized for layer in engine_layers.layers)


def _nodes_of(layer: EngineLayer, weighted: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names and operator types of what a layer multiplies."""
    found = [(node, weighted[node]) for node in layer.onnx_nodes if node in weighted]
    fused = [node for node in layer.onnx_nodes if "quant" not in node.rpartition("/")[2].lower()]
    return found or [(" + ".join(fused) or layer.name, layer.kind)]
