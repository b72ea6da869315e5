"""Build options, named as in trtexec and Polygraphy. See `configuration` for how they are applied."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from quantkit.backends.tensorrt.build.layer_types import (
    IoFormat,
    LayerPrecision,
    parse_io_formats,
    parse_layer_precisions,
)
from quantkit.backends.tensorrt.build.profiles import OptimizationProfile
from quantkit.errors import BackendError
from quantkit.types.option import TextForm, option
from quantkit.types.options import PATHS

Mode = Literal["implicit", "explicit"]
HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]
PrecisionConstraints = Literal["obey", "prefer"]

_UNITS = {"": 20, "B": 0, "K": 10, "M": 20, "G": 30}
_LARGEST_LEVEL = 5


_ENGINE, _PRECISION, _SHAPES = "Engine", "Precision", "Shapes"
_SYNTAX = "input:1x3x224x224 or input:[1,3,224,224], several inputs comma separated. Repeat for more profiles."


def _split_targets(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for text in words for name in text.split(","))


@dataclass(frozen=True)
class ShapeOptions:
    """Optimization profiles as they are typed."""

    min_shapes: tuple[str, ...] = option((), f"Minimum shape of the profile: {_SYNTAX}", group=_SHAPES)
    opt_shapes: tuple[str, ...] = option((), "Optimization shape of the profile.", group=_SHAPES)
    max_shapes: tuple[str, ...] = option((), "Maximum shape of the profile.", group=_SHAPES)


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build. None, False and empty leave TensorRT's default.

    Attributes:
        profiles: optimization profiles; none gives a model with a dynamic batch a default one.
    """

    profiles: tuple[OptimizationProfile, ...] = ()
    targets: tuple[str, ...] = option(
        (),
        "TensorRT-RTX: GPU generation to build for, e.g. sm86, sm89, sm120. Repeatable or comma separated.",
        flag="--target",
        form=TextForm(_split_targets),
        repeatable=True,
    )
    workspace_bytes: int | None = option(
        None,
        "Workspace memory limit, e.g. 512M or 4G (512: MiB).",
        group=_ENGINE,
        flag="--workspace",
        form=TextForm(lambda text: parse_size(text)),
        unit="size",
    )
    builder_optimization_level: int | None = option(
        None, "Builder optimization level, 0 (fast build) to 5 (fast engine).", group=_ENGINE, default_text="3"
    )
    timing_cache: Path | None = option(
        None, "Timing cache file to read and to update.", group=_ENGINE, form=TextForm(Path), unit="file"
    )
    hardware_compatibility: HardwareCompatibility = option("none", "Other GPUs that can run the engine.", group=_ENGINE)
    version_compatible: bool = option(
        False, "Let later TensorRT versions run the engine: 8.6 to 10, 10 to 11.", group=_ENGINE
    )
    refit: bool = option(False, "Build a refittable engine.", group=_ENGINE)
    strip_weights: bool = option(False, "Build a weight-stripped engine.", group=_ENGINE)
    dla_core: int | None = option(None, "DLA core to run on (Jetson).", group=_ENGINE)
    allow_gpu_fallback: bool = option(False, "Let the GPU run layers the DLA cannot.", group=_ENGINE)
    sparsity: bool = option(False, "Use kernels for 2:4 sparse weights.", group=_ENGINE)
    plugins: tuple[Path, ...] = option(
        (),
        "TensorRT plugin library (.so, .dll); a version-compatible engine carries it. Repeatable or comma separated.",
        group=_ENGINE,
        form=PATHS,
        repeatable=True,
    )
    io_formats: tuple[IoFormat, ...] = option(
        (),
        "NAME:TYPE:FORMAT of an input or output, e.g. input:fp16:chw, input:int8:chw32. Repeatable or comma separated.",
        group=_ENGINE,
        form=TextForm(parse_io_formats),
        repeatable=True,
    )
    weight_streaming: bool = option(
        False, "Let weights stay in host memory (TensorRT 10 and later, strongly typed).", group=_ENGINE
    )
    max_aux_streams: int | None = option(
        None, "Auxiliary CUDA streams per query (0: least memory).", group=_ENGINE, default_text="TensorRT's"
    )
    layer_precisions: tuple[LayerPrecision, ...] = option(
        (),
        "NAME:TYPE of layers, e.g. head*:fp32 (TensorRT up to 10, --mode implicit). Repeatable or comma separated.",
        group=_PRECISION,
        form=TextForm(parse_layer_precisions),
        repeatable=True,
    )
    tf32: bool | None = option(
        None,
        "Allow TF32 in FP32 matrix products and convolutions.",
        group=_PRECISION,
        default_text="TensorRT's, which is yes",
    )
    precision_constraints: PrecisionConstraints = option(
        "obey",
        "Implicit INT8: fail (obey) or continue (prefer) if an excluded layer cannot stay in float.",
        group=_PRECISION,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(parse_target(target) for target in self.targets))
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise BackendError(f"--workspace of {self.workspace_bytes} bytes: give a positive size, such as 4G")
        level = self.builder_optimization_level
        if level is not None and not 0 <= level <= _LARGEST_LEVEL:
            raise BackendError(f"--builder-optimization-level {level} is not from 0 to {_LARGEST_LEVEL}")
        if self.dla_core is not None and self.dla_core < 0:
            raise BackendError(f"--dla-core {self.dla_core} must be 0 or more")
        if self.max_aux_streams is not None and self.max_aux_streams < 0:
            raise BackendError(f"--max-aux-streams {self.max_aux_streams} must be 0 or more")
        if self.allow_gpu_fallback and self.dla_core is None:
            raise BackendError("--allow-gpu-fallback goes with --dla-core: without it everything runs on the GPU")
        for name, kind in (
            ("hardware_compatibility", HardwareCompatibility),
            ("precision_constraints", PrecisionConstraints),
        ):
            if getattr(self, name) not in get_args(kind):
                raise BackendError(f"{name} {getattr(self, name)!r} is not one of {', '.join(get_args(kind))}")
        if twice := [target for target in self.targets if self.targets.count(target) > 1]:
            raise BackendError(f"--target {twice[0]} is given twice")
        if "sm75" in self.targets:
            raise BackendError(
                "--target sm75: with Turing among its targets TensorRT-RTX runs the convolutions of all targets in "
                "float, INT8 or not; build for sm80 and newer, or use TensorRT on that GPU"
            )

    @property
    def is_portable(self) -> bool:
        """Whether the engine is for more than this version on this GPU."""
        return self.version_compatible or self.hardware_compatibility != "none"

    def facts(self) -> dict[str, Any]:
        """The options that affect the engine, as JSON values, without defaults and options that only save time."""
        profiles = [{name: str(shape) for name, shape in p.shapes.items()} for p in self.profiles]
        facts = {
            "profiles": profiles,
            "workspace_bytes": self.workspace_bytes,
            "builder_optimization_level": self.builder_optimization_level,
            "hardware_compatibility": None if self.hardware_compatibility == "none" else self.hardware_compatibility,
            "version_compatible": self.version_compatible,
            "refit": self.refit,
            "strip_weights": self.strip_weights,
            "dla_core": self.dla_core,
            "allow_gpu_fallback": self.allow_gpu_fallback,
            "sparsity": self.sparsity,
            "targets": list(self.targets),
            "io_formats": [str(one) for one in self.io_formats],
            "weight_streaming": self.weight_streaming,
            "max_aux_streams": self.max_aux_streams,
            "layer_precisions": [str(one) for one in self.layer_precisions],
            "plugins": [Path(path).name for path in self.plugins],
        }
        # 0 is a choice: a DLA core, an optimization level.
        chosen = {
            name: value for name, value in facts.items() if value is not None and value is not False and value != []
        }
        return chosen if self.tf32 is None else {**chosen, "tf32": self.tf32}


def parse_size(text: str) -> int:
    """Bytes of "512" (MiB, as trtexec takes it), "512M", "4G", "1.5GiB" or "65536K"; units are powers of 1024.

    Raises:
        BackendError: the text is not a size.

    Example:
        >>> parse_size("512"), parse_size("4G")
        (536870912, 4294967296)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMG])(?:i?B)?|(B))?\s*", text, re.IGNORECASE)
    if match is None:
        raise BackendError(f"--workspace {text!r} is not a size such as 512 (MiB), 512M or 4G")
    unit = (match[2] or match[3] or "").upper()
    return int(float(match[1]) * (1 << _UNITS[unit]))


def parse_target(text: str) -> str:
    """The name "sm86" of a GPU generation written sm86, sm_86, SM86 or 8.6.

    Raises:
        BackendError: the text is not a GPU generation.

    Example:
        >>> parse_target("8.6")
        'sm86'
    """
    match = re.fullmatch(r"(?:sm_?)?(\d{2,3})|(\d{1,2})\.(\d)", text.strip().lower())
    if match is None:
        raise BackendError(f"--target {text!r} is not a GPU generation: sm86 is Ampere, sm89 Ada, sm120 Blackwell")
    return f"sm{match[1] or match[2] + match[3]}"
