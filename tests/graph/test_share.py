"""What part of a model is INT8, counted with all that multiplies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import quantkit
from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.qdq_lint import planned_operators
from quantkit.graph.share import ShareOfModel, find_products, quantized_share
from quantkit.notices import Notice
from quantkit.types import CalibrationTable, TensorRange

from .builder import Builder


def share_of(proto: onnx.ModelProto) -> ShareOfModel:
    graph = FloatModel(proto.SerializeToString()).prepared()
    share = quantized_share(graph, plan_tensorrt(graph))
    weighted = [operator for operator in planned_operators(graph) if operator.is_weighted]
    assert len(weighted) == share.num_products
    assert sum(operator.is_quantized for operator in weighted) == share.num_quantized
    return share


def work_of(proto: onnx.ModelProto) -> dict[str, int | None]:
    products = find_products(FloatModel(proto.SerializeToString()).prepared())
    return {product.op_type: product.work for product in products}


def recurrent(op_type: str, gates: int) -> onnx.ModelProto:
    """8 features to a state of 4 over 5 steps, and a MatMul behind."""
    g = Builder(batch=5)
    y = g.op(op_type, g.input("x", 1, 8), g.weight(1, gates * 4, 8), g.weight(1, gates * 4, 4), hidden_size=4)
    return g.model(g.op("MatMul", y, g.weight(4, 2)))


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_count(op_type: str, gates: int) -> None:
    proto = recurrent(op_type, gates)
    weights, work = gates * 4 * 12, {op_type: 5 * gates * 4 * 12, "MatMul": 5 * 4 * 2}
    assert work_of(proto) == work
    share = share_of(proto)
    assert (share.num_quantized, share.num_products) == (1, 2)
    assert share.of_weights == pytest.approx(8 / (weights + 8))
    assert share.of_work == pytest.approx(40 / sum(work.values()))


def test_embeddings_and_biases_are_weights_too() -> None:
    g = Builder()
    ids = g.input("ids", 6, dtype=np.int64)
    y = g.linear(g.op("Gather", g.weight(100, 8), ids), 8, 4)
    assert share_of(g.model(y)) == ShareOfModel(1, 1, 32 / (800 + 32 + 4), 1.0)


@pytest.mark.parametrize("opset", [23])
def test_attention_counts(opset: int) -> None:
    g = Builder(opset=opset)
    q, k, v = (g.linear(x, 8, 8) for x in (g.input("x", 6, 8), g.input("y", 5, 8), "y"))
    proto = g.model(g.op("Attention", q, k, v, q_num_heads=2, kv_num_heads=2))
    assert work_of(proto)["Attention"] == 2 * 6 * 5 * 8
    assert (share_of(proto).num_quantized, share_of(proto).num_products) == (3, 4)


def test_einsum_of_any_kind_counts() -> None:
    g = Builder()
    y = g.op("Einsum", g.input("x", 5, 8), g.input("y", 5, 8), equation="bnd,bnd->bn")
    proto = g.model(g.op("MatMul", g.op("Reshape", y, g.constant(np.array([-1, 5]))), g.weight(5, 2)))
    assert work_of(proto)["Einsum"] == 5 * 8
    assert (share_of(proto).num_quantized, share_of(proto).num_products) == (1, 2)


def test_sub_graphs_count() -> None:
    g = Builder()
    x = g.input("x", 3, 6, 6)
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "inner")

    def branch(name: str) -> onnx.GraphProto:
        conv = helper.make_node("Conv", ["x", "inner"], [name], name=f"conv {name}")
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([conv], name, [], [result], [weight])

    condition = g.op("Greater", g.op("ReduceMean", x, keepdims=0), g.constant(0.0))
    y = g.op("If", condition, then_branch=branch("a"), else_branch=branch("b"))
    share = share_of(g.model(y, g.conv(x, 3, 4, bias=False)))
    assert (share.num_quantized, share.num_products) == (1, 3)
    assert share.of_weights == pytest.approx(108 / (108 + 12 + 12 + 1))


def test_work_that_nobody_knows_is_not_guessed() -> None:
    g = Builder(batch=2)
    y = g.op("Reshape", g.input("x", 8), g.input("shape", dtype=np.int64))
    share = share_of(g.model(g.op("MatMul", y, g.weight(8, 4))))
    assert (share.num_products, share.of_work) == (1, None)


def test_what_stays_in_fp32_is_named_where_fp16_would_shrink_the_file(tmp_path: Path) -> None:
    g = Builder()
    embedded = g.op("Gather", g.constant(np.ones((8000, 64), np.float32), "table"), g.input("ids", 4, dtype=np.int64))
    (tmp_path / "net.onnx").write_bytes(g.model(g.linear(embedded, 64, 64)).SerializeToString())
    model = FloatModel(tmp_path / "net.onnx")
    ranges = {edge.tensor: TensorRange(1.0, -1.0, 1.0) for edge in plan_tensorrt(model.prepared()).activations}
    table = CalibrationTable(ranges, model_hash=model.hash, dataset_fingerprint="", num_samples=8, settings={})

    def said(**options) -> list[str]:
        notices: list[Notice] = []
        quantkit.quantize(model, table, tmp_path / "int8.onnx", notify=notices.append, **options)
        return [notice.text for notice in notices if notice.topic == "weights"]

    (text,) = said()
    words = "2.0 of 2.1 MB are FP32 weights: quantize --high-precision fp16 halves them: table of Gather (2.0 MB)"
    assert text.startswith(words)
    assert said(high_precision="fp16") == []
