"""What quantizing each tensor and each operator costs the output: few samples for all, more for the worst."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from quantkit.calibration.table import table_checksum
from quantkit.graph.float_model import FloatModel
from quantkit.graph.multiply_adds import multiply_adds
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.placement.tensorrt import exclude_tensors, plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.graph.quantize_tensorrt import plan_refined
from quantkit.notices import logs_duration
from quantkit.numerics import QuantParams, dequantize_array, quantize_array, value_bounds
from quantkit.progress import show_progress
from quantkit.refinement.observation import observe
from quantkit.refinement.range_choice import quantized_units
from quantkit.refinement.samples import SampleBatches
from quantkit.refinement.unit_trials import QuantizedUnit, UnitDamage, UnitTrials, sqnr_db
from quantkit.types import Array, CalibrationTable, QdqPlan, Refinement
from quantkit.types.sensitivity import Sensitivity, UnitSensitivity

FIRST_SAMPLES = 16
"""On which all units are measured."""

_MOST_SAMPLES = 128
"""The damage of the worst units is known well enough from so many."""

_TOP = 8
"""So many of the worst units are measured until their order is clear."""

_CODES = 256

_ROUNDING = 0.501
"""Steps that rounding can cost at most; what loses more is clipped."""


def plan_of_table(model: FloatModel, table: CalibrationTable) -> QdqPlan:
    """What the model of a table quantizes, on the tensors of the float model.

    Where a tensor is shifted or scaled, nodes that only shared its Q, such as a residual Add, read floats.
    """
    plan = exclude_tensors(plan_tensorrt(model.prepared()), table.in_float)
    refinement = table.refinement or Refinement()
    refined = plan_refined(model.prepared(), table.tensors, refinement, in_float=table.in_float)
    quantized = {(edge.node, edge.index) for edge in refined.qdq.activations}
    return replace(plan, activations=tuple(e for e in plan.activations if (e.node, e.index) in quantized))


def plan_units(plan: QdqPlan, weighted: Set[str]) -> tuple[QuantizedUnit, ...]:
    """Every quantized tensor with its readers, and every operator with its inputs, in network order.

    Args:
        plan: of the prepared model.
        weighted: names of its Conv, ConvTranspose, Gemm and MatMul.
    """
    tensors = [
        QuantizedUnit(
            name,
            "tensor",
            frozenset((edge.node, edge.index) for edge in edges),
            tuple(dict.fromkeys(edge.tensor for edge in edges)),
            frozenset(edge.node for edge in edges),
        )
        for name, edges in quantized_units(plan).items()
    ]
    inputs: dict[str, list[tuple[int, str]]] = {}
    for edge in plan.activations:
        if edge.node in weighted:
            inputs.setdefault(edge.node, []).append((edge.index, edge.tensor))
    weights: dict[str, list[int]] = {}
    for edge in plan.weights:
        weights.setdefault(edge.node, []).append(edge.index)
    operators = [
        QuantizedUnit(
            node,
            "operator",
            frozenset((node, index) for index in (*(index for index, _ in read), *weights.get(node, ()))),
            tuple(dict.fromkeys(tensor for _, tensor in read)),
            frozenset([node]),
        )
        for node, read in inputs.items()
    ]
    return (*tensors, *operators)


@dataclass(frozen=True)
class RankingRound:
    """One round of a ranking.

    Attributes:
        units: that are tried, each alone and left out alone.
        num_samples: that they are tried on, if there are so many.
        sample_bytes: that are kept of each sample.
    """

    units: tuple[QuantizedUnit, ...]
    num_samples: int
    sample_bytes: int

    def choose(self, samples: SampleBatches) -> SampleBatches:
        """What the units are tried on, of all samples."""
        return samples.first(_MOST_SAMPLES).within(self.sample_bytes).first(self.num_samples)


@dataclass(frozen=True)
class TriedUnits:
    """What was found in a round.

    Attributes:
        total: damage by all units together.
        measure: what damage is, for messages.
        damages: of each unit.
    """

    total: float
    measure: str
    damages: Mapping[QuantizedUnit, UnitDamage]


def try_units(
    model: FloatModel,
    table: CalibrationTable,
    samples: SampleBatches,
    step: RankingRound,
    units: Iterable[QuantizedUnit],
) -> TriedUnits:
    """Tries some units of a round.

    Args:
        model: the float model.
        table: its calibration.
        samples: all of them.
        step: the round, all units of which decide how the two models are cut.
        units: some of these.
    """
    trials = UnitTrials(model, table, step.units, step.choose(samples).batches)
    return TriedUnits(trials.total, trials.damage.unit, {unit: trials.measure(unit) for unit in units})


@logs_duration
def analyze_sensitivity(
    model: FloatModel,
    table: CalibrationTable,
    samples: SampleBatches,
    *,
    operators: bool = True,
    progress: bool,
    elsewhere: Callable[[RankingRound, str | None], TriedUnits] | None = None,
) -> Sensitivity:
    """Ranks the units of a model by the damage that each does to the output alone.

    All units are measured on few samples. A quarter of them, the worst, is measured on twice as many, and so on, until
    the order of the worst does not change any more. The tensors' own errors are over all samples.

    Args:
        model: the float model.
        table: its calibration.
        samples: which ones decides; their order does not.
        operators: also rank operators, which takes twice as long.
        progress: show progress bars.
        elsewhere: tries all units of a round, with the title of a progress bar; None tries them here.

    Raises:
        ModelError: nothing of the model can be quantized.
    """
    graph = model.prepared()
    plan = plan_of_table(model, table)
    pieces = GraphPieces(graph)
    sizes = next(observe(pieces, pieces.producers, [samples.smallest]))
    counts = multiply_adds(graph, {name: np.shape(array) for name, array in sizes.items()})
    work = {node: count / max(sum(counts.values()), 1) for node, count in counts.items()}
    errors = _tensor_errors(model, table, samples, progress=progress)
    size = 2 * sum(np.asarray(array).nbytes for array in sizes.values()) // samples.num_smallest  # of both models

    def here(step: RankingRound, title: str | None) -> TriedUnits:
        units = show_progress(step.units, title or "", len(step.units), title is not None)
        return try_units(model, table, samples, step, units)

    found: list[UnitSensitivity] = []
    total, measure = 0.0, ""
    for kind in ("tensor", "operator")[: 1 + operators]:
        units = [unit for unit in plan_units(plan, weighted_nodes(graph)) if unit.kind == kind]
        title = f"{kind}s" if progress else None
        ranking = _rank(samples, RankingRound(tuple(units), FIRST_SAMPLES, size), elsewhere or here, title)
        total, measure = ranking.totals[max(ranking.totals)], ranking.measure
        for unit, (damage, count) in ranking.damages.items():
            own = list(dict.fromkeys(errors[edge] for edge in sorted(unit.edges) if edge in errors))
            found.append(
                UnitSensitivity(
                    name=unit.name,
                    kind=unit.kind,
                    tensors=unit.tensors,
                    nodes=tuple(sorted(unit.nodes, key=pieces.positions.__getitem__)),
                    damage=damage.alone,
                    saved=ranking.totals[count] - damage.without,
                    num_samples=count,
                    work=sum(work.get(node, 0.0) for node in unit.nodes),
                    sqnr_db=damage.sqnr_db if kind == "operator" else sqnr_db(e.sums for e in own),
                    clipped=sum(e.num_clipped for e in own) / max(sum(e.count for e in own), 1),
                    codes=min((int(np.count_nonzero(e.codes)) for e in own), default=0),
                )
            )
    return Sensitivity(
        model_name=model.name,
        model_hash=model.hash,
        table_checksum=table_checksum(table),
        measure=measure,
        damage=total,
        num_samples=samples.num_samples,
        units=tuple(sorted(found, key=lambda unit: -unit.damage)),
        work=work,
        in_float=dict(table.float_tensors),
    )


@dataclass
class _Ranking:
    """Damage of each unit with the number of samples behind it, and of everything by that number."""

    damages: dict[QuantizedUnit, tuple[UnitDamage, int]] = field(default_factory=dict)
    totals: dict[int, float] = field(default_factory=dict)
    measure: str = ""


def _rank(
    samples: SampleBatches,
    step: RankingRound,
    try_round: Callable[[RankingRound, str | None], TriedUnits],
    title: str | None,
) -> _Ranking:
    found = _Ranking()
    while True:
        contenders, count = list(step.units), step.choose(samples).num_samples
        results = try_round(step, title and f"{title}, {count} samples")
        found.totals[count], found.measure = results.total, results.measure
        found.damages |= {unit: (results.damages[unit], count) for unit in contenders}
        ordered = sorted(contenders, key=lambda unit: -found.damages[unit][0].alone)
        is_clear = len(found.totals) > 1 and ordered[:_TOP] == contenders[:_TOP]
        most = replace(step, num_samples=_MOST_SAMPLES).choose(samples).num_samples
        if is_clear or count >= most:
            return found
        step = replace(step, units=tuple(ordered[: max(len(ordered) // 4, _TOP)]), num_samples=2 * count)


@dataclass(eq=False)
class _TensorError:
    """What quantization does to a tensor's own values."""

    params: QuantParams
    sums: tuple[float, float] = (0.0, 0.0)
    """Sums of the squares of the values, and of their errors."""
    num_clipped: int = 0
    count: int = 0
    codes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_CODES, np.int64))
    """How often each occurs, the lowest first."""

    def add(self, values: Array) -> None:
        x = np.asarray(values, np.float32).ravel()
        codes = quantize_array(x, self.params)
        error = dequantize_array(codes, self.params) - x
        signal, noise = (float(np.square(a).sum(dtype=np.float64)) for a in (x, error))
        self.sums = self.sums[0] + signal, self.sums[1] + noise
        self.codes += np.bincount(codes.astype(np.int16) - value_bounds(self.params.format)[0], minlength=_CODES)
        self.num_clipped += int(np.count_nonzero(np.abs(error) > _ROUNDING * self.params.scale))
        self.count += x.size


def _tensor_errors(
    model: FloatModel, table: CalibrationTable, samples: SampleBatches, *, progress: bool
) -> dict[tuple[str, int], _TensorError]:
    """By edge of an activation: readers of one tensor have the same one."""
    graph = model.prepared()
    plan = plan_refined(graph, table.tensors, table.refinement or Refinement(), in_float=table.in_float)
    errors = {name: _TensorError(params) for name, params in activation_params(plan.qdq, plan.ranges).items()}
    batches = show_progress(samples.batches, "errors of tensors", len(samples.batches), progress)
    for values in observe(GraphPieces(graph), errors, batches):
        for name, error in errors.items():
            error.add(values[name])
    return {(edge.node, edge.index): errors[edge.tensor] for edge in plan.qdq.activations}
