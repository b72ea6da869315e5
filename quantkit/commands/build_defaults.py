"""What a build takes where the user leaves it open: optimization profiles, and targets of TensorRT-RTX."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quantkit.backends.tensorrt.build.configuration import default_targets
from quantkit.backends.tensorrt.build.profiles import image_sizes, resolve_profiles
from quantkit.datasets.batch_axes import find_batch_axes
from quantkit.datasets.placement import placed_as
from quantkit.notices import Notice, Notify
from quantkit.types.options import EngineOptions, ImageOptions

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.build_options import BuildOptions
    from quantkit.backends.tensorrt.gpu import Gpu
    from quantkit.backends.tensorrt.library import Library
    from quantkit.commands.build_inputs import BuildInputs


def complete_options(
    options: BuildOptions,
    engine: EngineOptions,
    library: Library,
    source: BuildInputs,
    gpu: Gpu | None,
    notify: Notify,
) -> BuildOptions:
    """The options with targets and profiles as they will be used; a profile that nobody gave is told."""
    inputs = source.model.inputs
    shapes = {spec.name: spec.shape for spec in inputs}
    size_of = None if source.table is None else source.table.preprocessing
    placed = placed_as({} if source.table is None else source.table.settings, engine.placed or ImageOptions())
    axes = find_batch_axes(inputs, placed.batch_axis or {})
    profiles = resolve_profiles(
        shapes, options.profiles, known=image_sizes(size_of, shapes), axes=axes, is_static=options.dla_core is not None
    )
    if profiles and not options.profiles:
        listed = ", ".join(f"{name} {shape}" for name, shape in profiles[0].shapes.items())
        text = f"shapes (min / opt / max): {listed}; --min-shapes, --opt-shapes and --max-shapes choose others"
        notify(Notice("info", "engine", text))
    return replace(options, profiles=profiles, targets=options.targets or default_targets(library, gpu))
