"""From ranges to a better quantized model, step by step: each is kept only if samples that judge are better for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.measured_outputs import measured_outputs
from quantkit.graph.multiply_adds import multiply_adds, stored_weights
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.placement.cost_rule import CHANNELS, find_unprofitable
from quantkit.graph.placement.tensorrt import exclude_tensors, plan_tensorrt
from quantkit.graph.quantize_tensorrt import plan_refined
from quantkit.notices import Notice, Notify, logs_duration, plural
from quantkit.refinement.damage import OutputDamage, recognize_class_scores
from quantkit.refinement.float_tensors import choose_additive, choose_float_tensors
from quantkit.refinement.float_trials import FloatTrials, edges_in_float
from quantkit.refinement.observation import observe
from quantkit.refinement.quality import output_quality
from quantkit.refinement.quantized_run import QuantizedGraph, run_model, run_quantized, with_qdq
from quantkit.refinement.range_choice import (
    RangeChoice,
    choose_by_output,
    joined_statistics,
    quantized_units,
    range_candidates,
    ranges_of_methods,
)
from quantkit.refinement.rounding import round_weights
from quantkit.refinement.samples import TRIAL_SAMPLES, SampleBatches
from quantkit.refinement.transforms import (
    Transform,
    are_same_transforms,
    balance,
    choose_transforms,
    equalize,
    find_sites,
    transforms_of,
    with_transforms,
)
from quantkit.refinement.trials import Trials, kept_tensors, pieces_behind
from quantkit.types import INT8, Refinement, TensorRange, TensorStatistics
from quantkit.types.options import CalibrationOptions, QuantizeOptions

_MOST_FLOAT_WORK = {"int": 0.05, "float": 0.15}
"""Share of the multiply-adds that may be left in float, with those that 8 bits do not speed up (padding apart). Both
cost the same time: beside INT8 that is TF32, with a quarter of its speed, beside FP8 it is FP16, with half."""

_ALPHAS = (0.5, 0.75, 1.0)
"""Shares of the difficulty that the weights of matrix products take (SmoothQuant): tried for all of them at once."""

_CLEARLY = 0.9
"""Share of the damage that another method's ranges must leave at most to be taken for everything."""

_LEFT_BY_FEEDBACK = 0.25
"""Share of the damage of weights rounded to nearest that error feedback leaves; measured: 0.02 to 0.5."""

_MUCH = 0.6
"""Share of the damage that transforms must leave for the ranges of a single method to be tried without them."""

_TINY = 1e-30
_ABOUT = 1.1
"""Damage of methods within this ratio is equal."""

ENOUGH = {True: 0.0004, False: 0.003}
"""Damage at which nothing more is left in float, at half of it nothing is transformed: KL divergence in nats, else the
share of error."""

_NOTHING = {True: 0.00005, False: 0.0003}
"""Damage that is not worth the time of rounding weights otherwise than to nearest."""


@dataclass(frozen=True)
class RefinedCalibration:
    """What was found on samples.

    Attributes:
        ranges: by tensor, with the method that each is of.
        float_tensors: what stays in float, with the reason.
        refinement: rounded weights and the like.
        quality: of the output, on samples that nothing was chosen on.
    """

    ranges: Mapping[str, TensorRange]
    float_tensors: Mapping[str, str] = field(default_factory=dict)
    refinement: Refinement = field(default_factory=Refinement)
    quality: Mapping[str, float] = field(default_factory=dict)


