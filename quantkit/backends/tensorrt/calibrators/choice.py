"""Which calibrator to take: TensorRT's own where it can run, or quantkit's."""

from __future__ import annotations

from typing import get_args

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.errors import BackendError, BackendUnavailableError, CalibrationError
from quantkit.types.options import CalibratorName

_METHODS = ("entropy", "minmax")


def choose_calibrator(wanted: CalibratorName, *, method: str, histogram: str) -> tuple[Library | None, str]:
    """Which calibrator to take, and why.

    Args:
        wanted: "auto" takes TensorRT's where it can run, else quantkit's.
        method: TensorRT has entropy and minmax.
        histogram: "tensorrt" asks quantkit to reproduce TensorRT's rule.

    Returns:
        TensorRT, or None for quantkit's own, and the reason in a few words.

    Raises:
        CalibrationError: an unknown name, or TensorRT is wanted and does not know the method.
        BackendUnavailableError: TensorRT is wanted and cannot run here.
    """
    if wanted not in get_args(CalibratorName):
        raise CalibrationError(f"there is no calibrator {wanted!r}: choose {', '.join(get_args(CalibratorName))}")
    if wanted == "quantkit":
        return None, "as asked"
    if method not in _METHODS:
        if wanted == "tensorrt":
            raise CalibrationError(f"TensorRT has no method {method!r}: choose {' or '.join(_METHODS)}")
        return None, f"{method} is not a TensorRT calibration method"
    if histogram == "tensorrt":
        if wanted == "tensorrt":
            raise CalibrationError("--histogram is for quantkit's calibrator: leave it out with --calibrator tensorrt")
        return None, "it reproduces TensorRT's histogram"
    library, obstacle = _find_library()
    if library is not None:
        return library, "as asked" if wanted == "tensorrt" else "it is installed, and there is a GPU"
    if wanted == "tensorrt":
        raise BackendUnavailableError(f"--calibrator tensorrt: {obstacle}: --calibrator quantkit needs none of it")
    return None, obstacle


def _find_library() -> tuple[Library | None, str]:
    """TensorRT with everything that its calibrator needs, or None and what is missing first: a GPU before software."""
    if find_gpu() is None:
        return None, "there is no NVIDIA GPU"
    try:
        library = load_library("tensorrt", calibrators=True)
    except BackendUnavailableError as error:
        return None, str(error)
    try:
        PrimaryContext()
    except BackendError as error:
        return None, str(error)
    return library, ""
