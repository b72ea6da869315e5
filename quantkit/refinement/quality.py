"""What the quantized model's output is worth: on samples that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from quantkit.calibration.methods.mse import LOW_TENSOR_DB, expected_sqnr_db
from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.notices import Notice, Notify, join_names, plural
from quantkit.numerics import decibels
from quantkit.refinement.damage import OutputDamage
from quantkit.types import Array, TensorStatistics

LOW_SQNR_DB = 12.0
"""Below it a quarter of the output's amplitude is noise."""

LOW_AGREEMENT = 0.9

HIGH_ERROR = 0.25
"""Relative error: a third of the variance of the channels, on average. The ratio may hide it behind large means."""

_WORST = 999.0
"""Stands for infinity, which JSON does not have."""


def output_quality(
    outputs: Sequence[MeasuredOutput],
    reference: Sequence[Mapping[str, Array]],
    quantized: Sequence[Mapping[str, Array]],
    *,
    num_samples: int,
) -> dict[str, float]:
    """Signal-to-noise ratio and damage of the outputs; of class scores also how often the best class is the same.

    Returns:
        "num_samples", "sqnr_db" (999 where there is no noise), and "kl_divergence" (at most 999) with "agreement" (0 to
        1), or "relative_error". Ratio and agreement are those of the worst output: a large one would hide a small one.
    """
    damage = OutputDamage(outputs, reference)
    ratios, agreements = [], []
    for output in outputs:
        signal, noise, same, count = 0.0, 0.0, 0, 0
        for exact, got in zip(reference, quantized, strict=True):
            x, y = (np.asarray(values[output.name], np.float64) for values in (exact, got))
            y = y if x.shape == y.shape else np.zeros_like(x)  # a size that depends on values: nothing of it is right
            is_finite = np.isfinite(x)
            signal += float((x[is_finite] ** 2).sum())
            noise += float(((x - y)[is_finite] ** 2).sum())
            if damage.is_divergence:
                axis = -1 if output.axis is None else output.axis
                agreeing = x.argmax(axis) == y.argmax(axis)
                same, count = same + int(agreeing.sum()), count + agreeing.size
        ratios.append(decibels(signal, noise) if np.isfinite(noise) else -_WORST)
        agreements.append(same / max(count, 1))
    found = {"num_samples": float(num_samples), "sqnr_db": round(max(min(*ratios, _WORST), -_WORST), 2)}
    if damage.is_divergence:
        return {**found, "kl_divergence": min(damage.mean_divergence(quantized), _WORST), "agreement": min(agreements)}
    return {**found, "relative_error": damage.of(quantized)}


def describe_quality(quality: Mapping[str, float]) -> str:
    """In one line.

    Example:
        >>> describe_quality({"num_samples": 64.0, "sqnr_db": 31.2, "kl_divergence": 0.0012, "agreement": 0.984})
        'SQNR 31.2 dB, same class 98.4%, KL divergence 0.0012 (64 samples, against FP32)'
    """
    words = ["equal to the float model's" if quality["sqnr_db"] == _WORST else f"SQNR {quality['sqnr_db']:.1f} dB"]
    if "agreement" in quality:
        words += [f"same class {quality['agreement']:.1%}", f"KL divergence {quality['kl_divergence']:.2g}"]
    else:
        words.append(f"relative error {quality['relative_error']:.2g}")
    return f"{', '.join(words)} ({plural(round(quality['num_samples']), 'sample')}, against FP32)"


def is_low(quality: Mapping[str, float]) -> bool:
    """Whether a user has to be warned: the output is no longer what the float model says."""
    if "agreement" in quality:
        return quality["agreement"] < LOW_AGREEMENT
    return quality["sqnr_db"] < LOW_SQNR_DB or quality["relative_error"] > HIGH_ERROR


def warn_if_low(
    quality: Mapping[str, float],
    notify: Notify,
    activations: Mapping[str, tuple[TensorStatistics, float]] | None = None,
    *,
    effort: str,
) -> None:
    """Warns where `is_low`, and names the activations that lose most.

    Args:
        quality: of the output; empty where it is not known.
        notify: is warned.
        effort: of the calibration: where there is a greater one, that is advised first.
        activations: statistics and amax of what is quantized; None where they are not at hand.
    """
    if not quality or not is_low(quality):
        return
    text = f"The INT8 output differs much from that of the float model: {describe_quality(quality)}."
    if activations is not None:
        local = {name: expected_sqnr_db(seen, amax) for name, (seen, amax) in activations.items()}
        worst = [name for name in sorted(local, key=lambda name: local[name]) if local[name] < LOW_TENSOR_DB]
        words = [f"{n} (SQNR {local[n]:.1f} dB, values to {activations[n][0].amax:.4g})" for n in worst]
        text += f" Least precise: {join_names(words)}." if words else " No single activation is to blame."
    first = {"fast": "Try --accuracy balanced, or leave", "balanced": "Try --accuracy best, or leave"}.get(
        effort, "Leave"
    )
    notify(Notice("warning", "accuracy", f"{text} {first} operators in float with --exclude."))
