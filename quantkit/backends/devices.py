"""Which device computes: what `--device` asks for, checked, or the best that is here."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, has_cuda_provider, using_gpu
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.types.device_choice import parse_device

_IDENTITY = (
    b'\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""The smallest model: y = x, one float, opset 13."""


@dataclass(frozen=True)
class Devices:
    """Where models are run.

    Attributes:
        gpus: indices in CUDA's order; none: the CPU.
        reason: why, in a few words.
        is_fallback: the CPU, where ONNX Runtime is built for CUDA and a GPU cannot be used.
    """

    gpus: tuple[int, ...]
    reason: str
    is_fallback: bool = False

    @property
    def first_gpu(self) -> int | None:
        """For what runs on one device."""
        return self.gpus[0] if self.gpus else None

    def __str__(self) -> str:
        return f"cuda:{','.join(map(str, self.gpus))}" if self.gpus else "cpu"


def choose_devices(wanted: str) -> Devices:
    """The devices of `--device`; of "auto" the first GPU where ONNX Runtime and pycuda can use it, else the CPU.

    Raises:
        BackendUnavailableError: a GPU is asked for, and a library for it is missing or does not load.
        BackendError: there is no such GPU.
        ValueError: `wanted` is no device.
    """
    found = parse_device(wanted)
    if found != "auto":
        for index in found:
            _check(index)
        return Devices(found, "asked for")
    try:
        is_built_for_cuda = has_cuda_provider()
    except BackendUnavailableError as error:  # what needs it says so
        return Devices((), str(error))
    if not is_built_for_cuda:
        return Devices((), "ONNX Runtime is not built for CUDA")
    try:
        _check(0)
    except BackendError as error:
        return Devices((), str(error), is_fallback=True)
    return Devices((0,), "ONNX Runtime's CUDA provider and pycuda work")


@functools.cache
def _check(index: int) -> None:
    """Tries a GPU, once: `tune` asks for each evaluation."""
    with using_gpu(index), OnnxRuntimeRunner(_IDENTITY, name="a test"):
        PrimaryContext(index)
