"""What FP8 needs beyond ranges: channels around their means, and a few tensors in float.

The rounding error of E4M3 is relative to the value, a sixteenth of it at most, whatever the scale: no range makes it
smaller. What makes the error of a tensor smaller is to quantize smaller values, which is what a shift by the means
does. And what differs little from a large mean, such as the pixels of a picture of low contrast, is better left in
float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notify, logs_duration
from quantkit.numerics import QuantParams
from quantkit.progress import show_progress
from quantkit.refinement.range_choice import RangeChoice
from quantkit.refinement.refine import ENOUGH, Refining
from quantkit.refinement.samples import SampleBatches
from quantkit.refinement.transforms import choose_transforms, find_sites
from quantkit.refinement.trials import Trials
from quantkit.types import Refinement, TensorRange
from quantkit.types.options import CalibrationOptions, QuantizeOptions


@logs_duration
def refine_float8(
    model: FloatModel,
    samples: SampleBatches,
    ranges: Mapping[str, TensorRange],
    options: CalibrationOptions,
    quantization: QuantizeOptions,
    *,
    notify: Notify,
) -> Refinement:
    """Shifts of channels and tensors in float, each kept as for INT8: where samples that judge are better for it.

    Args:
        model: the float model.
        samples: to choose and to judge on.
        ranges: the magnitudes that were seen.
        options: of the calibration.
        quantization: with the format.
        notify: hears what was found.
    """
    run = Refining(model, samples, ranges, options, quantization, notify=notify)
    if run.damage(with_weights=False) <= ENOUGH[run.judge.is_divergence]:
        return Refinement()
    trials = run.trials()
    choices = _shift(run, trials, _damage_alone(run, trials))
    del trials  # it holds the activations of its samples
    run.leave_in_float(choices)
    return replace(run.refinement, float_tensors=run.floats)


def _damage_alone(run: Refining, trials: Trials) -> dict[str, RangeChoice]:
    """The range of every unit as it is, with what it does alone."""
    found = {}
    for unit, edges in show_progress(run.units.items(), "trying tensors", len(run.units), run.options.progress):
        amax = max(run.ranges[edge.tensor].amax for edge in edges)
        with trials.of(unit) as trial:
            damage = trial.damage(float(QuantParams.from_amax(amax, run.format).scale))
        found[unit] = RangeChoice(amax, "minmax", damage, {})
    return found


def _shift(run: Refining, trials: Trials, choices: dict[str, RangeChoice]) -> dict[str, RangeChoice]:
    """Shifts channels where that helps and takes no Pad; returns the choices with the damage that is left."""
    sites = find_sites(run.graph, run.plan, run.choosing, padded=False)
    transforms, left = choose_transforms(trials, sites, choices)
    run.keep_if_better(transforms, with_weights=False)
    return left if run.refinement.amax else choices
