"""Calibration methods: pure functions from `TensorStatistics` to amax. A new one is a file here and a line below."""

from __future__ import annotations

import difflib
import functools

from quantkit.calibration.methods.entropy import entropy
from quantkit.calibration.methods.minmax import minmax
from quantkit.calibration.methods.mse import mse
from quantkit.calibration.methods.percentile import DEFAULT_PERCENTILE, percentile
from quantkit.errors import CalibrationError
from quantkit.types import Method

__all__ = ["DEFAULT_PERCENTILE", "METHODS", "entropy", "find_method", "minmax", "mse", "percentile", "used_percentile"]

METHODS: dict[str, Method] = {
    "entropy": entropy,
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}


def find_method(name: str, *, percent: float | None = None) -> Method:
    """The method of that name; `percent` belongs to "percentile" and is refused for the others.

    Raises:
        CalibrationError: an unknown name, or a percentile out of range or for another method.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(METHODS)}"
        raise CalibrationError(f"there is no calibration method {name!r}: {hint}")
    if percent is None:
        return METHODS[name]
    if name != "percentile":
        raise CalibrationError(f"--percentile has no meaning with the method {name!r}")
    if not 0 < percent <= 100:
        raise CalibrationError(f"--percentile {percent} must be above 0 and at most 100")
    return functools.partial(percentile, percent=percent)


def used_percentile(method: str, percent: float | None) -> float | None:
    """The percentile that a method uses, None where it has none."""
    return (percent if percent is not None else DEFAULT_PERCENTILE) if method == "percentile" else None
