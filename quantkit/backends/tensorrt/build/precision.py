"""Precision of a network: strongly typed as in the ONNX model, or by builder flags, dynamic ranges and constraints.

TensorRT 10 introduced strong typing; it is the only mode of TensorRT 11 and TensorRT-RTX. Flags exist up to 10.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from quantkit.backends.tensorrt.build.build_options import Mode, PrecisionConstraints
from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError, EngineBuildError
from quantkit.types import SCHEMES
from quantkit.types.quantization import Precision


@dataclass(frozen=True)
class Typing:
    """How a build determines precisions.

    Attributes:
        precision: of the engine.
        mode: "explicit" (by the Q/DQ and types of the model) or "implicit" (by dynamic ranges and flags).
        strong: the network is strongly typed: flags must not be set.
        flags: builder flags to set, "INT8" and "FP16".
    """

    precision: Precision
    mode: Mode
    strong: bool
    flags: tuple[str, ...]


@dataclass(frozen=True)
class RangesUsed:
    """How many tensors got a dynamic range, and which float tensors have none."""

    num_set: int
    missing: tuple[str, ...]


def choose_typing(
    library: Library,
    precision: Precision,
    *,
    mode: Mode | Literal["auto"] = "auto",
    high_precision: Literal["fp32", "fp16"] = "fp16",
    dla: bool = False,
) -> Typing:
    """How `library` is to build for a precision.

    Args:
        library: that builds.
        precision: of the engine.
        mode: "auto" is explicit, except for a DLA, which up to TensorRT 10 takes no Q/DQ and no strong typing.
        high_precision: of what stays in float beside INT8.
        dla: the engine is for a DLA.

    Raises:
        BackendError: the library has no implicit mode, or a DLA is asked for FP32.
    """
    if dla and precision == "fp32":
        raise BackendError("--dla-core needs --precision fp16 or int8: a DLA has no FP32")
    if dla and precision == "int8" and high_precision == "fp32":
        raise BackendError("--dla-core: a DLA has no FP32: omit --high-precision fp32")
    if mode == "implicit" and precision in SCHEMES and precision != "int8":
        raise BackendError(f"--mode implicit is for int8: {precision} is always explicit (Q/DQ in the model)")
    if mode == "implicit" and not library.has_precision_flags:
        raise BackendError(
            f"--mode implicit: {library.title} has no calibrators and no INT8 flag; "
            'leave it out: the model gets Q/DQ from the table instead (pip install "tensorrt<11" has both)'
        )
    if mode == "auto":
        mode = "implicit" if dla and precision in ("fp16", "int8") and library.has_precision_flags else "explicit"
    strong = library.has_strong_typing and mode == "explicit"
    half = precision == "fp16" or (precision in SCHEMES and high_precision == "fp16")
    flags = (*(("INT8",) if precision == "int8" else ()), *(("FP16",) if half else ()))
    return Typing(precision, mode, strong, () if strong else flags)


def set_flags(library: Library, config: Any, typing: Typing) -> None:
    """Sets the precision flags of a weakly typed build."""
    with quiet_deprecations():
        for flag in typing.flags:
            config.set_flag(getattr(library.module.BuilderFlag, flag))


def network_has_qdq(library: Library, network: Any) -> bool:
    """Whether a parsed network holds Q/DQ layers."""
    kinds = (library.module.LayerType.QUANTIZE, library.module.LayerType.DEQUANTIZE)
    return any(layer.type in kinds for layer in _layers(network))


def set_ranges(library: Library, network: Any, ranges: Mapping[str, float]) -> RangesUsed:
    """Sets the dynamic range [-amax, amax] of every float tensor that `ranges` knows.

    Raises:
        EngineBuildError: none of the ranges is of a tensor of this network.
    """
    missing, num_set = [], 0
    with quiet_deprecations():
        for tensor in _float_activations(library, network):
            amax = ranges.get(tensor.name)
            if amax is None:
                missing.append(tensor.name)
            elif not tensor.set_dynamic_range(-amax, amax):
                raise EngineBuildError(f"{library.title} refuses the range {amax} of tensor {tensor.name!r}")
            else:
                num_set += 1
    if not num_set:
        raise EngineBuildError("no range is of a tensor of this model: the table or cache belongs to another model")
    return RangesUsed(num_set, tuple(missing))


def constrain_to_float(
    library: Library, network: Any, config: Any, nodes: Collection[str], *, half: bool, how: PrecisionConstraints
) -> int:
    """Keeps the layers of ONNX nodes out of INT8, in an implicit build.

    Args:
        library: that builds.
        network: parsed.
        config: gets the flag that makes constraints count.
        nodes: ONNX node names.
        half: FP16 rather than FP32.
        how: "obey" fails the build where TensorRT cannot; "prefer" lets it go on.

    Returns:
        How many layers were constrained.
    """
    trt = library.module
    if not nodes:
        return 0
    wanted = trt.float16 if half else trt.float32
    with quiet_deprecations():
        config.set_flag(getattr(trt.BuilderFlag, f"{how.upper()}_PRECISION_CONSTRAINTS"))
        return sum(_constrain(trt, layer, wanted) for layer in _layers(network) if _belongs_to(layer, nodes))


@contextmanager
def quiet_deprecations() -> Iterator[None]:
    """Silences the deprecation warnings of TensorRT 10 for the API of implicit quantization, which 11 removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _constrain(trt: Any, layer: Any, wanted: Any) -> bool:
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    floats = [i for i, tensor in enumerate(outputs) if _is_float(trt, tensor)]
    if not floats or layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE):
        return False
    layer.precision = wanted
    for i in floats:
        layer.set_output_type(i, wanted)
    return True


def _belongs_to(layer: Any, nodes: Collection[str]) -> bool:
    # One ONNX node may become several layers, which then share its name in their metadata.
    return layer.name in nodes or any(f"[ONNX Layer: {node}]" in layer.metadata for node in nodes)


def _float_activations(library: Library, network: Any) -> Iterator[Any]:
    trt = library.module
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if _is_float(trt, tensor):
            yield tensor
    for layer in _layers(network):
        if layer.type != trt.LayerType.CONSTANT:
            for i in range(layer.num_outputs):
                tensor = layer.get_output(i)
                if _is_float(trt, tensor):
                    yield tensor


def _is_float(trt: Any, tensor: Any) -> bool:
    return tensor is not None and tensor.dtype in (trt.float32, trt.float16) and not tensor.is_shape_tensor


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(i) for i in range(network.num_layers))
