"""From statistics to ranges by a calibration method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantkit.calibration.methods import METHODS, bind_method
from quantkit.errors import CalibrationError
from quantkit.notices import Notice, Notify, join_names, logs_duration
from quantkit.progress import show_progress
from quantkit.types import TensorRange, TensorStatistics

if TYPE_CHECKING:
    from quantkit.calibration.statistics_file import KeptStatistics

_MOST_CLIPPED = 0.25
"""Share of a tensor's values; on the models of docs/explanation/calibration.md entropy clips a few percent at most."""


@logs_duration
def choose_ranges(
    kept: KeptStatistics, method: str, options: Mapping[str, float | None], *, progress: bool, notify: Notify
) -> tuple[dict[str, TensorRange], dict[str, str]]:
    """Calibrated ranges, and the tensors that were always zero with the reason; tells what loses most of its values."""
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
            skipped[name] = "zero on every sample"
    if not ranges:
        raise CalibrationError("every observed tensor was zero on every sample: check model and preprocessing")
    _warn_of_clipping(kept, ranges, method, notify)
    return ranges, skipped


def _warn_of_clipping(kept: KeptStatistics, ranges: Mapping[str, TensorRange], method: str, notify: Notify) -> None:
    """A range that most values lie beyond is a method's failure on this tensor, and the end of the model's accuracy."""
    cut = {}
    for name, chosen in ranges.items():
        statistics = kept.tensors[name]
        beyond = int(statistics.histogram[math.ceil(chosen.amax / statistics.bin_width) :].sum())
        reaching = statistics.count - int(statistics.histogram[0])
        if beyond > _MOST_CLIPPED * max(reaching, 1):
            cut[name] = f"{name} ({100 * beyond / reaching:.0f}% beyond {chosen.amax:.4g})"
    if cut:
        notify(
            Notice(
                "warning",
                "clipping",
                f"{method} clips a large share of the nonzero values of {join_names(list(cut.values()))}. Try another "
                "--method if INT8 is less accurate than FP32.",
            )
        )
