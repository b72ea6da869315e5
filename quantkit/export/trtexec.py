"""trtexec's command line for a build, for people who build on the device.

Source: samples/common/sampleOptions.cpp of TensorRT 8.6, 10.3, 10.16 and 11.1. TensorRT 11 removed --int8, --fp16 and
--calib: its networks are strongly typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantkit.errors import BackendError

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.build_options import BuildOptions
    from quantkit.types import TensorSpec
    from quantkit.types.quantization import Precision

_FLAGS = {"fp32": [], "fp16": ["--fp16"], "int8": ["--int8", "--fp16"]}
_FIRST_STRONGLY_TYPED_ONLY = 11
_FIRST_STRONGLY_TYPED = 10
_LEVELS = {"ampere-plus": "ampere+", "same-compute-capability": "sameComputeCapability"}


def precision_flags(precision: Precision, major: int, *, typed: bool, cache: str | None) -> list[str]:
    """The flags of a precision.

    Args:
        precision: of the engine.
        major: version of TensorRT.
        typed: the model says its types itself: it holds Q/DQ, or is in FP16.
        cache: calibration cache, for implicit INT8.

    Raises:
        BackendError: TensorRT 11 takes such a model only if it says its types itself.
    """
    if precision not in _FLAGS and not typed:
        raise BackendError(f"trtexec has no flag for {precision}: pass the model with Q/DQ, of quantkit quantize")
    if major >= _FIRST_STRONGLY_TYPED_ONLY:
        if cache is not None or (precision != "fp32" and not typed):
            raise BackendError(
                f"TensorRT {major} takes {precision} from the model alone: pass one with Q/DQ (quantkit quantize, or "
                "cache convert --to qdq), or in FP16"
            )
        return []
    if typed and major >= _FIRST_STRONGLY_TYPED:
        return ["--stronglyTyped"]
    flags = _FLAGS.get(precision, [])
    return flags if cache is None else [*flags, f"--calib={cache}"]


def io_format_flags(options: BuildOptions, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """The flags of --io-formats, which trtexec takes by position, for all inputs and all outputs."""
    wanted = {one.name: f"{one.type}:{one.format}" for one in options.io_formats}
    flags = []
    for kind, specs in (("input", inputs), ("output", outputs)):
        if any(spec.name in wanted for spec in specs):
            words = [wanted.get(s.name, f"{s.dtype.name.replace('float', 'fp')}:chw") for s in specs]
            flags.append(f"--{kind}IOFormats={','.join(words)}")
    return flags


def command_line(onnx: str, engine: str, precision: Sequence[str], options: BuildOptions) -> str:
    """The command, quoted for a POSIX shell.

    Example:
        >>> from quantkit.backends.tensorrt.build.build_options import BuildOptions
        >>> command_line("net.onnx", "net.engine", ["--fp16"], BuildOptions(workspace_bytes=1 << 30))
        'trtexec --onnx=net.onnx --saveEngine=net.engine --fp16 --memPoolSize=workspace:1024'
    """
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", *precision]
    for number, profile in enumerate(options.profiles):
        words += [f"--profile={number}"] if len(options.profiles) > 1 else []
        for which in ("min", "opt", "max"):
            shapes = ((name, getattr(shape, _FIELDS[which])) for name, shape in profile.shapes.items())
            words.append(
                f"--{which}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in shapes)
            )
    return shlex.join([*words, *_option_flags(options)])


_FIELDS = {"min": "minimum", "opt": "optimum", "max": "maximum"}


def _option_flags(options: BuildOptions) -> list[str]:
    level, compatible = options.builder_optimization_level, options.hardware_compatibility
    chosen = {
        "--builderOptimizationLevel={}": level,
        "--timingCacheFile={}": options.timing_cache,
        "--hardwareCompatibilityLevel={}": _LEVELS.get(compatible),
        "--useDLACore={}": options.dla_core,
        "--memPoolSize=workspace:{}": None if options.workspace_bytes is None else options.workspace_bytes >> 20,
        "--maxAuxStreams={}": options.max_aux_streams,
        "--allowWeightStreaming": options.weight_streaming or None,
        "--layerPrecisions={}": ",".join(map(str, options.layer_precisions)) or None,
        "--precisionConstraints={}": options.precision_constraints if options.layer_precisions else None,
        "--versionCompatible": options.version_compatible or None,
        "--refit": options.refit or None,
        "--stripWeights": options.strip_weights or None,
        "--allowGPUFallback": options.allow_gpu_fallback or None,
        "--sparsity=enable": options.sparsity or None,
        "--noTF32": True if options.tf32 is False else None,
    }
    flags = [flag.format(value) for flag, value in chosen.items() if value is not None]
    # Of a version-compatible engine, which carries its plugins, they are registered by path.
    for path in options.plugins:
        flags.append(f"--{'dynamic' if options.version_compatible else 'static'}Plugins={path}")
        flags += [f"--setPluginsToSerialize={path}"] if options.version_compatible else []
    return flags