@logs_duration
def refine_calibration(
    model: FloatModel,
    samples: SampleBatches,
    statistics: Mapping[str, TensorStatistics],
    ranges: Mapping[str, TensorRange],
    options: CalibrationOptions,
    *,
    fixed: frozenset[str],
    others: Mapping[str, Mapping[str, float]] | None = None,
    notify: Notify,
) -> RefinedCalibration:
    """Improves on ranges, step by step, as far as `options.effort` asks for.

    Args:
        model: the float model.
        samples: of the calibration.
        statistics: of every calibrated tensor.
        ranges: from these, by `options.method`.
        options: of the calibration.
        fixed: tensors whose range is known to be what was seen.
        others: ranges of another origin, by its name: amax by tensor. They are tried beside those of the methods.
        notify: hears what was found.
    """
    try:
        run = Refining(model, samples, ranges, options, others=others, notify=notify)
    except ModelError:  # nothing of it can run on TensorRT: there is no plan to refine
        return RefinedCalibration(ranges)
    if options.effort != "fast":
        notify(Notice("info", "samples", run.describe_samples()))
        trials = run.trials()
        choices = run.choose_ranges(trials, statistics, fixed)
        choices = run.transform(trials, choices)
        del trials  # it holds the activations of its samples
        run.leave_in_float(choices)
        if options.method == "auto":
            run.compare_methods(statistics, fixed)
        if options.rounding == "feedback":
            run.round()
            run.leave_in_float(choices, rounded=True)
    return RefinedCalibration(run.ranges, run.floats, run.refinement, run.quality())


