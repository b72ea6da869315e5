"""Which weights become INT4, and that their blocks lie along the inputs."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.weight_only import plan_weight_only
from quantkit.types import block_format

from ... import rtx
from ..backbones import BACKBONES
from ..builder import Builder
from ..quantizing import load, random_inputs, run, sqnr_db


def prepared(model: onnx.ModelProto):
    return prepare(load(model), name="model", opset=21)


def test_blocks_lie_along_the_inputs():
    g = Builder()
    x = g.linear(g.input("x", 256), 256, 64)
    y = g.op("Gemm", x, g.weight(48, 64), transB=1)
    graph = prepared(g.model(y))
    first, second = plan_weight_only(graph, 128).weights
    assert (first.axis, first.format, first.index) == (0, block_format(128), 1)
    assert (second.axis, second.format) == (1, block_format(64))
    proto = ir.to_proto(insert_qdq(graph, plan_weight_only(graph, 128), {}))
    shapes = {(i.data_type, tuple(i.dims)) for i in proto.graph.initializer}
    assert {(TensorProto.INT4, (256, 64)), (TensorProto.INT4, (48, 64))} <= shapes
    assert {(TensorProto.FLOAT, (2, 64)), (TensorProto.FLOAT, (48, 1))} <= shapes


def test_what_stays_in_float():
    g = Builder()
    tokens = g.input("x", 200)
    table = g.weight(64, 64)
    a = g.op("MatMul", g.op("MatMul", tokens, g.weight(200, 64)), table)
    b = g.op("MatMul", a, g.weight(64, 4))
    embedded = g.op("Gather", table, g.op("ArgMax", b, axis=1, keepdims=0))
    graph = prepared(g.model(embedded))
    found = plan_weight_only(graph, 128)
    assert found.weights == ()
    assert sorted(reason.partition(":")[0] for reason in found.skipped.values()) == [
        "its 200 inputs do not divide into blocks of 64 or 128",
        "its weight has fewer than 16 inputs or outputs",
        "its weight is also read by Gather, in float",
    ]


def test_one_weight_of_two_products_is_stored_once():
    g = Builder()
    weight = g.weight(64, 64)
    y = g.op("MatMul", g.op("Relu", g.op("MatMul", g.input("x", 64), weight)), weight)
    graph = prepared(g.model(y))
    plan = plan_weight_only(graph, 64)
    assert len(plan.weights) == 2
    insert_qdq(graph, plan, {})
    kinds = [value.dtype.name for value in graph.graph.initializers.values()]
    assert kinds.count("INT4") == 1


@pytest.mark.parametrize("block", [64, 128])
def test_the_output_is_that_of_the_weights_that_are_stored(block):
    model = BACKBONES["bert"]()
    graph = prepared(model)
    plan = plan_weight_only(graph, block)
    inputs = random_inputs(load(model))
    reference = run(model, inputs)
    got = run(insert_qdq(graph, plan, {}), inputs)
    for name, value in reference.items():
        assert sqnr_db(value, got[name]) > 10


@pytest.mark.parametrize("name", ["vit", pytest.param("bert", marks=pytest.mark.slow)])
def test_tensorrt_reads_int4(name):
    graph = prepared(BACKBONES[name]())
    plan = plan_weight_only(graph, 128)
    assert plan.weights
    insert_qdq(graph, plan, {}, fp16_scales=True)
    proto = ir.to_proto(to_fp16(graph))
    layers = rtx.read_layers(rtx.build(proto.SerializeToString(), capabilities=("SM86", "SM89", "SM120")))
    stored = {i.name for i in proto.graph.initializer if i.data_type == TensorProto.INT4}
    wanted = {node.name for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored}
    assert len(wanted) == len(plan.weights)
    assert wanted <= {node for layer in layers if "int4" in layer.inputs for node in layer.nodes}
