"""Whatever can be written is read back as the same: hypothesis, over every format that has no such test of its own.

The table, statistics, TensorRT's text, ONNX Runtime's tables and the JSON of ranges have theirs in `tests.calibration`,
the report in `tests.reporting`. Here: all of them through files that are told apart by their content, chains of
conversions, and models with Q/DQ.
"""

import json
import math
import struct

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from quantkit.backends.tensorrt.build.manifest import Manifest, load_manifest, save_manifest
from quantkit.caches.open import open_cache, read_map
from quantkit.caches.range_cache import RangeCache, amax_from_bits
from quantkit.commands.convert import convert_cache
from quantkit.errors import CalibrationError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import save_model
from quantkit.graph.model_hash import model_hash
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.qdq_scales import activation_scales
from quantkit.graph.quant_params import activation_params
from quantkit.types import TensorRange
from quantkit.types.calibration import bits_from_amax

from . import seeds

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=12)
USABLE_BITS = st.integers(1, 0x7F7FFFFF)
BITS = st.dictionaries(NAMES, USABLE_BITS, min_size=1, max_size=6)
VERSIONS = st.sampled_from(["5.1.2", "6.0.1", "7.2.2", "8.0.3", "8.6.1", "9.3.0", "10.0.1", "10.16.1"])
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def cache_file(folder, bits):
    lines = ["TRT-8601-EntropyCalibration2", *(f"{name}: {value:x}" for name, value in bits.items())]
    path = folder / "first.cache"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def bits_of(path):
    return {name: r.scale_bits for name, r in open_cache(path).tensors.items()}


@quick
@given(BITS, st.permutations(["ort", "ort-json", "json"]))
def test_scales_survive_every_chain_of_conversions(tmp_path_factory, bits, forms):
    """But for the way back to TensorRT, whose cache lists every activation: that takes the model."""
    folder = tmp_path_factory.mktemp("chain")
    path = cache_file(folder, bits)
    for i, form in enumerate(forms):
        output = folder / f"{i}.file"
        convert_cache(path, output, target=form)
        assert bits_of(output) == bits
        path = output
    with pytest.raises(CalibrationError, match="pass --model"):
        convert_cache(path, folder / "back", target="tensorrt")


@quick
@given(BITS)
def test_scales_survive_the_text_table(tmp_path_factory, bits):
    folder = tmp_path_factory.mktemp("text")
    first = sorted(bits)[0]
    # A file is told apart by how it begins, and this form has no header of its own.
    assume(first.strip() == first and not first.startswith(("TRT-", "{", "[", "\ufeff", "quantkit")))
    assume(not any("\x00" in name for name in bits))
    convert_cache(cache_file(folder, bits), folder / "t", target="ort-text")
    assert bits_of(folder / "t") == bits


@quick
@given(BITS, VERSIONS)
def test_a_cache_of_another_version_changes_its_first_line_only(tmp_path_factory, bits, version):
    folder = tmp_path_factory.mktemp("version")
    path = cache_file(folder, bits)
    convert_cache(path, folder / "new", target="tensorrt", tensorrt_version=version)
    assert (folder / "new").read_bytes().split(b"\n")[1:] == path.read_bytes().split(b"\n")[1:]
    convert_cache(folder / "new", folder / "back", target="tensorrt", tensorrt_version="8.6.1")
    assert (folder / "back").read_bytes() == path.read_bytes()


@quick
@given(st.data())
def test_scales_survive_a_model_with_qdq(tmp_path_factory, data):
    """Table → Q/DQ in a file → cache: for every amax whose scale float32 holds as a normal number."""
    graph = prepare(ir.from_proto(seeds.tiny_model()), name="tiny")
    plan = plan_tensorrt(graph)
    amax = {tensor: data.draw(st.floats(1e-30, 1e30)) for tensor in plan.tensors}
    params = activation_params(plan, {t: TensorRange(a, -a, a) for t, a in amax.items()})
    path = tmp_path_factory.mktemp("qdq") / "m.onnx"
    save_model(insert_qdq(graph, plan, params), path)
    cache = open_cache(path)
    assert cache.form == "qdq"
    assert {n: r.scale_bits for n, r in cache.tensors.items()} == {n: bits_from_amax(amax[n]) for n in params}


@quick
@given(USABLE_BITS, st.integers(-128, 127), st.booleans())
def test_any_scale_and_zero_point_of_a_model(bits, point, signed):
    dtype = np.int8 if signed else np.uint8
    is_middle = point == 0  # of the codes: TensorRT's range is symmetric
    point = point if signed else point + 128
    scale = np.float32(struct.unpack(">f", struct.pack(">I", bits))[0])
    tensors = [numpy_helper.from_array(np.array(scale), "s"), numpy_helper.from_array(np.array(point, dtype), "z")]
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("q", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found, unread = activation_scales(ir.from_proto(model))
    assert unread == {}
    assert np.float32(found["x"].scale) == scale
    assert found["x"].is_symmetric == is_middle
    assert found["x"].minimum <= 0 <= found["x"].maximum


@quick
@given(st.data())
def test_a_model_written_again_is_the_same_model(tmp_path_factory, data):
    """Whatever its weights are, NaN and infinity too."""
    model = onnx.ModelProto()
    model.CopyFrom(seeds.tiny_model())
    for tensor in model.graph.initializer:
        shape = numpy_helper.to_array(tensor).shape
        values = data.draw(st.binary(min_size=4 * math.prod(shape), max_size=4 * math.prod(shape)))
        tensor.raw_data = values
    folder = tmp_path_factory.mktemp("model")
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    first = FloatModel(folder / "a.onnx").graph
    save_model(first, folder / "b.onnx")
    assert model_hash(FloatModel(folder / "b.onnx").graph) == model_hash(FloatModel(folder / "a.onnx").graph)


@quick
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5))
def test_maps(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("map") / "m.json"
    path.write_text(json.dumps(names))
    assert read_map(path) == names


@quick
@given(
    st.dictionaries(NAMES, st.text(max_size=5) | st.integers(), max_size=3),
    st.lists(NAMES, max_size=3),
    st.dictionaries(NAMES, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5), max_size=3),
)
def test_manifests(tmp_path_factory, table, exclude, options):
    assume(isinstance(options.get("targets", []), list))
    manifest = Manifest(
        "m", "h", "int8", "explicit", "tensorrt", "10.3.0", None, "1", None, tuple(exclude), table, options
    )
    path = tmp_path_factory.mktemp("manifest") / "m.json"
    save_manifest(manifest, path)
    assert load_manifest(path) == manifest


@pytest.mark.parametrize("bits", [1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF])
def test_the_extremes_of_float32(tmp_path, bits):
    path = cache_file(tmp_path, {"x": bits})
    for form in ("ort", "ort-json", "ort-text", "json", "tensorrt"):
        convert_cache(path, tmp_path / form, target=form)
        assert bits_of(tmp_path / form) == {"x": bits}
    cache = RangeCache("c", "json", {"x": TensorRange(amax_from_bits(bits))})
    assert cache.tensors["x"].is_valid
