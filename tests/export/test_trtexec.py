"""trtexec's command lines, by version and precision."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.layer_types import parse_io_formats, parse_layer_precisions
from quantkit.backends.tensorrt.build.profiles import parse_profiles
from quantkit.errors import BackendError
from quantkit.export.trtexec import command_line, io_format_flags, precision_flags
from quantkit.types import TensorSpec


@pytest.mark.parametrize(
    ("precision", "major", "typed", "cache", "flags"),
    [
        ("fp32", 8, False, None, []),
        ("fp16", 8, False, None, ["--fp16"]),
        ("int8", 8, True, None, ["--int8", "--fp16"]),
        ("int8", 8, False, "a.calib", ["--int8", "--fp16", "--calib=a.calib"]),
        ("int8", 10, False, "a.calib", ["--int8", "--fp16", "--calib=a.calib"]),
        ("int8", 10, True, None, ["--stronglyTyped"]),
        ("fp16", 10, True, None, ["--stronglyTyped"]),
        ("int8", 11, True, None, []),
        ("fp32", 11, False, None, []),
    ],
)
def test_precisions_by_version(precision, major, typed, cache, flags):
    assert precision_flags(precision, major, typed=typed, cache=cache) == flags


@pytest.mark.parametrize(("precision", "cache"), [("fp16", None), ("int8", "a.calib")])
def test_tensorrt_11_takes_types_from_the_model_alone(precision, cache):
    with pytest.raises(BackendError, match=f"TensorRT 11 takes {precision} from the model alone"):
        precision_flags(precision, 11, typed=False, cache=cache)


def test_formats_without_a_flag_need_a_model_with_qdq():
    with pytest.raises(BackendError, match="trtexec has no flag for fp8: pass the model with Q/DQ"):
        precision_flags("fp8", 10, typed=False, cache=None)
    assert precision_flags("fp8", 10, typed=True, cache=None) == ["--stronglyTyped"]


def test_every_option_has_its_flag():
    options = BuildOptions(
        profiles=parse_profiles(["a:1x3,b:1"], ["a:2x3,b:2"], ["a:4x3,b:4"]),
        workspace_bytes=1 << 30, builder_optimization_level=0, timing_cache="t.cache",
        hardware_compatibility="ampere-plus", version_compatible=True, refit=True, dla_core=0, allow_gpu_fallback=True,
        sparsity=True, tf32=False, plugins=("my plugin.so",), weight_streaming=True,
        max_aux_streams=2, layer_precisions=parse_layer_precisions(["head*:fp32,a:fp16"]),
    )  # fmt: skip
    words = shlex.split(command_line("my net.onnx", "net.engine", [], options))
    assert words == [
        "trtexec", "--onnx=my net.onnx", "--saveEngine=net.engine",
        "--minShapes=a:1x3,b:1", "--optShapes=a:2x3,b:2", "--maxShapes=a:4x3,b:4",
        "--builderOptimizationLevel=0", "--timingCacheFile=t.cache", "--hardwareCompatibilityLevel=ampere+",
        "--useDLACore=0", "--memPoolSize=workspace:1024", "--maxAuxStreams=2", "--allowWeightStreaming",
        "--layerPrecisions=head*:fp32,a:fp16", "--precisionConstraints=obey", "--versionCompatible",
        "--refit", "--allowGPUFallback",
        "--sparsity=enable", "--noTF32", "--dynamicPlugins=my plugin.so", "--setPluginsToSerialize=my plugin.so",
    ]  # fmt: skip


def test_profiles_are_numbered_where_there_are_several():
    options = BuildOptions(profiles=parse_profiles([], ["x:1", "x:8"], []))
    words = command_line("n.onnx", "n.engine", [], options).split()[3:]
    assert words == [
        "--profile=0", "--minShapes=x:1", "--optShapes=x:1", "--maxShapes=x:1",
        "--profile=1", "--minShapes=x:8", "--optShapes=x:8", "--maxShapes=x:8",
    ]  # fmt: skip


def test_formats_are_listed_by_position():
    def spec(name, dtype):
        return TensorSpec(name, np.dtype(dtype), ("N", 3))

    inputs, outputs = [spec("ids", "int32"), spec("x", "float32")], [spec("y", "float32")]
    options = BuildOptions(io_formats=parse_io_formats(["x:fp16:chw32"]))
    assert io_format_flags(options, inputs, outputs) == ["--inputIOFormats=int32:chw,fp16:chw32"]
    options = BuildOptions(io_formats=parse_io_formats(["y:fp16:chw"]))
    assert io_format_flags(options, inputs, outputs) == ["--outputIOFormats=fp16:chw"]
