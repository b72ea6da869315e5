"""Builds for a DLA, a deep-learning accelerator of Jetson: INT8 and FP16, static shapes, what the GPU takes over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantkit.backends.tensorrt.build.profiles import OptimizationProfile
from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError
from quantkit.notices import Notice, Notify, join_names

_FIRST_WITHOUT, _FIRST_AGAIN = (10, 8, 0), (11, 4, 1)
"""The calls exist in every version: only the number tells."""

_UNPLACED = ("CONSTANT", "SHAPE")
"""Layers that are no work: weights, and what is known before the engine runs."""


def check_dla(library: Library) -> None:
    """Refuses a version without DLA.

    Raises:
        BackendError: it has none.
    """
    if _FIRST_WITHOUT <= library.version < _FIRST_AGAIN:
        raise BackendError(
            f"--dla-core: {library.title} has no DLA; 10.7 was the last that had it, and 11.4.1 has it again for "
            "Jetson AGX Orin"
        )


def check_static(profiles: Sequence[OptimizationProfile]) -> None:
    """Refuses profiles with a range of shapes.

    Raises:
        BackendError: naming the input.
    """
    for profile in profiles:
        for name, shape in profile.shapes.items():
            if shape.minimum != shape.maximum:
                raise BackendError(
                    f"--dla-core: a DLA takes one shape, and the profile of input {name!r} is {shape}: give the same "
                    "--min-shapes, --opt-shapes and --max-shapes, or --opt-shapes alone"
                )


def use_dla(library: Library, builder: Any, config: Any, core: int) -> None:
    """Makes a DLA core the device of every layer.

    Raises:
        BackendError: there is no such core.
    """
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        raise BackendError(f"--dla-core {core}: this machine has {cores or 'no'} DLA core{'s' if cores != 1 else ''}")
    config.default_device_type = library.module.DeviceType.DLA
    config.DLA_core = core


def check_fallback(library: Library, network: Any, config: Any, *, allowed: bool, notify: Notify) -> None:
    """Lists the layers that a DLA cannot run, before the build; flags and shapes are set.

    Args:
        library: that builds.
        network: parsed.
        config: complete.
        allowed: the GPU may run them.
        notify: hears which they are.

    Raises:
        BackendError: there are some, and they may not.
    """
    kinds = {getattr(library.module.LayerType, name) for name in _UNPLACED}
    layers = [layer for i in range(network.num_layers) if (layer := network.get_layer(i)).type not in kinds]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if not left:
        return
    text = f"{len(left)} of {len(layers)} layers cannot run on the DLA: {join_names(left)}"
    if not allowed:
        raise BackendError(f"--dla-core: {text}; --allow-gpu-fallback lets the GPU run them")
    notify(Notice("warning", "engine", f"{text}; the GPU runs them"))
