"""Layers of engines, from real inspector files of NVIDIA's and from small ones in both top-level forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayer, EngineLayers, find_nodes
from quantkit.backends.tensorrt.inspection.engine_reader import read_engine
from quantkit.backends.tensorrt.inspection.inspector import join_profile, parse_inspector, precision_from_text
from quantkit.errors import BackendError, QuantKitError

A100 = "pytorch__resnet__A100__"

REAL = {
    # file → weighted layers, INT8 among them, reformats, sum of the layers' times in ms as NVIDIA's profile has it
    f"{A100}fp32__resnet.onnx": (21, 0, 1, 2.124),
    f"{A100}fp16__resnet.onnx": (21, 0, 2, 1.017),
    f"{A100}qat__resnet-qat.onnx": (21, 21, 12, 1.096),
    f"{A100}qat-residual__resnet-qat-residual.onnx": (21, 21, 3, 0.731),
    f"{A100}qat-residual-qgap__resnet-qat-residual-qgap.onnx": (21, 21, 1, 0.673),
    "tensorflow__resnet__RTX-3090__qat__resnet-qat.onnx": (54, 54, 2, 2.381),
}


def real(shared: Path, name: str) -> EngineLayers:
    folder = shared / "tensorrt" / "inspector"
    engine_layers = parse_inspector((folder / f"{name}.engine.graph.json").read_bytes())
    return join_profile(engine_layers, (folder / f"{name}.engine.profile.json").read_bytes())


def tensor(name: str, kind: str, *, split: bool = False) -> dict:
    if split:
        return {"Name": name, "Dimensions": [1, 32, 8, 8], "Format": "kCHW32", "DataType": kind}
    return {"Name": name, "Dimensions": [1, 32, 8, 8], "Format/Datatype": kind}


def layer(name: str, kind: str, inputs: list[str], output: str, *, split: bool = False, **more: object) -> dict:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(f"{name}_in{i}", k, split=split) for i, k in enumerate(inputs)],
        "Outputs": [tensor(f"{name}_out", output, split=split)],
        **more,
    }


def parse(*layers: object, **more: object) -> EngineLayers:
    return parse_inspector(json.dumps({"Layers": list(layers), "Bindings": ["x", "y"], **more}))


@pytest.mark.parametrize("name", list(REAL))
def test_real_inspector_files_are_read(shared: Path, name: str) -> None:
    weighted, int8, reformats, total_ms = REAL[name]
    engine_layers = real(shared, name)
    assert (engine_layers.weighted_coverage.total, engine_layers.weighted_coverage.quantized) == (weighted, int8)
    assert len(engine_layers.reformats) == reformats
    assert engine_layers.total_ms == pytest.approx(total_ms, abs=5e-4)
    assert not [note for note in engine_layers.notes if "profile" in note]
    assert {x.precision for x in engine_layers.layers} <= {"int8", "fp16", "fp32"}
    assert engine_layers.time_coverage is not None
    assert 0 <= engine_layers.time_coverage.quantized <= engine_layers.time_coverage.total
    # A kernel's own name says what it multiplies.
    for x in engine_layers.weighted:
        if "_i8" in x.tactic or "int8x4" in x.tactic:
            assert x.is_quantized, x.name
        elif "f16f16" in x.tactic or "f32f32" in x.tactic:
            assert not x.is_quantized, x.name


def test_residual_resnet_layer_by_layer(shared: Path) -> None:
    engine_layers = real(shared, f"{A100}qat-residual__resnet-qat-residual.onnx")
    stays_int8 = [x for x in engine_layers.weighted if x.conversion == "int8 → int8" and x.kind == "CaskConvolution"]
    assert len(stays_int8) == 18
    assert sorted(x.conversion for x in engine_layers.reformats) == ["fp32 → int8", "fp32 → int8", "int8 → fp32"]
    names = {x.name: x.onnx_nodes for x in engine_layers.layers}
    fused = "layer1.0.conv2.weight + QuantizeLinear_32 + Conv_34 + Add_42 + Relu_43"
    assert names[fused] == ("QuantizeLinear_32", "Conv_34", "Add_42", "Relu_43")
    assert ("QuantizeLinear_303", "Gemm_305") in names.values()
    assert [f.layer.onnx_nodes for f in engine_layers.left_in_float] == [("GlobalAveragePool_294",)]
    assert engine_layers.reformat_ms == pytest.approx(0.095232 + 0.013312 + 0.007168, abs=1e-6)
    assert engine_layers.memory_bytes["weights"] > 11_000_000


def test_reasons_name_what_has_no_int8(shared: Path) -> None:
    engine_layers = real(shared, "tensorflow__resnet__RTX-3090__qat__resnet-qat.onnx")
    reasons = {f.layer.kind: f.reason for f in engine_layers.left_in_float}
    assert "softmax" in reasons["CudaSoftMax"]
    floats = real(shared, f"{A100}fp16__resnet.onnx").left_in_float
    assert {f.reason for f in floats} == {
        "no layer of this engine is quantized: likely built without Q/DQ and without calibration"
    }


@pytest.mark.parametrize("split", [False, True])
def test_both_inspector_formats_are_read(split: bool) -> None:
    words = ("Int8", "Half", "Float") if split else ("Row major Int8 format", "Half", "Row major linear FP32")
    layers = [
        layer("q", "Reformat", [words[2]], words[0], split=split, Origin="QDQ"),
        layer("conv", "CaskConvolution", [words[0]], words[1], split=split, Weights={"Type": "Int8", "Count": 9}),
        layer("pool", "CaskPooling", [words[1]], words[1], split=split),
        layer("nothing", "NoOp", [words[1]], words[1], split=split),
    ]
    key = {"I/O Tensors": [{"Name": "x"}]} if split else {"Bindings": ["x"]}
    engine_layers = parse_inspector(json.dumps({"Layers": layers, **key}))
    assert [x.precision for x in engine_layers.layers] == ["fp32", "int8", "fp16", "fp16"]
    assert (engine_layers.layer_coverage.quantized, engine_layers.layer_coverage.total) == (1, 3)
    assert engine_layers.weighted_coverage.fraction == 1
    assert engine_layers.time_coverage is None
    assert engine_layers.layers[1].inputs[0].shape == (1, 32, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "weights", "is_quantized", "reason"),
    [
        (["Int8"], "Int8", True, ""),
        (["Int8", "Half"], "Int8", True, ""),  # the second input is a skip connection
        (["Half"], "Int8", False, "only its weight"),
        (["Int8"], "Half", False, "its weight has no Q/DQ"),
        (["Half"], "Half", False, "no Q/DQ on its inputs"),
    ],
)
def test_a_convolution_is_int8_only_with_both_operands(inputs, weights, is_quantized, reason) -> None:
    other = layer("other", "CaskConvolution", ["Int8"], "Int8", Weights={"Type": "Int8", "Count": 1})
    engine_layers = parse(layer("c", "CaskConvolution", inputs, "Half", Weights={"Type": weights, "Count": 1}), other)
    assert engine_layers.layers[0].is_quantized == is_quantized
    reasons = [f.reason for f in engine_layers.left_in_float]
    assert reasons == [] if is_quantized else reason in reasons[0]
    assert all("likely" in r for r in reasons)


@pytest.mark.parametrize(("weights", "reason"), [("FP8", ""), ("Half", "its weight has no Q/DQ")])
def test_a_convolution_of_fp8_has_the_same_reasons(weights, reason) -> None:
    other = layer("other", "CaskConvolution", ["FP8"], "FP8", Weights={"Type": "FP8", "Count": 1})
    engine_layers = parse(layer("c", "CaskConvolution", ["FP8"], "Half", Weights={"Type": weights, "Count": 1}), other)
    assert engine_layers.layers[0].is_quantized == (not reason)
    assert reason in "".join(f.reason for f in engine_layers.left_in_float)


@pytest.mark.parametrize(
    ("name", "inputs", "is_quantized"),
    [
        ("fc_myl0_1", ["Int8", "Int8", "Float"], True),
        ("fc_myl0_1", ["Half", "Int8"], False),
        ("_gemm_mha_v2_myl0_2", ["Int8", "Int8", "Int8"], True),
        ("_gemm_mha_v2_myl0_2", ["Int8", "Int8", "Half"], False),
        ("_gemm_mha_v2_myl0_2", ["Int8", "Int8", "Bool", "Bool", "Int8"], True),  # masks
        ("_gemm_mha_v2_myl0_2", ["Int8", "Int8", "Half", "Int8"], True),
        ("_gemm_mha_v2_myl0_2", ["Half", "Half", "Bool", "Half"], False),
    ],
)
def test_myelin_matrix_products_are_found(name, inputs, is_quantized) -> None:
    kind = "kgen" if "mha" in name else "gemm"
    engine_layers = parse(layer(name, kind, inputs, "Half"))
    assert engine_layers.layers[0].is_weighted
    assert engine_layers.layers[0].is_quantized == is_quantized


def test_int4_weights_are_meant_to_be_multiplied_in_float() -> None:
    product = layer("fc_myl0_2", "gemm", ["Half", "Half"], "Half")
    product["Inputs"][1]["Name"] = "dq_out"
    stored = layer("c", "CaskConvolution", ["Half"], "Half", Weights={"Type": "Int4", "Count": 1})
    engine_layers = parse(layer("dq", "kgen", ["Int4", "Half"], "Half"), product, stored)
    assert [x.int4_weights for x in engine_layers.layers] == [("dq_in0",), (), ("c",)]
    reason = "intended: its weight is INT4, which is converted to float to be multiplied"
    assert [f.reason for f in engine_layers.left_in_float] == [reason] * 3


def test_pointwise_kernels_compute_in_their_widest_float() -> None:
    engine_layers = parse(layer("__myl_CastMulAdd_myl0_1", "kgen", ["Int8", "Half", "Float"], "Int8"))
    assert engine_layers.layers[0].precision == "fp32"
    assert not engine_layers.layers[0].is_reformat
    quantizes = parse(layer("__myl_MulMinMaxRounCast_myl0_1", "kgen", ["Half"], "Int8"))
    assert quantizes.layers[0].is_reformat


def test_names_without_details_name_the_remedy() -> None:
    engine_layers = parse("conv.weight + QuantizeLinear_1 + Conv_2", "Relu_3")
    assert not engine_layers.has_details
    assert "DETAILED" in engine_layers.notes[0]
    assert engine_layers.layers[0].onnx_nodes == ("QuantizeLinear_1", "Conv_2")
    assert engine_layers.weighted_coverage.fraction is None
    assert engine_layers.left_in_float == ()
    timed = join_profile(engine_layers, {"Relu_3": 0.5})
    assert timed.total_ms == 0.5


@pytest.mark.parametrize(
    ("name", "metadata", "nodes"),
    [
        ("a", "[ONNX Layer: x]\x1f[ONNX Layer: y]\x1e[ONNX Layer: x]", ("x", "y")),
        ("a", "[ONNX Layer: x[0]][ONNX Layer: y]", ("x[0]", "y")),
        ("Conv_0 + Relu_1", "", ("Conv_0", "Relu_1")),
        ("PWN(PWN(Sigmoid_1), Mul_2)", "", ("Sigmoid_1", "Mul_2")),
        ("Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1", "", ("Conv_0", "Relu_1")),
        ("{ForeignNode[a.bias...Add_9]}", "", ("a.bias", "Add_9")),
        ("Conv_1 || Conv_2", "", ("Conv_1", "Conv_2")),
        ("(Unnamed Layer* 3) [Shuffle]", "", ()),
        ("", "", ()),
    ],
)
def test_layers_are_mapped_to_nodes(name, metadata, nodes) -> None:
    assert find_nodes(name, metadata) == nodes


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("BFloat16", "bf16"),
        ("UInt8", "uint8"),
        ("FP8", "fp8"),
        ("Float", "fp32"),
        ("", "unknown"),
    ],
)
def test_precision_is_read_from_text(text, precision) -> None:
    assert precision_from_text(text) == precision


def test_profile_with_a_name_twice_and_names_of_neither() -> None:
    engine_layers = parse(*(layer(n, "CaskPooling", ["Half"], "Half") for n in ("a", "b", "a", "c")))
    profile = [{"count": 4}, *({"name": n, "timeMs": t} for n, t in [("a", 4), ("b", 8), ("a", 12), ("z", 16)])]
    timed = join_profile(engine_layers, json.dumps(profile))
    assert [x.time_ms for x in timed.layers] == [1, 2, 3, None]
    assert any("1 layers of the profile (4 ms)" in note for note in timed.notes)
    assert any("1 layers are not in the profile" in note for note in timed.notes)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ('[{"count": 1}, {"name": "other", "averageMs": 1}]', "no layers in common"),
        ('[{"count": 1}]', "lists no layer"),
        ('{"a": 1}', "a list"),
        ('[{"name": "a", "averageMs": "x"}]', "no time"),
        ('[{"name": "a", "averageMs": NaN}]', "no time"),
        ("[", "not JSON"),
    ],
)
def test_invalid_profiles_are_refused(profile, said) -> None:
    with pytest.raises(BackendError, match=said):
        join_profile(parse(layer("a", "NoOp", [], "Half")), profile, name="profile.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{}", "no list named Layers"), ('{"Layers": []}', "NONE"), ('{"Layers": [1]}', "neither"), ("x", "not JSON")],
)
def test_invalid_inspector_files_are_refused(text, said) -> None:
    with pytest.raises(BackendError, match=said):
        parse_inspector(text, name="layers.json")


def test_myelin_regions_are_unknown() -> None:
    engine_layers = parse(layer("{ForeignNode[a...b]}", "Myelin", ["Half"], "Half"))
    assert "does not show" in engine_layers.left_in_float[0].reason
    assert not engine_layers.weighted


def test_unreadable_engine_names_the_remedy() -> None:
    with pytest.raises(BackendError, match="exportLayerInfo") as error:
        read_engine(b"vtrt" + bytes(100), name="x.engine")
    assert "\n" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
keys = st.sampled_from(
    ["Name", "LayerType", "Inputs", "Outputs", "Format/Datatype", "Weights", "Metadata", "Dimensions", "TacticName"]
)
layer_like = st.dictionaries(keys, json_values | st.lists(st.dictionaries(keys, json_values)), max_size=6)


@given(st.lists(layer_like | st.text(), min_size=1, max_size=5), json_values)
def test_any_layers_are_read_or_refused_in_one_line(layers, profile) -> None:
    said = ""
    try:
        engine_layers = parse_inspector(json.dumps({"Layers": layers, "Bindings": []}))
        assert isinstance(engine_layers.layers[0], EngineLayer)
        assert 0 <= (engine_layers.weighted_coverage.fraction or 0) <= 1
        assert all(f.reason for f in engine_layers.left_in_float)
        join_profile(engine_layers, json.dumps(profile))
    except QuantKitError as error:
        said = str(error)
    assert "\n" not in said


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_read_or_refused(content) -> None:
    for read in (parse_inspector, lambda c: read_engine(c, name="x.engine")):
        said = ""
        try:
            read(content)
        except QuantKitError as error:
            said = str(error)
        assert "\n" not in said