class Refining:
    """One refinement: the samples, and what was found so far; for INT8, unless `quantization` says otherwise."""

    def __init__(
        self,
        model: FloatModel,
        samples: SampleBatches,
        ranges: Mapping[str, TensorRange],
        options: CalibrationOptions,
        quantization: QuantizeOptions | None = None,
        *,
        others: Mapping[str, Mapping[str, float]] | None = None,
        notify: Notify,
    ) -> None:
        quantization = quantization or QuantizeOptions()
        self.options, self.others, self.notify = options, others or {}, notify
        self._weight_share = _LEFT_BY_FEEDBACK if options.rounding == "feedback" else 1.0
        self.format, self._opset = quantization.scheme.activations or INT8, quantization.scheme.oldest_opset
        self._placement: dict[str, Any] = {"fmt": self.format, "quantize_all": quantization.quantize_all}
        self._placement["exclude"] = quantization.exclude
        self.model = model
        self.num_samples = samples.num_samples
        # With effort "fast" nothing is chosen: all samples tell.
        self.choosing, self.judging, self.telling = (samples,) * 3 if options.effort == "fast" else samples.split()
        self.ranges = dict(ranges)
        self.floats: dict[str, str] = {}
        self.refinement = Refinement()
        self.graph = model.prepared(self._opset)
        plan = plan_tensorrt(self.graph, **self._placement)
        self.never = {e.tensor: "zero on every sample" for e in plan.activations if e.tensor not in ranges}
        self.plan = exclude_tensors(plan, self.never)
        self.units = quantized_units(self.plan)
        outputs = measured_outputs(self.graph)
        self.names = tuple(output.name for output in outputs)
        reference = self._reference = run_model(model.prepared(self._opset), self.judging.batches, outputs=self.names)
        self.outputs = recognize_class_scores(outputs, reference)
        self.judge = OutputDamage(self.outputs, reference, notify)
        self._measured: dict[bool, float] = {}
        self._left_by_transforms = 1.0

    def quantized(self, **changes: Any) -> QuantizedGraph:
        """The model as it would be quantized now, or with other `ranges`, `floats` or `refinement`."""
        state = {"ranges": self.ranges, "floats": self.floats, "refinement": self.refinement, **changes}
        graph = self.model.prepared(self._opset)
        in_float = {**self.never, **state["floats"]}
        plan = plan_refined(graph, state["ranges"], state["refinement"], in_float=in_float, **self._placement)
        return graph, plan, state["refinement"]

    def adopt(self, damage: float | None = None, *, with_weights: bool = False, **changes: Any) -> None:
        """Takes over `ranges`, `floats` or `refinement`, whose damage may be known."""
        for name, value in changes.items():
            setattr(self, name, value)
        self._measured = {} if damage is None else {with_weights: damage}

    def damage(self, *, with_weights: bool, **changes: Any) -> float:
        """Damage of such a model on the samples that judge; without changes it is measured once."""
        if not changes and with_weights in self._measured:
            return self._measured[with_weights]
        quantized = self.quantized(**changes)
        found = self.judge.of(
            run_quantized(quantized, self.judging.batches, outputs=self.names, with_weights=with_weights)
        )
        if not changes:
            self._measured[with_weights] = found
        return found

    def trials(self) -> Trials:
        """The float model on as many samples as trials of every unit can afford."""
        fewest, most = TRIAL_SAMPLES[self.options.effort]
        wanted = round(1.2 * self.num_samples / max(len(self.units), 1))
        pieces = GraphPieces(self.graph)
        behind = pieces_behind(pieces, self.units)
        kept = kept_tensors(behind, self.outputs, self.units)
        size = sum(nbytes for name, (_, nbytes) in self.tensor_sizes.items() if name in kept)
        samples = self.choosing.first(min(max(wanted, fewest), most)).within(size // self.judging.num_smallest)
        return Trials(pieces, behind, self.outputs, self.units, samples.batches, name=self.model.name, fmt=self.format)

    @functools.cached_property
    def tensor_sizes(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Shape and bytes of every tensor of the float model, for one sample, or for the batch that the model takes."""
        pieces = GraphPieces(self.graph)
        one = next(observe(pieces, pieces.producers, [self.judging.smallest]))
        return {name: (np.shape(array), np.asarray(array).nbytes) for name, array in one.items()}

    def choose_ranges(
        self, trials: Trials, statistics: Mapping[str, TensorStatistics], fixed: frozenset[str]
    ) -> dict[str, RangeChoice]:
        """The range of every unit; with a method that was named, only what its range does."""
        is_free = self.options.method == "auto"
        candidates, joined = {}, {}
        for unit, edges in self.units.items():
            tensors = {edge.tensor for edge in edges}
            seen = joined[unit] = joined_statistics(statistics[name] for name in tensors)
            if not is_free:
                candidates[unit] = {self.options.method: max(self.ranges[edge.tensor].amax for edge in edges)}
            elif unit in fixed:
                candidates[unit] = {"minmax": seen.amax}
            else:
                known = {origin: [amax[t] for t in tensors if t in amax] for origin, amax in self.others.items()}
                candidates[unit] = range_candidates(seen, {name: max(amax) for name, amax in known.items() if amax})
        choices = choose_by_output(trials, candidates, joined, progress=self.options.progress)
        if is_free:
            chosen = {
                edge.tensor: replace(self.ranges[edge.tensor], amax=choice.amax, method=choice.method)
                for unit, choice in choices.items()
                for edge in self.units[unit]
            }
            self.adopt(ranges={**self.ranges, **chosen})
        return choices

    def transform(self, trials: Trials, choices: dict[str, RangeChoice]) -> dict[str, RangeChoice]:
        """Shifts and scales channels where that helps; returns the choices with the damage that is left."""
        before = self._expected_damage(with_weights=True)
        if before <= ENOUGH[self.judge.is_divergence] / 2:
            return choices
        sites = find_sites(self.graph, self.plan, self.choosing)
        transforms, left = choose_transforms(trials, sites, choices)
        self.keep_if_better(transforms, with_weights=False)
        kept = transforms_of(self.refinement)
        choices = {name: left[name] if name in kept else choice for name, choice in choices.items()}
        # The weights take part of the difficulty, or give of theirs: they have to be judged too.
        self.keep_if_better(balance(self.graph, sites, kept, choices, self._weight_share), with_weights=True)
        others = {n: t for n, t in transforms_of(self.refinement).items() if sites.scalable[n].axis != -1}
        others |= {name: t for name, t in transforms.items() if sites.scalable[name].axis == -1}
        for found in equalize(self.graph, sites, others, _ALPHAS):
            self.keep_if_better(found, with_weights=True)
        self._left_by_transforms = self._expected_damage(with_weights=True) / before
        return choices

    def keep_if_better(self, transforms: Mapping[str, Transform], *, with_weights: bool) -> None:
        """Takes these transforms for its own if the damage is clearly less."""
        if are_same_transforms(transforms, transforms_of(self.refinement)):
            return
        before, unchanged = self._expected_damage(with_weights), (self.refinement, self._measured)
        self.adopt(refinement=with_transforms(self.refinement, transforms))
        after = self._expected_damage(with_weights, enough=_CLEARLY * before)
        if after < _CLEARLY * before:
            text = f"channels of {plural(len(transforms), 'activation')} are shifted or scaled: "
            text += self._figure("estimated" if with_weights else "in float", before, after)
            self.notify(Notice("info", "ranges", text))
        else:
            self.refinement, self._measured = unchanged

    def _expected_damage(self, with_weights: bool, *, enough: float = math.inf) -> float:
        """Damage, with that of the weights as far as their rounding will leave it, unless activations do `enough`."""
        of_activations = self.damage(with_weights=False)
        if not with_weights or of_activations >= enough:
            return of_activations
        return of_activations + self._damage_of_weights()

    def _damage_of_weights(self, **changes: Any) -> float:
        """What the weights add to it, as far as their rounding will leave it."""
        added = self.damage(with_weights=True, **changes) - self.damage(with_weights=False, **changes)
        return self._weight_share * max(added, 0.0)

    def leave_in_float(self, choices: Mapping[str, RangeChoice], *, rounded: bool = False) -> None:
        """Finds tensors whose readers stay in float, beside those that do; `rounded`: the weights are by now."""
        left = {unit: edges for unit, edges in self.units.items() if not any(e.tensor in self.floats for e in edges)}

        def floats(units: tuple[str, ...]) -> dict[str, str]:
            reason = f"more accurate in float (alone in {self.format.name.upper()}: {self.judge.unit} {{:.2g}})"
            found = {unit: reason.format(choices[unit].damage) for unit in units}
            return {**self.floats, **{edge.tensor: found[unit] for unit in units for edge in left[unit]}}

        @functools.cache
        def trials() -> FloatTrials:
            quantized = with_qdq(self.quantized(), with_weights=rounded)
            return FloatTrials(self.quantized()[0], quantized, self.judging.batches, self.names)

        def measure(sets: Sequence[tuple[str, ...]]) -> list[float]:
            tried = [edges_in_float(self.plan, floats(units)) for units in sets if units]
            found = iter(map(self.judge.of, trials().run(tried) if tried else ()))
            return [next(found) if units else self.damage(with_weights=rounded) for units in sets]

        work = multiply_adds(self.graph, {name: shape for name, (shape, _) in self.tensor_sizes.items()})
        in_float = {edge.node for edge in self.plan.activations if edge.tensor in self.floats}
        in_float |= {name for name, why in find_unprofitable(self.graph).in_float.items() if why != CHANNELS}
        taken = sum(work.get(node, 0) for node in in_float) / max(sum(work.values()), 1)
        ranking = sorted(left.keys() & choices.keys(), key=lambda unit: -choices[unit].damage)
        # An error of FP8 is a share of the value: it hardly depends on the others, and what each does alone adds up.
        choose = choose_float_tensors if self.format == INT8 else choose_additive
        choice = choose(
            {unit: choices[unit].damage for unit in ranking},
            left,
            work,
            measure,
            limit=_MOST_FLOAT_WORK[self.format.kind] - taken,
            enough=ENOUGH[self.judge.is_divergence],
            weights=stored_weights(self.graph) if self.format == INT8 else None,
        )
        if not choice.units:
            return
        count = f"{len(choice.units)}{' more' if rounded else ''} of {len(self.units)} activations stay in float"
        figure = self._figure("quantized" if rounded else "in float", choice.before, choice.after)
        self.notify(Notice("info", "ranges", f"{count} ({choice.share:.1%} of the multiply-adds): {figure}"))
        self.adopt(choice.after, with_weights=rounded, floats=floats(choice.units))

    def compare_methods(self, statistics: Mapping[str, TensorStatistics], fixed: frozenset[str]) -> None:
        """Takes the ranges of a single method for everything, with or without transforms, if that is clearly better.

        Of methods that do about as well the widest is taken: it clips least of what these samples do not show.
        """
        before, own = self.damage(with_weights=False), self.ranges
        free = [n for n in own.keys() & {e.tensor for e in self.plan.activations} - fixed if statistics[n].amax > 0]
        refinements = [(self.refinement, 0.0)]
        if self.refinement.amax and self._left_by_transforms > _MUCH:  # which may be there for the weights
            plain = with_transforms(self.refinement, {})
            before += (of_weights := self._damage_of_weights())
            refinements = [(self.refinement, of_weights), (plain, self._damage_of_weights(refinement=plain))]
        tried: list[tuple[float, float, str, dict[str, Any]]] = []
        for method, chosen in ranges_of_methods(free, own, statistics, self.others):
            width = sum(math.log(max(found.amax, _TINY)) for found in chosen.values())
            for refinement, of_weights in refinements:
                changes: dict[str, Any] = {"ranges": {**own, **chosen}, "refinement": refinement}
                damage = self.damage(with_weights=False, **changes) + of_weights
                tried.append((damage, width, method, changes))
        limit = min(_ABOUT * min(damage for damage, *_ in tried), _CLEARLY * before)
        if before > 0 and (better := [found for found in tried if found[0] <= limit]):
            damage, _, method, changes = max(better, key=lambda found: found[1])
            weights = "in float" if len(refinements) == 1 else "estimated"
            text = f"in the whole model, the ranges of {method} are better: {self._figure(weights, before, damage)}"
            self.notify(Notice("info", "ranges", text))
            self.adopt(**changes)

    def round(self) -> None:
        """Rounds the weights with error feedback, if that does better than rounding to nearest."""
        before = self.damage(with_weights=True)
        if before <= _NOTHING[self.judge.is_divergence]:
            text = f"weights rounded to nearest: {self._figure('quantized', before)} leaves nothing to gain"
            self.notify(Notice("info", "weights", text))
            return
        graph, plan, _ = self.quantized()
        samples = replace(self.choosing, batches=self.choosing.batches + self.judging.batches)
        found, layers = round_weights(graph, plan.qdq, plan.ranges, samples, progress=self.options.progress)
        refinement = replace(self.refinement, weights=found.weights, biases=found.biases)
        after = self.damage(with_weights=True, refinement=refinement)
        text = f"{len(layers)} weights rounded with error feedback: {self._figure('quantized', before, after)}"
        self.notify(Notice("info", "weights", text if after < before else f"{text}: rounded to nearest instead"))
        if after < before:
            self.adopt(after, with_weights=True, refinement=refinement)

    def quality(self) -> dict[str, float]:
        """What the INT8 output is worth on samples that nothing was chosen on."""
        batches, reference = self.telling.batches, self._reference
        if self.telling is not self.judging:
            reference = self._reference = run_model(self.model.prepared(), batches, outputs=self.names)
        got = run_quantized(self.quantized(), batches, outputs=self.names)
        return output_quality(self.outputs, reference, got, num_samples=self.telling.num_samples)

    def describe_samples(self) -> str:
        """What the figures of a run are measured on."""
        tried, judged, told = (part.num_samples for part in (self.choosing, self.judging, self.telling))
        held_out = " held out" if tried + judged + told <= self.num_samples else ""
        by = f"to judge them by (estimated {self.judge.unit} of the output from FP32's)"
        return f"samples: {tried} to try choices on, {judged} {by}, {told}{held_out} to measure the result on"

    def _figure(self, weights: str, *damage: float) -> str:
        """Damage on the samples that judge, perhaps before and after a change, and how the weights were."""
        figures = " → ".join(f"{found:.2g}" for found in damage)
        return f"{self.judge.unit} {figures} ({plural(self.judging.num_samples, 'sample')}, weights {weights})"
