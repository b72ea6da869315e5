"""What samples tell beyond statistics: a table refined by what its ranges do to the model's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from quantkit.backends.onnxruntime import chosen_gpu, using_gpu_where_it_pays
from quantkit.commands.on_device import or_on_cpu
from quantkit.errors import BackendError
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.share import estimated_total_work
from quantkit.notices import Notice
from quantkit.refinement.quality import warn_if_low
from quantkit.refinement.refine import refine_calibration
from quantkit.refinement.samples import TRIAL_SAMPLES, affordable_samples, choose_samples
from quantkit.types import CalibrationTable, Dataset, Refinement

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import KeptStatistics
    from quantkit.graph.float_model import FloatModel
    from quantkit.notices import Notify
    from quantkit.types.options import CalibrationOptions


def refine_table(
    table: CalibrationTable,
    kept: KeptStatistics,
    model: FloatModel,
    dataset: Dataset,
    options: CalibrationOptions,
    *,
    others: Mapping[str, Mapping[str, float]],
    notify: Notify,
) -> CalibrationTable:
    """The table with better ranges, what stays in float, rounded weights, and what the output is worth.

    Args:
        table: made of the statistics.
        kept: the statistics.
        model: of the table.
        dataset: of the table.
        options: of the calibration; with "fast", only the quality of the output is added.
        others: candidates of another origin for the ranges, by its name: amax by tensor.
        notify: hears what was found.
    """
    inputs = frozenset(spec.name for spec in model.inputs) if dataset.preprocessing is not None else frozenset()
    try:
        most = affordable_samples(model, dataset, effort=options.effort)
        samples = choose_samples(model.inputs, dataset, kept.origin.contents, most=most, workers=options.workers)
        fixed = kept.origin.unclipped | inputs
        known = (kept.tensors, table.tensors, options)
        refine = partial(refine_calibration, model, samples, *known, fixed=fixed, others=others, notify=notify)
        work = 0 if chosen_gpu() is None else TRIAL_SAMPLES[options.effort][0] * estimated_total_work(model.prepared())
        with using_gpu_where_it_pays(work):
            found = or_on_cpu(refine, notify)
    except BackendError as error:  # a piece of the graph does not run by itself, though the whole model does
        text = f"Ranges are chosen from statistics alone, and weights rounded to nearest: {error}"
        notify(Notice("warning", "accuracy", text))
        return replace(table, refinement=Refinement() if "rounding" in table.settings else None)
    model.check_unchanged()
    needed = observed_tensors(model.prepared(), all_tensors=False).needed
    quantized = (found.ranges.keys() & needed) - found.float_tensors.keys() - found.refinement.amax.keys()
    seen = {name: (kept.tensors[name], found.ranges[name].amax) for name in quantized}
    warn_if_low(found.quality, notify, seen, effort=options.effort)
    return replace(
        table,
        tensors=found.ranges,
        float_tensors=found.float_tensors,
        quality=found.quality,
        refinement=found.refinement if "rounding" in table.settings else None,
    )
