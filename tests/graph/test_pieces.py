"""Pieces of graphs: cut out they compute what the whole model computes, and they hold what reachability says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.passes.expose import expose
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.pieces import GraphPieces, Piece

from ..arrays import assert_close
from .builder import Builder
from .models import MODELS
from .quantizing import load, random_inputs, run


def prepared(model: onnx.ModelProto) -> ir.Model:
    return prepare(load(model), name="model")


def run_piece(
    pieces: GraphPieces, piece: Piece, outputs: Sequence[str], values: Mapping[str, np.ndarray], **options
) -> dict[str, np.ndarray]:
    model = pieces.cut(piece, outputs, dtypes={n: np.asarray(v).dtype for n, v in values.items()}, **options)
    with OnnxRuntimeRunner(model, threads=1, spinning=False) as runner:
        return runner.run({spec.name: values[spec.name] for spec in runner.inputs})


def behind_tensor(pieces: GraphPieces, tensor: str) -> Piece:
    return pieces.behind([name for name, p in pieces.positions.items() if tensor in pieces.reads(p)])


@pytest.mark.parametrize("name", MODELS)
def test_what_lies_behind_and_before_a_tensor_computes_what_the_model_computes(name: str) -> None:
    graph = prepared(MODELS[name]())
    inputs = random_inputs(graph)
    pieces = GraphPieces(graph)
    inner = [tensor for tensor in pieces.producers if tensor not in pieces.outputs]
    exposed = expose(prepared(MODELS[name]()), [*inner, *pieces.outputs])
    whole = {**inputs, **run(exposed, inputs)}
    for tensor in {inner[0], inner[len(inner) // 2], inner[-1]}:
        behind = behind_tensor(pieces, tensor)
        made = {n for position in behind.nodes for n in pieces.makes(position)}
        outputs = [n for n in pieces.outputs if n in made]
        if outputs:
            found = run_piece(pieces, behind, outputs, whole)
            for output in outputs:
                assert_close(found[output], whole[output], rel=1e-4, abs=1e-4)
        before = pieces.between(inputs, [tensor])
        assert_close(run_piece(pieces, before, [tensor], whole)[tensor], whole[tensor], rel=1e-4, abs=1e-4)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Random graphs of additions: node i makes t<i> of two tensors before it."""
    count = draw(st.integers(1, 12))
    names = ["x", "y"]
    nodes = []
    for i in range(count):
        read = [draw(st.sampled_from(names)) for _ in range(2)]
        nodes.append(helper.make_node("Add", read, [f"t{i}"], name=f"node{i}"))
        names.append(f"t{i}")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y", names[-1])]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", values[:2], values[2:]), opset_imports=opsets, ir_version=8)


def reaches(model: onnx.ModelProto, start: str, end: str) -> bool:
    """Whether a tensor depends on another, by recursion."""
    if start == end:
        return True
    return any(reaches(model, start, read) for node in model.graph.node if end in node.output for read in node.input)


@given(graphs(), st.data())
def test_pieces_are_what_reachability_says(model: onnx.ModelProto, data: st.DataObject) -> None:
    pieces = GraphPieces(ir.from_proto(model))
    tensors = ["x", "y", *(node.output[0] for node in model.graph.node)]
    start, end = data.draw(st.sampled_from(tensors)), data.draw(st.sampled_from(tensors))
    nodes = list(model.graph.node)
    behind = [i for i, node in enumerate(nodes) if any(reaches(model, start, read) for read in node.input)]
    assert behind_tensor(pieces, start).nodes == tuple(behind)
    if start in ("x", "y"):
        return
    own = pieces.positions[pieces.name(pieces.producers[start])]
    assert pieces.behind([pieces.name(own)]).nodes == tuple(sorted({own, *behind}))
    # Known tensors cut the way back to the inputs.
    between = [i for i, node in enumerate(nodes) if reaches_without(model, node.output[0], end, start)]
    assert pieces.between(["x", "y", start], [end]).nodes == tuple(between)


def reaches_without(model: onnx.ModelProto, start: str, end: str, avoided: str) -> bool:
    """As `reaches`, on paths that do not touch a tensor."""
    if end == avoided or start == avoided:
        return False
    if start == end:
        return True
    nodes = [node for node in model.graph.node if end in node.output]
    return any(reaches_without(model, start, read, avoided) for node in nodes for read in node.input)


@given(graphs(), st.lists(st.integers(0, 9), min_size=14, max_size=14))
def test_peak_bytes_is_the_largest_sum_of_what_is_still_read(model: onnx.ModelProto, numbers: list[int]) -> None:
    pieces = GraphPieces(ir.from_proto(model))
    nodes = list(model.graph.node)
    sizes = dict(zip(["x", "y", *(node.output[0] for node in nodes)], numbers, strict=False))
    born = {"x": -1, "y": -1, **{node.output[0]: i for i, node in enumerate(nodes)}}
    dies = {t: max([i for i, node in enumerate(nodes) if t in node.input], default=len(nodes)) for t in born}
    at_once = [sum(sizes[t] for t in born if born[t] <= i <= dies[t]) for i in range(len(nodes))]
    assert pieces.peak_bytes(sizes) == max([*at_once, sizes["x"] + sizes["y"]])


def test_one_reader_of_a_tensor_gets_another_input() -> None:
    g = Builder()
    x = g.input("x", 4)
    y = g.op("Relu", x, name="relu")
    model = g.model(g.op("Add", y, y, name="sum"), g.op("Neg", y, name="other"))
    pieces = GraphPieces(prepared(model))
    values = {y: np.full((1, 4), 2, np.float32), "changed": np.full((1, 4), 5, np.float32)}
    piece = behind_tensor(pieces, y)
    found = run_piece(pieces, piece, pieces.outputs, values, replaced={("sum", 1): "changed"})
    assert found["sum_out"].tolist() == [[7] * 4]
    assert found["other_out"].tolist() == [[-2] * 4]


def test_an_input_that_the_node_did_not_have_is_added() -> None:
    g = Builder()
    layer = g.conv(g.input("x", 3, 4, 4), 3, 2, 1, bias=False, name="conv")
    pieces = GraphPieces(prepared(g.model(layer)))
    values = {"x": np.zeros((1, 3, 4, 4), np.float32), "bias": np.array([1, -1], np.float32)}
    found = run_piece(pieces, behind_tensor(pieces, "x"), [layer], values, replaced={("conv", 2): "bias"})
    assert found[layer][0, :, 0, 0].tolist() == [1, -1]


def test_a_branch_reads_outer_tensors() -> None:
    pieces = GraphPieces(prepared(MODELS["subgraph"]()))
    branch = next(p for p in pieces.positions.values() if "choose" in pieces.reads(p))
    outer = [name for name in pieces.reads(branch) if name != "choose"]
    assert len(outer) == 1
    assert branch in behind_tensor(pieces, outer[0]).nodes
    assert pieces.last_use[outer[0]] >= branch
