"""Applies `BuildOptions` to a builder configuration. An option that the installed library lacks is an error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.dla import check_dla, use_dla
from quantkit.backends.tensorrt.build.timing_cache import attach_timing_cache
from quantkit.backends.tensorrt.gpu import Gpu
from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError
from quantkit.notices import join_names
from quantkit.types import SCHEMES

_OLDEST_RTX_GPU = 80
"""With SM75 among the targets TensorRT-RTX 1.7 runs every convolution in float."""


def check_options(library: Library, options: BuildOptions, *, gpu: Gpu | None = None) -> None:
    """Rejects options that `library` does not support, before anything is built.

    Args:
        library: that will build.
        options: of the build.
        gpu: of this machine.

    Raises:
        BackendError: naming the option and why.
    """
    if library.is_rtx:
        for option, (wanted, reason) in _unfit_for_rtx(options, gpu).items():
            if wanted:
                raise BackendError(f"{option} has no use with {library.title}: {reason}")
        _check_targets(library, options)
        return
    if options.targets:
        raise BackendError(
            f"--target is for TensorRT-RTX: {library.title} builds for the GPU of this machine; "
            "pip install tensorrt-rtx and --library rtx build for others"
        )
    if options.dla_core is not None:
        check_dla(library)
    flags = library.module.BuilderFlag
    if options.strip_weights and not hasattr(flags, "STRIP_PLAN"):
        raise BackendError(f"--strip-weights needs TensorRT 10, this is {library.title}")
    if options.weight_streaming and not hasattr(flags, "WEIGHT_STREAMING"):
        raise BackendError(f"--weight-streaming needs TensorRT 10, this is {library.title}")
    if options.hardware_compatibility != "none":
        _find_level(library, options.hardware_compatibility)
    if options.hardware_compatibility == "ampere-plus" and gpu is not None and not gpu.is_ampere_or_newer:
        raise BackendError(f"--hardware-compatibility ampere-plus needs a GPU of sm80 or newer, this is {gpu}")


def configure(library: Library, builder: Any, config: Any, options: BuildOptions) -> None:
    """Applies everything but profiles and precisions to a `trt.IBuilderConfig`."""
    trt = library.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine inspector reports precisions
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.builder_optimization_level is not None:
        config.builder_optimization_level = options.builder_optimization_level
    if options.hardware_compatibility != "none":
        config.hardware_compatibility_level = _find_level(library, options.hardware_compatibility)
    if options.tf32 is not None:
        (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    for wanted, flag in (
        (options.version_compatible, "VERSION_COMPATIBLE"),
        (options.refit, "REFIT"),
        (options.strip_weights, "STRIP_PLAN"),
        (options.sparsity, "SPARSE_WEIGHTS"),
        (options.weight_streaming, "WEIGHT_STREAMING"),
        (options.allow_gpu_fallback, "GPU_FALLBACK"),
    ):
        if wanted:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.dla_core is not None:
        use_dla(library, builder, config, options.dla_core)
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if options.plugins and options.version_compatible:
        config.plugins_to_serialize = [str(Path(path).resolve()) for path in options.plugins]
    if options.timing_cache is not None:
        attach_timing_cache(config, options.timing_cache)
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for i, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), i)


def add_profiles(builder: Any, config: Any, options: BuildOptions) -> None:
    """Adds the optimization profiles, which must fit the network already.

    Raises:
        BackendError: TensorRT rejects a profile.
    """
    for number, profile in enumerate(options.profiles):
        made = builder.create_optimization_profile()
        for name, shape in profile.shapes.items():
            try:
                made.set_shape(name, shape.minimum, shape.optimum, shape.maximum)
            except RuntimeError as error:
                raise BackendError(f"profile {number}, input {name!r} ({shape}): {error}") from error
        if config.add_optimization_profile(made) < 0:
            listed = ", ".join(f"{name} {shape}" for name, shape in profile.shapes.items())
            raise BackendError(f"TensorRT refuses profile {number}: {listed}")


def check_scheme(
    library: Library, name: str, targets: Collection[str], gpu: Gpu | None, *, planned: Sequence[str] = ()
) -> None:
    """Refuses a quantized format that the library, or a GPU that is built for, does not have.

    Args:
        library: that builds.
        name: a name in `quantkit.types.SCHEMES`.
        targets: of TensorRT-RTX; empty for all from sm80 on.
        gpu: of this machine, for which TensorRT builds.
        planned: tensors that a plan has in this format, where it is not that of the engine.

    Raises:
        BackendError: with the reason.
    """
    scheme = SCHEMES[name]
    asked, other = f"--precision {name}", "take int8"
    if planned:
        asked, other = f"--plan with {join_names(planned)} in {name}", "make the plan by tune --formats int8"
    if not library.is_rtx and library.version[:2] < scheme.oldest_tensorrt:
        oldest = ".".join(map(str, scheme.oldest_tensorrt))
        raise BackendError(f"{asked} needs TensorRT {oldest} or newer, this is {library.title}: {scheme.source}")
    named = tuple(targets) or ((gpu.target,) if gpu is not None else ("sm80",) if library.is_rtx else ())
    if old := [target for target in named if int(target[2:]) < scheme.oldest_gpu]:
        raise BackendError(
            f"{asked}: {old[0]} does not compute in {name}, GPUs do from sm{scheme.oldest_gpu} on: "
            f"name them with --target, or {other} ({scheme.source})"
        )


def default_targets(library: Library, gpu: Gpu | None) -> tuple[str, ...]:
    """Default targets of TensorRT-RTX: the GPU of this machine, else all from SM80 on (empty).

    Raises:
        BackendError: the GPU that is there is too old for it.
    """
    if not library.is_rtx or gpu is None:
        return ()
    if int(gpu.target[2:]) < _OLDEST_RTX_GPU:
        raise BackendError(
            f"{gpu} is too old for {library.title}, which runs its convolutions in float: "
            "use --library tensorrt, or name other GPUs with --target"
        )
    return (gpu.target,) if gpu.target in _known_targets(library) else ()


def _unfit_for_rtx(options: BuildOptions, gpu: Gpu | None) -> dict[str, tuple[bool, str]]:
    jit = "it chooses kernels when an engine is first loaded"
    needs_gpu = "it refits on a GPU, and this machine has none"
    return {
        "--builder-optimization-level": (options.builder_optimization_level is not None, jit),
        "--timing-cache": (options.timing_cache is not None, f"{jit} and measures none before"),
        "--hardware-compatibility": (
            options.hardware_compatibility != "none",
            "name the GPUs with --target; without it the engine is for all from SM80 on",
        ),
        "--version-compatible": (options.version_compatible, "it has no lean runtime to put into the engine"),
        "--plugins": (bool(options.plugins), "it takes none"),
        "--dla-core": (options.dla_core is not None, "it runs on GPUs only"),
        "--refit": (options.refit and gpu is None, needs_gpu),
        "--strip-weights": (options.strip_weights and gpu is None, needs_gpu),
    }


def _check_targets(library: Library, options: BuildOptions) -> None:
    known = _known_targets(library)
    if unknown := [target for target in options.targets if target not in known]:
        raise BackendError(f"--target {unknown[0]}: {library.title} builds for {', '.join(known)}")


def _known_targets(library: Library) -> list[str]:
    names = [name.lower() for name in library.module.ComputeCapability.__members__ if name.startswith("SM")]
    return [name for name in names if int(name[2:]) >= _OLDEST_RTX_GPU]


def _find_level(library: Library, name: str) -> Any:
    member = name.replace("-", "_").upper()
    levels = library.module.HardwareCompatibilityLevel
    if not hasattr(levels, member):
        known = " or ".join(level.lower().replace("_", "-") for level in levels.__members__)
        raise BackendError(f"--hardware-compatibility {name}: {library.title} takes {known}")
    return getattr(levels, member)
