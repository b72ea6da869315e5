"""What the reader of plans says agrees with what TensorRT-RTX built, by an independent reader of the tests."""

from __future__ import annotations

import functools

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayers
from quantkit.backends.tensorrt.inspection.engine_reader import read_engine
from quantkit.backends.tensorrt.inspection.rtx_plan import read_plan

from .... import rtx
from ....graph.models import MODELS
from ....graph.quantizing import quantized


@functools.cache
def plan_of(name: str, precision: str = "int8") -> bytes:
    model = quantized(name).proto if precision == "int8" else MODELS[name]()
    return rtx.build(model.SerializeToString())


def engine_layers_of(plan: bytes) -> EngineLayers:
    engine_layers = read_plan(plan)
    assert engine_layers is not None
    return engine_layers


@pytest.mark.parametrize("name", ["residual_identity", "mlp_gelu", "attention", "depthwise"])
def test_coverage_equals_the_plan(name: str) -> None:
    plan = plan_of(name)
    engine_layers = engine_layers_of(plan)
    weighted = [n.name for n in quantized(name).graph.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
    expected = rtx.int8_nodes(rtx.read_layers(plan), weighted)
    assert expected == set(weighted)
    assert {n for x in engine_layers.weighted if x.is_quantized for n in x.onnx_nodes if n in weighted} == expected
    assert engine_layers.weighted_coverage.fraction == 1


def test_a_float_model_has_no_int8() -> None:
    engine_layers = engine_layers_of(plan_of("conv_relu", "fp32"))
    assert engine_layers.weighted_coverage.quantized == 0
    assert engine_layers.weighted_coverage.total == 2
    assert all("built without Q/DQ" in f.reason for f in engine_layers.left_in_float)


def test_one_operator_that_was_excluded_is_found() -> None:
    from ....graph.quantizing import quantize

    model = MODELS["conv_relu"]()
    first, second = (n.name for n in model.graph.node if n.op_type == "Conv")
    engine_layers = engine_layers_of(rtx.build(quantize(model, exclude=(first,)).proto.SerializeToString()))
    assert (engine_layers.weighted_coverage.quantized, engine_layers.weighted_coverage.total) == (1, 2)
    by_node = {n: x for x in engine_layers.weighted for n in x.onnx_nodes}
    assert by_node[second].is_quantized
    floats = [f for f in engine_layers.left_in_float if f.layer.is_weighted]
    assert [first in f.layer.onnx_nodes for f in floats] == [True]
    assert "likely: no Q/DQ on its inputs" in floats[0].reason


def test_plan_lists_targets_version_and_memory() -> None:
    plan = plan_of("conv_relu")
    engine_layers = engine_layers_of(plan)
    assert engine_layers.targets == ("sm86", "sm89", "sm120")
    assert engine_layers.source.startswith("TensorRT-RTX 1.")
    assert engine_layers.memory_bytes["file"] == len(plan)
    weights = quantized("conv_relu").proto.graph.initializer
    stored = sum(len(i.raw_data) for i in weights if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4)
    assert engine_layers.memory_bytes["weights"] >= stored
    assert engine_layers.memory_bytes["activations"] > 0
    assert "undocumented" in engine_layers.notes[0]
    assert engine_layers.time_coverage is None
    assert [x.conversion for x in engine_layers.reformats][:1] == ["fp32 → int8"]
    assert all(t.shape for x in engine_layers.weighted for t in x.inputs)


def test_read_engine_falls_back_to_the_text() -> None:
    plan = plan_of("conv_relu")
    assert read_engine(plan, name="x.engine").weighted_coverage == engine_layers_of(plan).weighted_coverage
    header = b'{"names": {"0": "zero"}}'
    wrapped = len(header).to_bytes(4, "little") + header + plan
    assert read_engine(wrapped, name="x.engine").targets == engine_layers_of(plan).targets


@given(st.data())
def test_damaged_plans_are_read_or_unknown(data) -> None:
    plan = bytearray(plan_of("conv_relu"))
    main = plan.find(b"\nmain {\n")
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(max(main - 3000, 0), main + 3000))
        piece = data.draw(st.binary(max_size=30) | st.sampled_from([b"}", b'"', b"{ ", b"\n}\n", b"\nmain {\n"]))
        plan[start : start + data.draw(st.integers(0, 40))] = piece
    engine_layers = read_plan(bytes(plan))
    assert engine_layers is None or engine_layers.layers


@given(st.binary(max_size=300))
def test_other_content_is_unknown(content) -> None:
    assert read_plan(content) is None
    assert read_plan(b"vtrt" + content) is None or b"main {" in content
