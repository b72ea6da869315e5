"""From statistics to ranges by a calibration method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from quantkit.calibration.methods import METHODS, bind_method
from quantkit.calibration.methods.mse import LOW_TENSOR_DB, expected_sqnr_db, mse
from quantkit.errors import CalibrationError
from quantkit.notices import Notice, Notify, join_names, logs_duration
from quantkit.progress import show_progress
from quantkit.types import TensorRange, TensorStatistics
from quantkit.types.calibration import NOT_FINITE

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import KeptStatistics

_MOST_LOST_DB = 6.0
"""Against the best range of the same tensor: half of its precision."""


@logs_duration
def choose_ranges(
    kept: KeptStatistics,
    method: str,
    options: Mapping[str, float | None],
    *,
    judged: Collection[str] | None = None,
    progress: bool,
    notify: Notify,
) -> tuple[dict[str, TensorRange], dict[str, str]]:
    """Calibrated ranges, and the tensors without one with the reason; warns of ranges that fit badly.

    Args:
        kept: the statistics.
        method: of calibration.
        options: of the method.
        judged: tensors that warnings are for; None: all of them.
        progress: show a progress bar.
        notify: hears the warnings.
    """
    choose = bind_method(method, options)
    # Most probabilities and gates are near 0, and there KL divergence ends the range; the few large ones matter.
    # ONNX Runtime and ModelOpt fix the range of a Softmax likewise. TensorRT's own rule knows no exception.
    unclipped = kept.origin.unclipped if METHODS[method].keeps_probabilities and kept.rule == "exact" else frozenset()

    def threshold(name: str, tensor: TensorStatistics) -> float:
        return 0.0 if tensor.amax == 0 else tensor.amax if name in unclipped else choose(tensor)

    ranges, skipped = {}, {}
    for name, tensor in show_progress(kept.tensors.items(), "choosing ranges", len(kept.tensors), progress):
        amax = threshold(name, tensor)
        if amax > 0:
            ranges[name] = TensorRange(amax=amax, minimum=tensor.minimum, maximum=tensor.maximum)
        else:
            skipped[name] = "zero on every sample" if tensor.minimum <= tensor.maximum else NOT_FINITE
    if not ranges:
        raise CalibrationError("every observed tensor was zero on every sample: check model and preprocessing")
    _warn_of_bad_fit(kept, {n: r for n, r in ranges.items() if judged is None or n in judged}, method, notify)
    return ranges, skipped


def _warn_of_bad_fit(kept: KeptStatistics, ranges: Mapping[str, TensorRange], method: str, notify: Notify) -> None:
    """Names the tensors whose range loses much precision against the best: usually what it clips, seldom its width."""
    found: list[tuple[float, str]] = []
    for name, chosen in ranges.items():
        statistics = kept.tensors[name]
        sqnr = expected_sqnr_db(statistics, chosen.amax)
        if sqnr > LOW_TENSOR_DB:
            continue
        best = mse(statistics)
        highest = expected_sqnr_db(statistics, best)
        if highest - sqnr > _MOST_LOST_DB:
            text = f"{name} (SQNR {sqnr:.1f} dB with {chosen.amax:.4g}, {highest:.1f} dB with {best:.4g})"
            found.append((sqnr, text))
    if found:
        worst = join_names([text for _, text in sorted(found)])
        notify(
            Notice(
                "warning",
                "clipping",
                f"{method} chose ranges that lose much of the precision of {worst}. "
                "--method auto chooses each range by what it does to the output.",
            )
        )
