"""Building for real with TensorRT-RTX, which needs no GPU: what the plan multiplies in, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.builder import ImplicitQuantization, OnnxInput, build_engine
from quantkit.backends.tensorrt.build.precision import choose_typing
from quantkit.backends.tensorrt.build.profiles import OptimizationProfile, ShapeRange
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.errors import BackendError, BackendUnavailableError, ModelError

from .... import rtx
from ....graph.models import MODELS
from ....graph.quantizing import quantized

pytest.importorskip("tensorrt_rtx")

TARGETS = ("sm86", "sm89", "sm120")


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library("tensorrt-rtx")


def build(library: Library, model: bytes | Path, *, precision="fp32", mode="auto", name="the model", **words) -> bytes:
    typing = choose_typing(library, precision, mode=mode)
    return build_engine(library, OnnxInput(model, name), typing=typing, **words)


def serialized(name: str, **options) -> bytes:
    return MODELS[name](**options).SerializeToString()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("high_precision", ["fp32", "fp16"])
def test_convolutions_are_int8_on_every_target(library, target, high_precision):
    q = quantized("conv_bn_relu", high_precision)
    options = BuildOptions(targets=(target,))
    engine = build(library, q.proto.SerializeToString(), precision="int8", options=options)
    layers = rtx.read_layers(engine)
    weighted = {node.name for node in q.proto.graph.node if node.op_type == "Conv"}
    assert rtx.int8_nodes(layers, weighted) == weighted


@pytest.mark.parametrize(("precision", "kinds"), [("fp32", {"float"}), ("fp16", {"half"})])
def test_float_engines_are_typed_as_their_onnx(library, precision, kinds):
    dtype = np.float32 if precision == "fp32" else np.float16
    engine = build(library, serialized("conv_relu", dtype=dtype), precision=precision)
    products = [layer for layer in rtx.read_layers(engine) if layer.kind == "corrltn"]
    assert len(products) == 2
    for layer in products:
        assert set(layer.inputs[:2]) == kinds


def test_targets_are_in_the_plan(library):
    model = serialized("conv_relu")
    # Byte 32 of the header is the mask of generations: SM80 2, SM86 4, SM89 8, SM120 0x10, SM121 0x20.
    assert build(library, model, options=BuildOptions(targets=("sm86",)))[32] == 0x04
    assert build(library, model, options=BuildOptions(targets=TARGETS))[32] == 0x1C
    everything = build(library, model)[32]
    assert everything & 0x3E == 0x3E
    assert not everything & 1


def test_build_is_deterministic(library):
    model = quantized("residual_identity").proto.SerializeToString()
    assert build(library, model, precision="int8") == build(library, model, precision="int8")


def test_a_file_is_read_with_its_external_weights(library, tmp_path):
    model = MODELS["conv_relu"]()
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    assert (tmp_path / "weights.bin").is_file()
    engine = build(library, path)
    assert len(engine) > 100_000
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="cannot parse"):
        build(library, path)


def test_several_profiles_are_built(library):
    shapes = [ShapeRange((1, 32, 16, 16), (4, 32, 16, 16), (8, 32, 16, 16)), ShapeRange(*((64, 32, 16, 16),) * 3)]
    options = BuildOptions(profiles=tuple(OptimizationProfile({"x": shape}) for shape in shapes))
    both = build(library, serialized("conv_relu"), options=options)
    one = build(library, serialized("conv_relu"), options=replace(options, profiles=options.profiles[:1]))
    assert len(both) > len(one)


def test_progress_goes_up_and_names_phases(library):
    seen = []
    build(library, serialized("conv_relu"), on_progress=lambda share, phase: seen.append((share, phase)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] > 0.5
    assert "Building engine" in {phase for _, phase in seen}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_callback_error_stops_the_build_and_is_raised(library, kind):
    calls = []

    def stop(share, phase):
        calls.append(phase)
        if len(calls) == 5:
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        build(library, serialized("conv_relu"), on_progress=stop)


def test_verbose_and_quiet_select_messages(library):
    loud, silent = [], []
    model = quantized("conv_relu", "fp16").proto.SerializeToString()
    build(library, model, precision="int8", notify=loud.append, verbose=True)
    build(library, model, precision="int8", notify=silent.append)
    assert any(notice.text.startswith("TensorRT verbose: Parsing node") for notice in loud)
    assert silent == []


def broken(change) -> bytes:
    model = MODELS["conv_relu"]()
    change(model)
    return model.SerializeToString()


def narrow_weight(model):
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, :7], weight.name))


def rename(op_type, domain=""):
    def change(model):
        node = next(n for n in model.graph.node if n.op_type == "Relu")
        node.op_type, node.domain = op_type, domain
        if domain:
            model.opset_import.append(onnx.helper.make_opsetid(domain, 1))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename("Det"), r"node 'Relu_4' \(Det\): it does not support this operator"),
        (rename("Foo", "mine"), r"node 'Relu_4' \(Foo\): this is not an ONNX operator"),
        (narrow_weight, r"node 'Conv_3' \(Conv\): .*broadcast"),
    ],
)
def test_unparsable_model_names_node_and_reason(library, change, words):
    with pytest.raises(ModelError, match=words) as caught:
        build(library, broken(change), name="net.onnx")
    assert "\n" not in str(caught.value)


def test_invalid_bytes_are_refused(library):
    with pytest.raises(ModelError, match="cannot parse"):
        build(library, b"no model")
    with pytest.raises(ModelError, match="cannot parse"):
        build(library, Path("/there/is/no/model.onnx"))


def test_int8_without_ranges_is_refused(library):
    with pytest.raises(ModelError, match="has no Q/DQ and there is no calibration table: pass one"):
        build(library, serialized("conv_relu"), precision="int8")
    with pytest.raises(ModelError, match="contains Q/DQ: use --precision int8"):
        build(library, quantized("conv_relu").proto.SerializeToString(), precision="fp16")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"precision": "int8", "mode": "implicit"}, "has no calibrators and no INT8 flag"),
        ({"precision": "fp32", "implicit": ImplicitQuantization({"x": 1.0})}, "for implicit INT8"),
        ({"precision": "int8", "implicit": ImplicitQuantization({"x": 1.0}, float_nodes=("c",))}, "for implicit INT8"),
        ({"options": BuildOptions(timing_cache=Path("t"))}, "--timing-cache"),
        (
            {"options": BuildOptions(profiles=(OptimizationProfile({"y": ShapeRange((1,), (1,), (1,))}),))},
            "no input 'y'",
        ),
    ],
)
def test_unsupported_options_are_refused(library, words, message):
    with pytest.raises(BackendError, match=message):
        build(library, serialized("conv_relu"), **words)


def test_dynamic_image_size_needs_shapes(library):
    model = MODELS["conv_relu"]()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    content = model.SerializeToString()
    with pytest.raises(BackendError, match=r"--opt-shapes x:1x32x1x1"):
        build(library, content)
    shape = ShapeRange((1, 32, 8, 8), (1, 32, 16, 16), (4, 32, 32, 32))
    assert build(library, content, options=BuildOptions(profiles=(OptimizationProfile({"x": shape}),)))


def test_tensorrt_without_a_gpu_says_what_to_install(library):
    class NoGpu:
        """TensorRT's module as it behaves on a machine without a GPU."""

        def __init__(self, trt):
            self._trt = trt

        def __getattr__(self, name):
            return getattr(self._trt, name)

        @staticmethod
        def Builder(logger):  # noqa: N802
            raise TypeError("pybind11::init(): factory function returned nullptr")

    broken_library = replace(library, module=NoGpu(library.module))
    with pytest.raises(BackendUnavailableError, match=r"NVIDIA GPU .*pip install tensorrt-rtx"):
        build(broken_library, serialized("conv_relu"))
