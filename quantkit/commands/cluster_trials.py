"""Trials of a ranking by the tasks of a Ray cluster: each runs both models on the samples and tries some units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from quantkit.backends.onnxruntime import using_threads
from quantkit.commands.chosen_samples import choose_sensitivity_samples, open_sensitivity_data
from quantkit.commands.cluster import describe_cluster, describe_inputs, open_cluster
from quantkit.commands.extensions import with_extensions
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.commands.shard import Shard
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify
from quantkit.progress import show_progress
from quantkit.refinement.sensitivity_analysis import RankingRound, TriedUnits, try_units
from quantkit.refinement.unit_trials import QuantizedUnit
from quantkit.types import CalibrationTable, PathLike
from quantkit.types.options import SensitivityOptions


@dataclass(frozen=True, kw_only=True)
class TrialShard(Shard):
    """All samples, and some units to try on them.

    Attributes:
        options: of the analysis.
        table: what the quantized model is made of.
        step: the round; None until there is one.
        units: of it.
    """

    options: SensitivityOptions
    table: CalibrationTable
    step: RankingRound | None = None
    units: tuple[QuantizedUnit, ...] = ()


@contextmanager
def trying_on_cluster(
    model: FloatModel,
    data: PathLike,
    table: CalibrationTable,
    contents: Sequence[tuple[str, str]],
    options: SensitivityOptions,
    *,
    notify: Notify,
) -> Iterator[Callable[[RankingRound, str | None], TriedUnits]]:
    """Yields what tries the units of a round by the tasks of the cluster of `options.ray`.

    Raises:
        QuantKitError: there is no cluster, or its nodes do not see the same model and data.
    """
    alone = replace(options, table=None, ray=None, progress=False, device="cpu")
    whole = TrialShard(options=alone, table=table, **describe_inputs(model, data, contents, options))
    with open_cluster(str(options.ray), use_gpus=False) as cluster:
        notify(Notice("info", "device", describe_cluster(cluster, "which try tensors and operators")))

        def try_round(step: RankingRound, title: str | None) -> TriedUnits:
            count = min(cluster.num_slots, len(step.units))
            # Dealt out: what lies in front of a network takes the longest.
            shards = [replace(whole, threads=cluster.cpus, step=step, units=step.units[i::count]) for i in range(count)]
            with show_progress(None, title or "", len(step.units), title is not None) as bar:
                return cluster.map_merge(try_shard, shards, _merge, lambda i: bar.update(len(shards[i].units)))

        yield try_round


def try_shard(shard: TrialShard) -> TriedUnits:
    """Tries the units of a shard, wherever this is called.

    Raises:
        QuantKitError: model or data are not what the shard was made of, or cannot be used.
    """
    assert shard.step is not None
    shard.enter()
    options = replace(shard.options, workers=shard.threads)
    with with_extensions(options), using_threads(shard.threads):
        model = shard.check_model(fix_as_calibrated(FloatModel.open(shard.model), shard.table))
        dataset = shard.choose(open_sensitivity_data(model, shard.data, shard.table, options))
        samples = choose_sensitivity_samples(model, dataset, options)
        return try_units(model, shard.table, samples, shard.step, shard.units)


def _merge(one: TriedUnits, other: TriedUnits) -> TriedUnits:
    return replace(one, damages={**one.damages, **other.damages})
